"""Exact distances from one set of grid points to another."""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.ops.surface import Surface

Float64: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.integer[Any]]

_N_OFFSETS = 500
"""So many neighbours, about, are looked up one by one before a tree is asked: a point there costs as much as 2000."""

_SAME_MM = 1e-9
"""Distances closer than this are one; the noise of their sums of squares is far below it."""


def distance_histogram(
    queries: Surface,
    targets: Surface,
    *,
    padded_shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    areas_mm2: Float64 | None,
) -> tuple[Float64, Float64]:
    """Return the distances from each query to its nearest target, and how much of the queries lies at each.

    Parameters
    ----------
    queries, targets
        At least one point each, as flat indices into a grid of `padded_shape`.
    spacing_mm
        Distances between the grid's points.
    areas_mm2
        (256,), what a query counts for by its code; None counts each as one.

    Returns
    -------
    distance_mm, total_weight
        (M,) each: the different distances, rising, and the sum of the weights at each. Exact to the last bits of
        float64: points are looked up in shells of rising distance, and what no shell holds is asked of a k-d tree.
    """
    offsets, shells = _shells(spacing_mm)
    occupied, where, strides = _occupancy(queries, targets, padded_shape, np.abs(offsets).max(axis=0))
    flat_steps, left = offsets @ strides, np.arange(len(queries), dtype=queries.index.dtype)
    distances: list[float] = []
    totals: list[float] = []
    for distance, first, last in shells:
        hit = occupied.take(where + flat_steps[first])
        for step in flat_steps[first + 1 : last]:
            hit |= occupied.take(where + step)
        distances.append(distance)
        totals.append(total_weight(queries, left[hit], areas_mm2))
        where, left = where[~hit], left[~hit]
        if not left.size:
            break
    del occupied, where
    if left.size:
        q, t = _positions(queries.index[left], padded_shape), _positions(targets.index, padded_shape)
        far, inverse = np.unique(_by_tree(q, t, spacing_mm), return_inverse=True)
        distances.extend(far.tolist())
        totals.extend(_weights(queries, left, inverse, areas_mm2).tolist())
    total = np.array(totals)
    return np.array(distances)[total > 0], total[total > 0]


def total_weight(surface: Surface, chosen: Index | slice, areas_mm2: Float64 | None) -> float:
    """Return what some points of a surface count for together, whatever their order."""
    if areas_mm2 is None or surface.code is None:
        return float(len(surface.index[chosen]))
    # How many there are of each kind, which are whole numbers.
    return float((np.bincount(surface.code[chosen], minlength=256) * areas_mm2).sum())


def _weights(surface: Surface, chosen: Index, group: Index, areas_mm2: Float64 | None) -> Float64:
    """Return what the points of each group count for, whatever their order."""
    if areas_mm2 is None or surface.code is None:
        return np.asarray(np.bincount(group), np.float64)
    kinds, n = np.unique(group.astype(np.int64) * 256 + surface.code[chosen], return_counts=True)
    return np.asarray(np.bincount(kinds // 256, weights=n * areas_mm2[kinds % 256]), np.float64)


def _occupancy(
    queries: Surface, targets: Surface, padded_shape: tuple[int, int, int], margin: Index
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Mark the targets in the box round all points and a margin.

    Returns the box, flat; where the queries lie in it, flat; and its strides.
    """
    q, t = _positions(queries.index, padded_shape), _positions(targets.index, padded_shape)
    low = np.minimum(q.min(axis=1), t.min(axis=1)) - margin
    size = np.maximum(q.max(axis=1), t.max(axis=1)) + margin + 1 - low
    strides = np.array([size[1] * size[2], size[2], 1], dtype=np.int64)
    occupied = np.zeros(int(size.prod(dtype=np.int64)), dtype=bool)
    occupied[_flat(t, low, strides)] = True
    return occupied, _flat(q, low, strides), strides


def _positions(index: Index, shape: tuple[int, int, int]) -> Index:
    """Unravel flat indices, (3, N); numpy's own way takes eight bytes a number and three times as long."""
    positions = np.empty((3, len(index)), index.dtype)
    np.floor_divide(index, shape[1] * shape[2], out=positions[0])
    rest = index - positions[0] * (shape[1] * shape[2])
    np.floor_divide(rest, shape[2], out=positions[1])
    np.subtract(rest, positions[1] * shape[2], out=positions[2])
    return positions


def _flat(positions: Index, low: Index, strides: NDArray[np.int64]) -> NDArray[np.int64]:
    flat: NDArray[np.int64] = positions[2].astype(np.int64) - low @ strides
    flat += positions[0] * strides[0]
    flat += positions[1] * strides[1]
    return flat


@functools.lru_cache(maxsize=64)
def _shells(spacing_mm: tuple[float, float, float]) -> tuple[Index, tuple[tuple[float, int, int], ...]]:
    """Grid offsets by rising distance, (M, 3), and for each distance (mm, first, last) its run among them."""
    spacing = np.array(spacing_mm)
    radius = (_N_OFFSETS * spacing.prod() * 3 / (4 * np.pi)) ** (1 / 3)
    ends = np.minimum(np.floor(radius / spacing).astype(np.intp), _N_OFFSETS // 2)
    axes = [np.arange(-end, end + 1) for end in ends]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(offsets * spacing, axis=1)
    order = np.argsort(length, kind="stable")
    # Beyond the shortest step that leaves the searched box, a nearer point could have been missed.
    order = order[length[order] < ((ends + 1) * spacing).min() - _SAME_MM][: 2 * _N_OFFSETS]
    offsets, length = offsets[order], length[order]
    firsts = np.flatnonzero(np.diff(length, prepend=-1.0) > _SAME_MM)
    lasts = np.append(firsts[1:], len(length))
    shells = tuple((float(length[a]), int(a), int(b)) for a, b in zip(firsts, lasts, strict=True))
    return offsets, shells


def _by_tree(q: Index, t: Index, spacing_mm: tuple[float, float, float]) -> NDArray[Any]:
    from scipy.spatial import cKDTree

    # Points of a grid are spread evenly, so that the quick build costs no time in the queries.
    tree = cKDTree(t.T * np.array(spacing_mm), balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(q.T * np.array(spacing_mm))
    return np.asarray(distance)
