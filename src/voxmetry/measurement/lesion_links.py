"""Which lesions of two time points are the same: by overlap, and by distance where nothing overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.measurement.lesions import Component
from voxmetry.ops.registration import Float64, inverse, transformed


class LesionGroup(NamedTuple):
    """Lesions that belong together: places in the two lists, what linked them, the largest shared part."""

    baseline: tuple[int, ...]
    follow_up: tuple[int, ...]
    rule: Literal["overlap", "distance", ""]
    overlap: float


class Links(NamedTuple):
    """All groups: those with a lesion at baseline first, in its order, then new ones."""

    groups: tuple[LesionGroup, ...]


def link(
    parts: tuple[Sequence[Component], Sequence[Component]],
    grids: tuple[Geometry, Geometry],
    matrix: Float64,
    *,
    min_overlap: float,
    max_distance_mm: float,
) -> Links:
    """Group the lesions of two time points.

    Two lesions of a structure are linked when `min_overlap` of the voxels of either lies in the other; what hangs
    together by links is one group. Lesions without a link are then paired one to one with the smallest sum of
    distances of their centroids, none above `max_distance_mm`.

    Parameters
    ----------
    parts
        Lesions at baseline and at follow-up.
    grids
        Their grids.
    matrix
        (4, 4), takes a place at follow-up to the same place at baseline, RAS+ mm.
    """
    shares = _shares(parts, grids, matrix)
    n, m = len(parts[0]), len(parts[1])
    linked = shares >= min_overlap
    groups = [
        LesionGroup(tuple(a), tuple(b), "overlap", float(shares[np.ix_(a, b)].max()))
        for a, b in _hanging_together(linked)
    ]
    free = ([i for i in range(n) if not linked[i].any()], [j for j in range(m) if not linked[:, j].any()])
    pairs = _nearest(parts, grids, matrix, free, max_distance_mm)
    groups += [LesionGroup((i,), (j,), "distance", float(shares[i, j])) for i, j in pairs]
    paired = ({i for i, _ in pairs}, {j for _, j in pairs})
    groups += [LesionGroup((i,), (), "", math.nan) for i in free[0] if i not in paired[0]]
    groups.sort(key=lambda group: group.baseline)
    groups += [LesionGroup((), (j,), "", math.nan) for j in free[1] if j not in paired[1]]
    return Links(tuple(groups))


def _shares(
    parts: tuple[Sequence[Component], Sequence[Component]], grids: tuple[Geometry, Geometry], matrix: Float64
) -> Float64:
    """Return the larger of the two shares of each pair that lies in the other, (N, M).

    Voxel centres are looked up in the other grid in both directions, so that no map is resampled and a lesion smaller
    than a voxel of the other grid is not lost.
    """
    there = _directed(parts[0], parts[1], grids, inverse(matrix))
    back = _directed(parts[1], parts[0], (grids[1], grids[0]), matrix)
    return np.maximum(there, back.T)


def _directed(
    ours: Sequence[Component], theirs: Sequence[Component], grids: tuple[Geometry, Geometry], matrix: Float64
) -> Float64:
    """Return which share of the voxels of each of ours lies in each of theirs, of the same structure, (N, M)."""
    shares = np.zeros((len(ours), len(theirs)))
    index_to_index = inverse(grids[1].affine) @ matrix @ grids[0].affine
    for i, part in enumerate(ours):
        index = np.floor(transformed(places(part).astype(np.float64), index_to_index) + 0.5).astype(np.intp)
        low, high = index.min(axis=0), index.max(axis=0)
        for j, other in enumerate(theirs):
            start = np.array([side.start for side in other.box])
            stop = np.array([side.stop for side in other.box])
            if other.label.name != part.label.name or (high < start).any() or (low >= stop).any():
                continue
            inside = ((index >= start) & (index < stop)).all(axis=1)
            shares[i, j] = other.mask[tuple((index[inside] - start).T)].sum() / len(index)
    return shares


def places(part: Component) -> NDArray[np.intp]:
    """Return a lesion's voxels as indices into its grid, (V, 3)."""
    found: NDArray[np.intp] = np.argwhere(part.mask) + np.array([side.start for side in part.box])
    return found


def _hanging_together(linked: NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    n, m = linked.shape
    if not linked.any():
        return []
    graph = np.zeros((n + m, n + m), bool)
    graph[:n, n:] = linked
    _, number = connected_components(csr_array(graph), directed=False)
    groups = []
    for which in np.unique(number[:n][linked.any(axis=1)]):
        a, b = (np.flatnonzero(side == which).tolist() for side in (number[:n], number[n:]))
        groups.append((a, b))
    return groups


def _nearest(
    parts: tuple[Sequence[Component], Sequence[Component]],
    grids: tuple[Geometry, Geometry],
    matrix: Float64,
    free: tuple[list[int], list[int]],
    max_distance_mm: float,
) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    if not all(free):
        return []
    ours = transformed(np.array([_centre(parts[0][i], grids[0]) for i in free[0]]), inverse(matrix))
    theirs = np.array([_centre(parts[1][j], grids[1]) for j in free[1]])
    apart = np.linalg.norm(ours[:, None] - theirs, axis=2)
    names = [[x[place].label.name for place in chosen] for x, chosen in zip(parts, free, strict=True)]
    allowed = (apart <= max_distance_mm) & (np.array(names[0])[:, None] == np.array(names[1]))
    # What may not be paired costs more than all that may: as many as possible are paired, then as near as possible.
    cost = np.where(allowed, apart, 1.0 + max_distance_mm * (1 + len(apart) + apart.shape[1]))
    rows, columns = linear_sum_assignment(cost)
    chosen = [(i, j) for i, j in zip(rows, columns, strict=True) if allowed[i, j]]
    return sorted((free[0][i], free[1][j]) for i, j in chosen)


def _centre(part: Component, geometry: Geometry) -> Float64:
    return geometry.to_mm(places(part).mean(axis=0))
