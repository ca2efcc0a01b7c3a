"""Bounding boxes of the labels of a map, so that what follows works on small crops."""

from __future__ import annotations

from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from numpy.typing import NDArray

from voxmetry.core.memory import release_pages
from voxmetry.core.segmentation import Segmentation

Box: TypeAlias = tuple[slice, slice, slice]

_AT_ONCE = 1 << 25
"""Voxels that are looked at before pages of a mapped file are given back."""

_KNOWN: WeakKeyDictionary[Segmentation, dict[int, Box]] = WeakKeyDictionary()


def boxes_of(segmentation: Segmentation) -> dict[int, Box]:
    """Return `label_boxes` of a segmentation, which is looked through once however often it is asked."""
    if segmentation not in _KNOWN:
        _KNOWN[segmentation] = label_boxes(segmentation.array)
    return dict(_KNOWN[segmentation])


def label_boxes(array: NDArray[Any]) -> dict[int, Box]:
    """Return the smallest box round each value that is present, in one pass.

    Parameters
    ----------
    array
        (I, J, K), unsigned integers; 0 is background and gets no box.

    Returns
    -------
    dict
        Value -> three slices, rising by value.

    Examples
    --------
    >>> import numpy as np
    >>> array = np.zeros((4, 5, 6), np.uint8)
    >>> array[1:3, 2, 3:6] = 7
    >>> label_boxes(array)
    {7: (slice(1, 3, None), slice(2, 3, None), slice(3, 6, None))}
    """
    from scipy.ndimage import find_objects

    # find_objects walks in memory order; a transposed view of a Fortran array is walked quickest.
    flipped = array.flags.f_contiguous and not array.flags.c_contiguous
    stored = array.T if flipped else array
    thick = max(1, _AT_ONCE // max(1, stored.shape[1] * stored.shape[2]))
    boxes: dict[int, Box] = {}
    for start in range(0, len(stored), thick):
        for value, box in enumerate(find_objects(stored[start : start + thick]), start=1):
            if box is not None:
                outer = slice(box[0].start + start, box[0].stop + start)
                found = (box[2], box[1], outer) if flipped else (outer, box[1], box[2])
                boxes[value] = join([boxes[value], found]) if value in boxes else found
        release_pages(array)
    return dict(sorted(boxes.items()))


def join(boxes: list[Box]) -> Box:
    """Return the smallest box that holds all of `boxes`, of which there is at least one."""
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return (i, j, k)


def grow(box: Box, shape: tuple[int, int, int]) -> Box:
    """Return the box with one voxel more on each side, as far as the grid reaches."""
    i, j, k = (slice(max(0, part.start - 1), min(n, part.stop + 1)) for part, n in zip(box, shape, strict=True))
    return (i, j, k)
