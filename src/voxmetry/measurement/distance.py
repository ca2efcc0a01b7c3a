"""Distances between two surfaces: found once, read in many ways.

`surface_distances` looks at all structures in one pass; the functions below it are cheap readings of its result. All
are in millimetres of the patient; docs/concepts/metrics.md has each formula.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.io.memory import fits_memory
from voxmetry.ops.boxes import Box, boxes_of, join
from voxmetry.ops.nearest import distance_histogram, total_weight
from voxmetry.ops.surface import (
    Surface,
    SurfaceKind,
    element_areas_mm2,
    require_right_angles,
    surface_in,
    surfaces,
)

Float64: TypeAlias = NDArray[np.float64]
Status: TypeAlias = Literal["both", "missed", "extra", "absent"]
PercentileRule: TypeAlias = Literal["directed max", "pooled"]

POINT_BYTES = 150
"""A point of a surface, while its distances are found."""
TOLERANCE_SLACK_MM = 1e-6
"""A distance this little above a tolerance counts as within: affines stored as float32 carry that much noise."""


@dataclass(frozen=True, eq=False)
class Directed:
    """Distances from one surface to the other.

    Parameters
    ----------
    distance_mm
        (M,), the different distances that occur, rising. Empty where one of the surfaces is.
    weight
        (M,), how much of the surface lies at each: mm2 for 'elements', a count for 'border voxels'.
    size
        The whole surface: the sum of `weight`, but also known where the other surface is empty.
    """

    distance_mm: Float64
    weight: Float64
    size: float


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """All that boundary metrics of one structure need.

    Parameters
    ----------
    prediction, reference
        From the prediction's surface to the reference's, and the other way round.
    kind
        The surface definition.
    """

    prediction: Directed
    reference: Directed
    kind: SurfaceKind

    @property
    def status(self) -> Status:
        """'both', 'missed' (in the reference only), 'extra' (in the prediction only) or 'absent'."""
        if self.prediction.size and self.reference.size:
            return "both"
        return "missed" if self.reference.size else "extra" if self.prediction.size else "absent"


def surface_distances(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    pairs: Sequence[tuple[int, int]],
    kind: SurfaceKind = "elements",
    workers: int | None = None,
) -> list[SurfaceDistances]:
    """Measure the distances between the surfaces of several structures.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid.
    pairs
        Value in the prediction and value in the reference, one pair a structure.
    kind
        'elements': area-weighted surface elements. 'border voxels': centres of the voxels that share a face with the
        outside of the structure, each counting one. See `voxmetry.ops.surface`.
    workers
        Threads; by default one a processor core. The result does not depend on it.

    Returns
    -------
    list of SurfaceDistances
        One a pair, in their order.

    Raises
    ------
    GeometryError
        If the grids differ, or their axes do not stand at right angles.
    ConfigError
        If `kind` is no surface definition.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> grid = Geometry(np.diag([2.0, 1.0, 1.0, 1.0]), (9, 3, 3))
    >>> table = LabelTable.from_names({1: "node"})
    >>> a, b = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    >>> a[1, 1, 1] = b[5, 1, 1] = 1
    >>> d = surface_distances(
    ...     prediction=Segmentation(a, grid, table), reference=Segmentation(b, grid, table), pairs=[(1, 1)]
    ... )
    >>> hausdorff_distance_mm(d[0])
    8.0
    """
    ours, theirs, grid, _ = _as_they_lie(prediction, reference, kind)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        found = tuple(pool.map(lambda array: surfaces(array, kind), (ours, theirs)))
        sides = [[surface.get(value) for surface, value in zip(found, pair, strict=True)] for pair in pairs]
        tasks = [(a, b) for a, b in sides] + [(b, a) for a, b in sides]
        # The largest first, so that no thread is left with a large one at the end.
        order = sorted(range(len(tasks)), key=lambda n: -sum(len(x) for x in tasks[n] if x is not None))
        done = dict(zip(order, pool.map(lambda n: _directed(*tasks[n], grid), order), strict=True))
    n = len(pairs)
    return [SurfaceDistances(done[place], done[n + place], kind) for place in range(n)]


def distances_one_by_one(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    pairs: Sequence[tuple[int, int]],
    kind: SurfaceKind = "elements",
) -> list[SurfaceDistances | None]:
    """Measure what `surface_distances` does, one structure after the other, each in its own box.

    It is for label maps that lie in files: of these no more than a slab is looked at together.

    Returns
    -------
    list of SurfaceDistances or None
        One a pair, in their order; None for a structure that there is no memory for.

    Raises
    ------
    GeometryError, ConfigError
        As `surface_distances`.
    """
    ours, theirs, grid, flipped = _as_they_lie(prediction, reference, kind)
    boxes = [{v: box[::-1] if flipped else box for v, box in boxes_of(x).items()} for x in (prediction, reference)]
    found: list[SurfaceDistances | None] = []
    for pair in pairs:
        places = [mine.get(value) for mine, value in zip(boxes, pair, strict=True)]
        sides = _two_surfaces((ours, theirs), pair, places, kind)
        if sides is None:
            found.append(None)
        else:
            a, b = sides
            found.append(SurfaceDistances(_directed(a, b, grid), _directed(b, a, grid), kind))
    return found


def _two_surfaces(
    arrays: Sequence[NDArray[Any]], values: Sequence[int], places: Sequence[Box | None], kind: SurfaceKind
) -> list[Surface | None] | None:
    """Find the surfaces of one structure in two maps, None where a map lacks it; None if there is no room for them."""
    there = [box for box in places if box is not None]
    # Both surfaces are marked in the box round them.
    voxels = math.prod(part.stop - part.start + 2 for part in join(there)) if there else 0
    found: list[Surface | None] = []
    for array, value, box in zip(arrays, values, places, strict=True):
        room = voxels + POINT_BYTES * sum(len(side) for side in found if side is not None)
        side = None if box is None else surface_in(array, value, box, kind, partial(_fits, room))
        if side is None and box is not None:
            return None
        found.append(side)
    return found


def _fits(taken: int, n: int) -> bool:
    return fits_memory(taken + POINT_BYTES * n)


class _Grid(NamedTuple):
    """The padded grid that surfaces are numbered on, and what their points count for."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    areas_mm2: Float64 | None


def _as_they_lie(
    prediction: Segmentation, reference: Segmentation, kind: SurfaceKind
) -> tuple[NDArray[Any], NDArray[Any], _Grid, bool]:
    """Return both arrays, their grid, and whether its axes were turned round, so that they are walked along memory."""
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    require_right_angles(prediction.geometry)
    ours, theirs = prediction.array, reference.array
    spacing_mm = prediction.geometry.spacing_mm
    # Most NIfTI files are stored with the first axis running fastest.
    flipped = theirs.flags.f_contiguous and not theirs.flags.c_contiguous
    if flipped:
        ours, theirs, spacing_mm = ours.T, theirs.T, (spacing_mm[2], spacing_mm[1], spacing_mm[0])
    areas = element_areas_mm2(spacing_mm) if kind == "elements" else None
    shape = (ours.shape[0] + 2, ours.shape[1] + 2, ours.shape[2] + 2)
    return ours, theirs, _Grid(shape, spacing_mm, areas), flipped


def _directed(a: Surface | None, b: Surface | None, grid: _Grid) -> Directed:
    nothing = np.zeros(0)
    if a is None:
        return Directed(nothing, nothing, 0.0)
    if b is None:
        return Directed(nothing, nothing, total_weight(a, slice(None), grid.areas_mm2))
    distance, total = distance_histogram(
        a, b, padded_shape=grid.shape, spacing_mm=grid.spacing_mm, areas_mm2=grid.areas_mm2
    )
    return Directed(distance, total, float(total.sum()))


def hausdorff_distance_mm(
    d: SurfaceDistances, percentile: float = 100.0, rule: PercentileRule = "directed max"
) -> float:
    """Return the Hausdorff distance, or a percentile of the distances in its place.

    Parameters
    ----------
    d
        Distances of one structure.
    percentile
        Above 0, up to 100; 100 is the Hausdorff distance itself, 95 is HD95.
    rule
        'directed max': the larger of the two directed percentiles. 'pooled': the percentile of both directions'
        distances taken together, as MedPy does.

    Returns
    -------
    float
        mm; nan if one of the surfaces is empty.

    Notes
    -----
    With 'elements' the percentile is the smallest distance within which at least that share of the area lies. With
    'border voxels' it is interpolated linearly between the two nearest ranks, as numpy, MONAI and MedPy do.

    References
    ----------
    Huttenlocher et al., 1993, doi:10.1109/34.232073.
    """
    if not 0 < percentile <= 100:
        raise ConfigError(found=f"percentile {percentile}", expected="above 0, up to 100", fix="100 is the maximum")
    if rule not in ("directed max", "pooled"):
        raise ConfigError(found=f"rule={rule!r}", expected="'directed max' or 'pooled'", fix="choose one of the two")
    if d.status != "both":
        return math.nan
    if rule == "pooled":
        return _percentile(_pool(d), percentile, d.kind)
    return max(_percentile(side, percentile, d.kind) for side in (d.prediction, d.reference))


def mean_surface_distances_mm(d: SurfaceDistances) -> tuple[float, float]:
    """Return the mean distance from prediction to reference and from reference to prediction, in mm.

    The means are weighted by area for 'elements'. Both are nan if one of the surfaces is empty.
    """
    if d.status != "both":
        return (math.nan, math.nan)
    a, b = (float(side.distance_mm @ side.weight / side.weight.sum()) for side in (d.prediction, d.reference))
    return (a, b)


def average_symmetric_surface_distance_mm(d: SurfaceDistances) -> float:
    """Return the mean of both directions' distances taken together, in mm, weighted by area for 'elements'.

    nan if one of the surfaces is empty. This is Heimann's definition (2009, doi:10.1109/TMI.2009.2013851), as in MONAI
    and MedPy; the mean of the two directed means differs from it where the surfaces differ in size.
    """
    if d.status != "both":
        return math.nan
    pooled = _pool(d)
    return float(pooled.distance_mm @ pooled.weight / pooled.weight.sum())


def surface_dice(d: SurfaceDistances, tolerance_mm: float) -> float:
    """Return the share of both surfaces that lies within `tolerance_mm` of the other one, 0 to 1.

    0 if only one of the surfaces is empty, nan if both are. Tolerances within 1e-6 mm of a distance include it.

    References
    ----------
    Nikolov et al., 2021, doi:10.2196/26151.
    """
    if not (tolerance_mm >= 0 and math.isfinite(tolerance_mm)):
        raise ConfigError(found=f"a tolerance of {tolerance_mm} mm", expected="0 or above", fix="pass a length in mm")
    whole = d.prediction.size + d.reference.size
    return _within(d, tolerance_mm) / whole if whole else math.nan


def boundary_iou(d: SurfaceDistances) -> float:
    """Return the intersection of the two surfaces over their union, 0 to 1.

    With 'border voxels' this is the boundary IoU of Cheng et al. (2021, doi:10.1109/CVPR46437.2021.01508) for a band
    of one voxel; with 'elements' pieces at the same place count with the mean of their two areas. 0 if only one
    of the surfaces is empty, nan if both are.
    """
    shared, whole = _within(d, 0.0) / 2, d.prediction.size + d.reference.size
    return shared / (whole - shared) if whole else math.nan


def _within(d: SurfaceDistances, tolerance_mm: float) -> float:
    """How much of both surfaces lies within a tolerance of the other one."""
    limit_mm = tolerance_mm + TOLERANCE_SLACK_MM
    return sum(float(side.weight[side.distance_mm <= limit_mm].sum()) for side in (d.prediction, d.reference))


def _pool(d: SurfaceDistances) -> Directed:
    distance = np.concatenate([d.prediction.distance_mm, d.reference.distance_mm])
    weight = np.concatenate([d.prediction.weight, d.reference.weight])
    order = np.argsort(distance, kind="stable")
    return Directed(distance[order], weight[order], float(weight.sum()))


def _percentile(side: Directed, percentile: float, kind: SurfaceKind) -> float:
    cumulative = np.cumsum(side.weight)
    if kind == "elements":
        # The slack absorbs the rounding of the sum, which would move an exact share to the next distance.
        wanted = percentile / 100 * cumulative[-1] * (1 - 1e-12)
        return float(side.distance_mm[min(np.searchsorted(cumulative, wanted), len(cumulative) - 1)])
    rank = (cumulative[-1] - 1) * percentile / 100
    below, above = side.distance_mm[np.searchsorted(cumulative, [math.floor(rank), math.ceil(rank)], side="right")]
    return float(below + (above - below) * (rank - math.floor(rank)))
