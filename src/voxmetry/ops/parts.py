"""Connected components of an array of any size, found slab by slab: what is held does not grow with the array.

A slab's own components are numbered, and joined with those that touch them in the slab before. Numbers, sizes and
places are those of the array as a whole, whatever the slabs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import release_pages
from voxmetry.ops.layout import memory_axes

SLAB_VOXELS = 1 << 25
"""Voxels that are looked at together: their numbers take 134 MB."""

Select: TypeAlias = Callable[[NDArray[Any]], NDArray[Any]]
"""Says what of a slab is looked at: a mask, or a label map whose values are told apart."""

_TOUCHING = {
    6: ((0, 0),),
    18: ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)),
    26: tuple(itertools.product((-1, 0, 1), repeat=2)),
}
"""Steps within a plane from a voxel to those that touch it in the next plane."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The connected components of an array (I, J, K), numbered from 1 in the order in which they lie in memory.

    Component n is at place n - 1 of each field.

    Parameters
    ----------
    array
        What was looked through. It may be changed slab by slab while `slabs` goes along.
    sizes
        (N,), voxels.
    values
        (N,), what each component's voxels are in the selection.
    boxes
        (N, 3, 2), first index along i, j, k and the one behind the last.
    sums
        (N, 3), sums of the voxels' indices.
    seeds
        (N, 3), a voxel of each.
    """

    array: NDArray[Any]
    sizes: NDArray[np.int64]
    values: NDArray[Any]
    boxes: NDArray[np.int64]
    sums: NDArray[np.int64]
    seeds: NDArray[np.int64]
    _select: Select
    _connectivity: int
    _cuts: Sequence[tuple[int, int]]
    """First plane of each slab, and the one behind its last."""
    _tables: Sequence[NDArray[np.uint32]]
    """Numbers by those of each slab."""
    _held: NDArray[np.uint32] | None
    """Of a single slab."""

    def __len__(self) -> int:
        return len(self.sizes)

    def slabs(self) -> Iterator[tuple[tuple[slice, slice, slice], NDArray[np.uint32]]]:
        """Go along the array: where each slab lies, and the numbers in it, 0 outside of all components."""
        axes = memory_axes(self.array)
        back = np.argsort(axes).tolist()
        stored = self.array.transpose(axes)
        for (start, stop), table in zip(self._cuts, self._tables, strict=True):
            numbers = self._held
            if numbers is None:
                numbers = table[numbered(self._select(stored[start:stop]), self._connectivity)]
            box = [slice(0, n) for n in self.array.shape]
            box[axes[0]] = slice(start, stop)
            yield (box[0], box[1], box[2]), numbers.transpose(back)
            release_pages(self.array)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """Return the voxels of a component inside its box."""
        i, j, k = (slice(low, high) for low, high in self.boxes[number - 1].tolist())
        axes = memory_axes(self.array)
        back = np.argsort(axes).tolist()
        if self._held is not None:
            return np.asarray(self._held.transpose(back)[i, j, k] == number)
        # Inside its box it hangs together as well, and whatever else is there does not touch it.
        own = numbered(self._select(self.array[i, j, k].transpose(axes)), self._connectivity).transpose(back)
        release_pages(self.array)
        return np.asarray(own == own[tuple(self.seeds[number - 1] - self.boxes[number - 1, :, 0])])

    def centroid(self, number: int, corner: Sequence[int] = (0, 0, 0)) -> NDArray[np.float64]:
        """Return the mean index of a component's voxels along i, j, k; `corner` is where the array lies in its grid."""
        low, size = self.boxes[number - 1, :, 0], self.sizes[number - 1]
        mean: NDArray[np.float64] = low + np.array(corner) + (self.sums[number - 1] - low * size) / size
        return mean


def find_parts(array: NDArray[Any], select: Select, connectivity: int) -> Parts:
    """Find the connected components of what is selected of an array.

    Parameters
    ----------
    array
        (I, J, K).
    select
        What is looked at; it is called with slabs of the array, the axes in the order in which they lie in memory.
    connectivity
        6 (faces), 18 (edges) or 26 (corners).

    Examples
    --------
    >>> array = np.zeros((6, 5, 4), np.uint8)
    >>> array[1:3, 1:3, 1:3] = array[5, 4, 3] = 1
    >>> parts = find_parts(array, lambda slab: slab == 1, 26)
    >>> parts.sizes.tolist(), parts.boxes[1].tolist(), parts.centroid(1).tolist()
    ([8, 1], [[5, 6], [4, 5], [3, 4]], [1.5, 1.5, 1.5])
    """
    axes = memory_axes(array)
    stored = array.transpose(axes)
    cuts = _cuts_of(stored.shape)
    found: list[_Slab] = []
    joined: list[NDArray[np.int64]] = []
    before: tuple[NDArray[np.int64], NDArray[Any]] | None = None
    numbers, total = np.zeros(0, np.uint32), 0
    for start, stop in cuts:
        chosen = select(stored[start:stop])
        numbers = numbered(chosen, connectivity)
        found.append(_Slab.of(numbers, chosen, start))
        first, last = (numbers[end].astype(np.int64) for end in (0, -1))
        first[first > 0] += total
        last[last > 0] += total
        if before is not None:
            joined += _touching(*before, first, chosen[0], connectivity)
        before = last, np.array(chosen[-1])
        total += len(found[-1].sizes)
        release_pages(array)
    table, n = _merged(joined, total)
    bounds = np.cumsum([0, *(len(slab.sizes) for slab in found)])
    tables = [np.append(0, table[low:high] + 1).astype(np.uint32) for low, high in itertools.pairwise(bounds.tolist())]
    held = numbers if len(cuts) == 1 else None
    return _joined(array, axes, found, table, n, (select, connectivity, cuts, tables, held))


def numbered(chosen: NDArray[Any], connectivity: int) -> NDArray[np.uint32]:
    """Return the components' numbers from 1 in a mask, or a label map whose values are told apart, (I, J, K)."""
    import cc3d

    # cc3d takes no array that is read-only, as those of segmentations are.
    chosen = np.require(chosen, requirements=["C", "W"])
    found: NDArray[np.uint32] = cc3d.connected_components(chosen, connectivity=connectivity, out_dtype=np.uint32)
    return found


@dataclass(frozen=True, eq=False)
class _Slab:
    """What is known of a slab's own components, along the axes in their order in memory."""

    sizes: NDArray[np.int64]
    values: NDArray[Any]
    boxes: NDArray[np.int64]
    sums: NDArray[np.int64]
    seeds: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: NDArray[np.uint32], chosen: NDArray[Any], start: int) -> _Slab:
        """Look through a slab that begins at a plane."""
        import cc3d

        # cc3d counts in one pass; numpy's bincount would first take eight bytes a voxel.
        known = cc3d.statistics(numbers, no_slice_conversion=True)
        sizes = np.asarray(known["voxel_counts"], np.int64)
        # Sums of whole numbers, which are exact in float64, were divided by the sizes.
        centroids = np.nan_to_num(np.asarray(known["centroids"], np.float64))
        sums = np.rint(centroids * sizes[:, None]).astype(np.int64)
        boxes = np.asarray(known["bounding_boxes"]).reshape(-1, 3, 2).astype(np.int64)
        boxes[..., 1] += 1
        values = np.zeros(len(sizes), np.uint16 if chosen.dtype == bool else chosen.dtype)
        seeds = np.zeros(len(sizes), np.int64)
        for place, (plane, own) in enumerate(zip(numbers, chosen, strict=True)):
            flat = plane.ravel()
            # The first voxel of each run of one number tells which value that component is of.
            first = np.flatnonzero(np.diff(flat, prepend=0))
            values[flat[first]] = own.ravel()[first]
            seeds[flat[first]] = first + place * flat.size
        at = np.stack(np.unravel_index(seeds, numbers.shape), axis=1).astype(np.int64)
        at[:, 0] += start
        sums[:, 0] += start * sizes
        boxes[:, 0] += start
        return cls(sizes[1:], values[1:], boxes[1:], sums[1:], at[1:])


def _cuts_of(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    thick = max(1, SLAB_VOXELS // max(1, shape[1] * shape[2]))
    return [(start, min(start + thick, shape[0])) for start in range(0, shape[0], thick)]


def _touching(
    above: NDArray[np.int64], values: NDArray[Any], below: NDArray[np.int64], own: NDArray[Any], connectivity: int
) -> list[NDArray[np.int64]]:
    """Return the pairs of numbers, (n, 2), of two planes that touch and are of one value."""
    pairs = []
    for rows, columns in _TOUCHING[connectivity]:
        here = _shifted(above.shape[0], rows)[0], _shifted(above.shape[1], columns)[0]
        there = _shifted(above.shape[0], rows)[1], _shifted(above.shape[1], columns)[1]
        a, b = above[here], below[there]
        both = (a > 0) & (b > 0) & (values[here] == own[there])
        pairs.append(np.unique(np.stack([a[both], b[both]], axis=1), axis=0))
    return pairs


def _shifted(size: int, step: int) -> tuple[slice, slice]:
    return slice(max(0, -step), size - max(0, step)), slice(max(0, step), size - max(0, -step))


def _merged(pairs: Sequence[NDArray[np.int64]], total: int) -> tuple[NDArray[np.int64], int]:
    """Return which component, from 0, each of all slabs' components belongs to, and how many there are."""
    edges = np.concatenate([np.zeros((0, 2), np.int64), *pairs]) - 1
    if not len(edges):
        return np.arange(total), total
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(total, total))
    _, group = connected_components(graph.tocsr(), directed=False)
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[group], len(first)


def _joined(
    array: NDArray[Any],
    axes: tuple[int, int, int],
    found: Sequence[_Slab],
    table: NDArray[np.int64],
    n: int,
    how: tuple[Select, int, Sequence[tuple[int, int]], Sequence[NDArray[np.uint32]], NDArray[np.uint32] | None],
) -> Parts:
    """Add up what is known of the slabs' components."""
    back = np.argsort(axes).tolist()
    sizes, sums = np.zeros(n, np.int64), np.zeros((n, 3), np.int64)
    np.add.at(sizes, table, np.concatenate([slab.sizes for slab in found]))
    np.add.at(sums, table, np.concatenate([slab.sums for slab in found]))
    each = np.concatenate([slab.boxes for slab in found])
    boxes = np.empty((n, 3, 2), np.int64)
    boxes[..., 0], boxes[..., 1] = np.iinfo(np.int64).max, 0
    np.minimum.at(boxes[..., 0], table, each[..., 0])
    np.maximum.at(boxes[..., 1], table, each[..., 1])
    values = np.zeros(n, found[0].values.dtype)
    values[table] = np.concatenate([slab.values for slab in found])
    seeds = np.zeros((n, 3), np.int64)
    seeds[table] = np.concatenate([slab.seeds for slab in found])
    return Parts(array, sizes, values, boxes[:, back], sums[:, back], seeds[:, back], *how)
