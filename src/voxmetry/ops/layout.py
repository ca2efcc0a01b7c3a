"""Work along an array's memory: an image read from NIfTI has its first axis innermost, where numpy expects the last.

Taken in the wrong order, each voxel is fetched from memory by itself, which is ten times slower and gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import release_pages

Counts: TypeAlias = NDArray[np.int64]


def memory_axes(array: NDArray[Any]) -> tuple[int, int, int]:
    """Return the axes of an array (I, J, K) from the longest step in memory to the shortest.

    Examples
    --------
    >>> memory_axes(np.zeros((2, 3, 4))), memory_axes(np.zeros((2, 3, 4), order="F"))
    ((0, 1, 2), (2, 1, 0))
    """
    i, j, k = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    return (i, j, k)


class PlaneMask:
    """Where an array (I, J, K) has a value, a plane at a time along memory: the mask is never there as a whole.

    With `other` where it has any other value.
    """

    def __init__(self, array: NDArray[Any], value: int, *, other: bool = False) -> None:
        self.array, self.value, self._other = array, value, other

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        for plane in self.array.transpose(memory_axes(self.array)):
            yield plane != self.value if self._other else plane == self.value
        release_pages(self.array)


def _planes(mask: NDArray[np.bool_] | PlaneMask) -> tuple[tuple[int, int, int], list[int], Iterable[NDArray[np.bool_]]]:
    """Return the axes of a mask as they lie in memory, its sizes along these, and its planes."""
    array = mask.array if isinstance(mask, PlaneMask) else mask
    axes = memory_axes(array)
    planes = mask if isinstance(mask, PlaneMask) else mask.transpose(axes)
    return axes, [array.shape[axis] for axis in axes], planes


def values_of(array: NDArray[Any], labels: NDArray[Any], value: int) -> Iterator[NDArray[Any]]:
    """Yield the voxels of an array (I, J, K) where a label map has a value, plane by plane along memory, (n,) each."""
    axes = memory_axes(array)
    for plane, own in zip(array.transpose(axes), labels.transpose(axes), strict=True):
        yield plane[own == value]
    release_pages(array)
    release_pages(labels)


def values_in(array: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the values of the voxels of a mask of the same shape, in the order in which they lie in memory, (N,)."""
    axes = memory_axes(array)
    return array.transpose(axes)[mask.transpose(axes)]


def sections(mask: NDArray[np.bool_] | PlaneMask) -> tuple[Counts, Counts, Counts]:
    """Count the voxels of a mask (I, J, K) in each slice across each of its axes: arrays (I,), (J,) and (K,).

    Examples
    --------
    >>> mask = np.zeros((2, 3, 4), bool)
    >>> mask[1, 1:, 2:] = True
    >>> [counts.tolist() for counts in sections(mask)]
    [[0, 4], [0, 2, 2], [0, 0, 2, 2]]
    """
    axes, sizes, planes = _planes(mask)
    outer = np.zeros(sizes[0], np.int64)
    face, few = np.zeros(sizes[1:], np.int64), np.zeros(sizes[1:], np.uint8)
    for index, plane in enumerate(planes):
        outer[index] = np.count_nonzero(plane)
        # As many planes at once as an eight-bit sum can hold: the processor then adds dozens of voxels at a time.
        few += plane.view(np.uint8)
        if index % 255 == 254:
            face += few
            few[...] = 0
    face += few
    by_axis = dict(zip(axes, (outer, face.sum(axis=1), face.sum(axis=0)), strict=True))
    return (by_axis[0], by_axis[1], by_axis[2])


def line_ends(mask: NDArray[np.bool_] | PlaneMask) -> NDArray[np.intp]:
    """Return voxels of a mask (I, J, K) among which any linear function has its largest and its smallest, (N, 3).

    They are those that are the first or the last of the mask on their line along the axis of the longest step in
    memory, and among these on their line along the one of the shortest.

    Examples
    --------
    >>> line_ends(np.ones((2, 3, 4), bool)).tolist()[:4]
    [[0, 0, 0], [0, 0, 3], [0, 1, 0], [0, 1, 3]]
    """
    axes, sizes, planes = _planes(mask)
    n = sizes[0]
    # 1 + index of the last plane, and n - index of the first: both the largest number, and 0 where there is none.
    last, first = np.zeros((2, *sizes[1:]), np.int32)
    for index, plane in enumerate(planes):
        np.maximum(last, plane * np.int32(index + 1), out=last)
        np.maximum(first, plane * np.int32(n - index), out=first)
    rows, columns = np.nonzero(last)
    ends = np.concatenate([n - first[rows, columns], last[rows, columns] - 1])
    flat = (ends.astype(np.int64) * sizes[1] + np.tile(rows, 2)) * sizes[2] + np.tile(columns, 2)
    flat.sort()
    # Of each row along the innermost axis only the two outermost are needed.
    change = np.diff(flat // sizes[2], prepend=-1, append=-1) != 0
    outermost = flat[change[:-1] | change[1:]]
    found = np.empty((len(outermost), 3), np.intp)
    found[:, axes] = np.column_stack(np.unravel_index(outermost, sizes))
    return found
