"""Give a label map other values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.ops.layout import memory_axes


def relabelled(array: NDArray[Any], values: Mapping[int, int], kind: np.dtype[Any]) -> NDArray[Any]:
    """Replace values by others; those that are not named become 0.

    Parameters
    ----------
    array
        (I, J, K), unsigned integers. What comes of one that lies in a file goes into a temporary file.
    values
        New values by old ones.
    kind
        Type of the result.

    Examples
    --------
    >>> relabelled(np.array([[[0, 1, 2]]], np.uint8), {2: 300}, np.dtype(np.uint16)).tolist()
    [[[0, 0, 300]]]
    """
    table = np.zeros(int(np.iinfo(array.dtype).max) + 1, dtype=kind)
    for old, new in values.items():
        table[old] = new
    if not is_mapped(array):
        found: NDArray[Any] = table[array]
        return found
    found = like_on_disk(array, kind)
    axes = memory_axes(array)
    for new_plane, old_plane in zip(found.transpose(axes), array.transpose(axes), strict=True):
        new_plane[...] = table[old_plane]
        release_pages(array)
        release_pages(found)
    return found


def copied(array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return a copy that may be changed, of another type or the same.

    It is in memory, or in a temporary file where the array lies in a file as well.
    """
    if not is_mapped(array):
        return array.astype(kind, order="K")
    axes, copy = memory_axes(array), like_on_disk(array, kind)
    for from_plane, to_plane in zip(array.transpose(axes), copy.transpose(axes), strict=True):
        to_plane[...] = from_plane
        release_pages(array)
        release_pages(copy)
    return copy


def like_on_disk(array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of zeros in a temporary file, of the shape of another one and along memory like it."""
    axes = memory_axes(array)
    made = zeros_on_disk(tuple(array.shape[axis] for axis in axes[::-1]), kind).T
    return made.transpose(np.argsort(axes))
