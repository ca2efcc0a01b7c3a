"""Clean up a segmentation by its connected components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.config import CleanStep
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.ops.boxes import Box, boxes_of, grow, join, label_boxes
from voxmetry.ops.layout import memory_axes

Mask: TypeAlias = NDArray[np.bool_]


def clean(segmentation: Segmentation, steps: Sequence[CleanStep]) -> Segmentation:
    """Apply a post-processing, step after step.

    Parameters
    ----------
    segmentation
        The label map; it is not changed.
    steps
        What to do. 'largest' and 'drop_small' look at 26-connected components of a structure, or with `together` of
        the union of the named structures. 'fill_holes' gives background that a structure encloses (it is not
        6-connected to the outside of the structure) to the structure; voxels of other structures stay what they are.
        With `together` a hole is enclosed by the union and goes to the structure that has most voxels on its rim,
        the first in the table among equals.

    Returns
    -------
    Segmentation
        The same grid and labels, an array of its own; the label map itself where there is nothing to do.

    Raises
    ------
    LabelError
        If a step names a structure that the table does not have.

    Notes
    -----
    Of components of the same size, 'largest' keeps the one whose centroid is most inferior, then most posterior, then
    most to the left (to 0.001 mm), so that the answer does not depend on the order in which the voxels are stored.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> array = np.zeros((6, 5, 4), np.uint8)
    >>> array[1:3, 1:3, 1:3] = 1
    >>> array[5, 4, 3] = 1
    >>> grid = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), array.shape)
    >>> whole = Segmentation(array, grid, LabelTable.from_names({1: "liver"}))
    >>> int(clean(whole, [CleanStep(step="largest")]).mask("liver").sum())
    8
    """
    if not steps:
        return segmentation
    array = np.array(segmentation.array, order="K")
    for step in steps:
        names = step.labels or segmentation.labels.names
        values = [segmentation.labels[name].value for name in names]
        boxes = label_boxes(array)
        for group in [values] if step.together else [[value] for value in values]:
            present = [boxes[value] for value in group if value in boxes]
            if present:
                box = grow(join(present), segmentation.geometry.shape)
                _apply(step, array[box], group, segmentation.geometry, box)
    return Segmentation(array, segmentation.geometry, segmentation.labels)


def _apply(step: CleanStep, crop: NDArray[Any], values: list[int], geometry: Geometry, box: Box) -> None:
    """Change one crop, a view of the whole array, in place."""
    mask = crop == values[0] if len(values) == 1 else np.isin(crop, values)
    if step.step == "fill_holes":
        _fill(crop, mask, values)
        return
    numbers, sizes = components(mask, 26)
    if step.step == "largest":
        keep = sizes == sizes.max()
        if keep.sum() > 1:
            corner = np.array([part.start for part in box])
            keep = _first_in_patient(numbers, np.flatnonzero(keep) + 1, geometry, corner, len(sizes))
    else:
        keep = sizes * geometry.voxel_ml >= step.min_volume_ml
    crop[mask & ~np.append(False, keep)[numbers]] = 0


def components(mask: NDArray[Any], connectivity: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Label the connected components of a mask with numbers.

    Parameters
    ----------
    mask
        (I, J, K); a label map's values are told apart.
    connectivity
        6 (faces), 18 (edges) or 26 (corners).

    Returns
    -------
    numbers, sizes
        (I, J, K), 1 to N in each component and 0 outside the mask; (N,), voxels of component n at n - 1.
    """
    import cc3d

    numbers = cc3d.connected_components(mask, connectivity=connectivity, out_dtype=np.uint32)
    # cc3d counts in one pass; numpy's bincount would first take eight bytes a voxel.
    sizes = cc3d.statistics(numbers, no_slice_conversion=True)["voxel_counts"]
    return numbers, np.asarray(sizes[1:], np.int64)


def component_sizes(segmentation: Segmentation, connectivity: int) -> dict[int, NDArray[np.int64]]:
    """Return the voxels of each connected component of each value that is present: one pass over all values.

    Parameters
    ----------
    segmentation
        The label map. Components of two values never touch.
    connectivity
        6 (faces), 18 (edges) or 26 (corners).
    """
    boxes = boxes_of(segmentation)
    if not boxes:
        return {}
    array = segmentation.array[join(list(boxes.values()))]
    # cc3d takes no array that is read-only, as those of segmentations are.
    array = np.require(array.transpose(memory_axes(array)), requirements=["C", "W"])
    numbers, sizes = components(array, connectivity)
    value_of = np.zeros(len(sizes) + 1, array.dtype)
    for plane, values in zip(numbers, array, strict=True):
        # The first voxel of each run of one number tells which value that component is of.
        first = np.flatnonzero(np.diff(plane.ravel(), prepend=0))
        value_of[plane.ravel()[first]] = values.ravel()[first]
    return {value: sizes[value_of[1:] == value] for value in boxes}


def _first_in_patient(
    numbers: NDArray[np.uint32], ties: NDArray[np.intp], geometry: Geometry, corner: NDArray[Any], n: int
) -> Mask:
    """Choose one of several components by where it lies in the patient: a mask over all components."""

    def place(number: int) -> tuple[float, ...]:
        centroid = np.argwhere(numbers == number).mean(axis=0) + corner
        return tuple(np.round(geometry.to_mm(centroid)[::-1], 3).tolist())

    chosen = min((int(number) for number in ties), key=place)
    keep = np.zeros(n, dtype=bool)
    keep[chosen - 1] = True
    return keep


def _fill(crop: NDArray[Any], mask: Mask, values: list[int]) -> None:
    """Give enclosed background to the structure, or to the one of several that has most voxels on the hole's rim."""
    # The pad joins all that is open to the outside, also through the border of the image, into one component.
    outside = np.pad(~mask, 1, constant_values=True)
    numbers, sizes = components(outside, 6)
    if len(sizes) < 2:
        return
    inner = numbers[1:-1, 1:-1, 1:-1]
    holes = (inner != numbers[0, 0, 0]) & ~mask & (crop == 0)
    if len(values) == 1:
        crop[holes] = values[0]
        return
    for number, box in label_boxes(inner * holes).items():
        around = grow(box, (crop.shape[0], crop.shape[1], crop.shape[2]))
        hole = (inner[around] == number) & holes[around]
        part = crop[around]
        counts = [int((_rim(hole) & (part == value)).sum()) for value in values]
        part[hole] = values[int(np.argmax(counts))]


def _rim(mask: Mask) -> Mask:
    """Voxels outside the mask that share a face with it."""
    from scipy.ndimage import binary_dilation

    rim: Mask = binary_dilation(mask) & ~mask
    return rim
