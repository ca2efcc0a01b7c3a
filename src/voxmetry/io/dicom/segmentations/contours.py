"""Between planar contours and masks: filling by crossing numbers, tracing by marching squares.

Points are in continuous voxel indices of a slice: (x, y) lies at column x, row y, and whole numbers are voxel centres.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64

_NEAR_SLICES = 2.0
"""Contours of a single gap that is no wider are neighbours, of a series that is up to twice as coarse."""
_BRIDGE = 0.185
"""Share of an edge at which a channel to a hole begins: no voxel centre and no corner of a contour lies on its line."""
_ON_CENTRE = 1e-6
_SAME_PLANE_MM = 0.15
_SAME_PLANE_SHARE = 0.25
"""Contours of one plane lie so far apart at most, in mm and as a share of the slice step: coordinates are rounded,
often to a tenth of a mm, and those of a plane that is turned in the patient are not rounded alike."""
COPY = 0.1
"""Contours that run so near to each other, in voxels or in mm, are copies: no wall of an organ is as thin."""
_AT_ONCE = 256


def fill(polygons: Sequence[Float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the voxels whose centre lies inside an odd number of polygons.

    Parameters
    ----------
    polygons
        Closed polygons, (N, 2) each, in continuous voxel indices; the first point is not repeated.
    shape
        (X, Y) of the mask.

    Returns
    -------
    ndarray of bool
        (X, Y). A centre on an edge belongs to one side of it, so that neighbours share no voxel and leave none out.

    Notes
    -----
    Even-odd rule: along each row of voxel centres the crossings with all edges are counted (Shimrat, Algorithm 112,
    1962, doi:10.1145/368637.368653). Both sides of a keyhole's channel are crossed at one place and cancel.

    Examples
    --------
    >>> square = np.array([[0.6, 0.6], [3.4, 0.6], [3.4, 2.4], [0.6, 2.4]])
    >>> fill([square], (5, 4)).T.astype(int).tolist()
    [[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    """
    toggles = np.zeros((shape[0] + 1, shape[1]), np.int32)
    for polygon in polygons:
        a, b = polygon, np.roll(polygon, -1, axis=0)
        upward = a[:, 1] <= b[:, 1]
        low, high = np.where(upward[:, None], a, b), np.where(upward[:, None], b, a)
        # Half open, low <= row < high: a corner on a row belongs to one of its two edges.
        first = np.clip(np.ceil(low[:, 1] - _ON_CENTRE), 0, shape[1]).astype(np.intp)
        last = np.clip(np.ceil(high[:, 1] - _ON_CENTRE), 0, shape[1]).astype(np.intp)
        counts = last - first
        edge = np.repeat(np.arange(len(a)), counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        slope = (high[edge, 0] - low[edge, 0]) / (high[edge, 1] - low[edge, 1])
        crossing = low[edge, 0] + (row - low[edge, 1]) * slope
        column = np.clip(np.ceil(crossing - _ON_CENTRE), 0, shape[0]).astype(np.intp)
        np.add.at(toggles, (column, row), 1)
    inside: NDArray[np.bool_] = (np.cumsum(toggles[:-1], axis=0) & 1).astype(bool)
    return inside


def fill_structure(polygons: Sequence[Float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill the contours of one structure in one plane as they are met in practice.

    A contour inside another is a hole, one inside a hole is an island again; contours that cross or lie side by side
    are joined; one that is there twice counts once, whichever point it begins at and whichever way it runs.

    Parameters
    ----------
    polygons
        As `fill`.
    shape
        (X, Y) of the mask.

    Examples
    --------
    >>> box = lambda a, b: np.array([[a, a], [b, a], [b, b], [a, b]])
    >>> int(fill_structure([box(0.5, 8.5), box(2.5, 6.5), box(0.5, 8.5)], (9, 9)).sum())
    48
    """
    mask = np.zeros(shape, bool)
    seen: list[Float64] = []
    for polygon in sorted(polygons, key=lambda points: -abs(area(points))):
        if any(is_copy(polygon, other, COPY) for other in seen):
            continue
        seen.append(polygon)
        part = fill([polygon], shape)
        if mask[part].all():
            mask[part] = False
        else:
            mask |= part
    return mask


def is_copy(first: Float64, second: Float64, tolerance: float) -> bool:
    """Whether two closed contours run along each other, whichever point they begin at and whichever way they run.

    Parameters
    ----------
    first, second
        (N, 2) and (M, 2).
    tolerance
        How far a point of one may lie off the other, in the points' unit.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> is_copy(square, square[[2, 1, 0, 3]] + 0.01, 0.1), is_copy(square, square / 2, 0.1)
    (True, False)
    """
    ends = [np.stack([x.min(axis=0), x.max(axis=0)]) for x in (first, second)]
    if np.abs(ends[0] - ends[1]).max() > tolerance:
        return False
    return _lies_on(first, second, tolerance) and _lies_on(second, first, tolerance)


def _lies_on(points: Float64, ring: Float64, tolerance: float) -> bool:
    """Whether all points lie on a ring's edges, some at a time: contours of thousands of points are met."""
    along = np.roll(ring, -1, axis=0) - ring
    squares = np.maximum((along**2).sum(axis=1), np.finfo(np.float64).tiny)
    for start in range(0, len(points), _AT_ONCE):
        apart = points[start : start + _AT_ONCE, None] - ring
        share = np.clip((apart * along).sum(axis=2) / squares, 0, 1)
        off = ((apart - share[..., None] * along) ** 2).sum(axis=2).min(axis=1)
        if off.max() > tolerance**2:
            return False
    return True


def planes_of(heights: Float64, step: float, step_mm: float) -> list[tuple[float, list[int]]]:
    """Group contours that lie in one plane, though the rounding of their points parts them a little.

    Parameters
    ----------
    heights
        Of each contour along the normal, in any unit.
    step
        Between the image's slices, in the same unit.
    step_mm
        The same in mm.

    Returns
    -------
    list of (height, indices)
        The mean height of each plane, rising, and the contours in it.

    Examples
    --------
    >>> planes_of(np.array([3.0, 1.0, 3.02]), 1.0, 2.0)
    [(1.0, [1]), (3.01, [0, 2])]
    """
    tolerance = min(max(_SAME_PLANE_MM / step_mm, 0.02), _SAME_PLANE_SHARE) * step
    planes: list[list[int]] = []
    for index in np.argsort(heights, kind="stable").tolist():
        if planes and heights[index] - heights[planes[-1][0]] <= tolerance:
            planes[-1].append(index)
        else:
            planes.append([index])
    return [(float(heights[members].mean()), sorted(members)) for members in planes]


def area(polygon: Float64) -> float:
    """Return the signed area of a polygon (shoelace formula), in squares of its unit."""
    x, y = (polygon - polygon[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def trace(mask: NDArray[np.bool_]) -> list[tuple[Float64, list[Float64]]]:
    """Trace the outlines of a mask.

    Parameters
    ----------
    mask
        (X, Y) booleans.

    Returns
    -------
    list of (outline, holes)
        Closed polygons (N, 2) in continuous voxel indices, halfway between the voxels inside and outside, points on
        straight runs left out. Voxels that touch by a corner alone are apart, so that no outline crosses itself.

    Examples
    --------
    >>> ring = np.ones((3, 3), bool)
    >>> ring[1, 1] = False
    >>> [(len(outline), [len(hole) for hole in holes]) for outline, holes in trace(ring)]
    [(8, [4])]
    """
    from skimage.measure import find_contours

    padded = np.pad(mask, 1).astype(np.float64)
    rings = [_corners(ring[:-1] - 1) for ring in find_contours(padded, 0.5, fully_connected="low")]
    # Seen from inside, the outline of a hole runs the other way round than that of a body.
    areas = [area(ring) for ring in rings]
    turn = 1.0 if not areas else np.sign(max(areas, key=abs))
    outlines = [ring for ring, size in zip(rings, areas, strict=True) if size * turn > 0]
    found: list[tuple[Float64, list[Float64]]] = [(outline, []) for outline in outlines]
    boxes = [(outline.min(axis=0), outline.max(axis=0)) for outline in outlines]
    for hole in (ring for ring, size in zip(rings, areas, strict=True) if size * turn < 0):
        near = [
            x for x, (low, high) in zip(found, boxes, strict=True) if (low <= hole[0]).all() and (hole[0] <= high).all()
        ]
        around = [pair for pair in near if _holds(pair[0], hole[0])]
        min(around, key=lambda pair: abs(area(pair[0])))[1].append(hole)
    return found


def keyhole(outline: Float64, holes: Sequence[Float64]) -> Float64:
    """Join holes to their outline by channels of no width, which makes one polygon of all.

    DICOM PS3.3 C.8.8.6.3 describes this way of saying that a contour has a hole.

    Parameters
    ----------
    outline, holes
        From `trace`.

    Examples
    --------
    >>> ring = np.ones((5, 5), bool)
    >>> ring[2, 2] = False
    >>> outline, holes = trace(ring)[0]
    >>> bool((fill([keyhole(outline, holes)], (5, 5)) == ring).all())
    True
    """
    joined = outline
    # From left to right: whatever lies to the left of a hole's leftmost point is joined already.
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        corner = int(hole[:, 0].argmin())
        start = hole[corner] + _BRIDGE * (hole[(corner + 1) % len(hole)] - hole[corner])
        loop = np.concatenate([[start], np.roll(hole, -corner - 1, axis=0), [start]])
        a, b = joined, np.roll(joined, -1, axis=0)
        crosses = (a[:, 1] > start[1]) != (b[:, 1] > start[1])
        share = np.divide(start[1] - a[:, 1], b[:, 1] - a[:, 1], out=np.zeros(len(a)), where=crosses)
        x = np.where(crosses, a[:, 0] + share * (b[:, 0] - a[:, 0]), -np.inf)
        x[x > start[0]] = -np.inf
        edge = int(x.argmax())
        bridge = np.array([[x[edge], start[1]]])
        joined = np.concatenate([joined[: edge + 1], bridge, loop, bridge, joined[edge + 1 :]])
    return joined


def _corners(ring: Float64) -> Float64:
    """Leave out points on the straight line between their neighbours."""
    before, after = np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0)
    cross: NDArray[Any] = (ring[:, 0] - before[:, 0]) * (after[:, 1] - ring[:, 1]) - (ring[:, 1] - before[:, 1]) * (
        after[:, 0] - ring[:, 0]
    )
    corners: Float64 = ring[np.abs(cross) > 1e-9]
    return corners


def _holds(polygon: Float64, point: Float64) -> bool:
    a, b = polygon, np.roll(polygon, -1, axis=0)
    crosses = (a[:, 1] > point[1]) != (b[:, 1] > point[1])
    share = np.divide(point[1] - a[:, 1], b[:, 1] - a[:, 1], out=np.zeros(len(a)), where=crosses)
    return bool(np.count_nonzero(crosses & (a[:, 0] + share * (b[:, 0] - a[:, 0]) < point[0])) % 2)


def own_step(heights: Float64, slice_step: float) -> float:
    """Return the distance between neighbouring contour planes of a structure.

    It is the smallest gap, where that occurs twice or is no more than two slices of the image. A wider one that occurs
    once is the space between two parts of the structure, such as two nodes of one contour each: they are a slice thick.

    Parameters
    ----------
    heights
        Of the planes, sorted, in any unit.
    slice_step
        Between the image's slices, in the same unit.

    Examples
    --------
    >>> own_step(np.array([0.0, 5, 10, 40]), 1.0), own_step(np.array([3.0, 45]), 1.0), own_step(np.array([3.0]), 1.0)
    (5.0, 1.0, 1.0)
    """
    gaps = np.diff(heights)
    gaps = gaps[gaps > 0.05]
    if not gaps.size:
        return slice_step
    smallest = float(gaps.min())
    is_usual = np.count_nonzero(gaps <= 1.1 * smallest) > 1 or smallest <= _NEAR_SLICES * slice_step
    return smallest if is_usual else slice_step
