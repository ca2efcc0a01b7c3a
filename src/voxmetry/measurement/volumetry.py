"""Size, place and intensity of each structure of a segmentation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Label
from voxmetry.core.records import Measurement, Point
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.ops.boxes import Box, boxes_of
from voxmetry.ops.layout import PlaneMask, line_ends, sections, values_of
from voxmetry.ops.parts import SLAB_VOXELS
from voxmetry.ops.ranks import ranked
from voxmetry.ops.surface import MeshSums, surface_parts

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_PERCENTILES = (5.0, 50.0, 95.0)
_AT_ONCE = 1_000_000
"""Voxels whose squares are summed at once."""


def measure(segmentation: Segmentation, volume: Volume | None = None) -> tuple[Measurement, ...]:
    """Measure each structure of a label table.

    Parameters
    ----------
    segmentation
        The label map.
    volume
        The image on the same grid, for intensity statistics in its unit; None leaves them out.

    Returns
    -------
    tuple of Measurement
        One a label, in the table's order. A structure without a voxel has `n_voxels` 0, a volume of 0, and nan with a
        reason for all that is not defined then.

    Raises
    ------
    GeometryError
        If the image lies on another grid.

    Examples
    --------
    >>> from voxmetry import LabelTable
    >>> array = np.zeros((6, 5, 4), np.uint8)
    >>> array[2:4, 1:3, 1:3] = 1
    >>> grid = Geometry(np.diag([1.0, 2.0, 5.0, 1.0]), array.shape)
    >>> row, = measure(Segmentation(array, grid, LabelTable.from_names({1: "node"})))
    >>> round(row.volume_ml, 9), (row.extent_rl_mm, row.extent_ap_mm, row.extent_si_mm), row.centroid_ras_mm
    (0.08, (2.0, 4.0, 10.0), (2.5, 3.0, 7.5))
    """
    if volume is not None:
        segmentation.geometry.require_same(volume.geometry, what="segmentation and image")
    boxes = boxes_of(segmentation)
    # Meshes are made beside the rest: each leaves a core idle for half of its time.
    with ThreadPoolExecutor(1) as pool:
        meshes = pool.submit(mesh_sizes, segmentation)
        rows = [_row(segmentation, volume, label, boxes.get(label.value)) for label in segmentation.labels]
        return tuple(row.model_copy(update=meshes.result().get(row.value, {})) for row in rows)


def mesh_sizes(segmentation: Segmentation) -> dict[int, dict[str, float]]:
    """Return mesh volume, surface area and sphericity of each value that is present, by field name.

    The mesh is that of marching cubes on the mask, through the middles between voxel centres inside and outside. It is
    closed also where the structure is cut off by the border of the image.

    References
    ----------
    Sphericity (36 pi V^2)^(1/3) / A and the mesh: Zwanenburg et al., the Image Biomarker Standardisation Initiative,
    2020, doi:10.1148/radiol.2020191145.
    """
    array, matrix = segmentation.array, segmentation.geometry.affine[:3, :3]
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array, matrix = array.T, matrix[:, ::-1]
    i, j, k = array.shape
    meshes: dict[int, MeshSums] = {}
    for value, index, code in surface_parts(array):
        if code is not None:
            meshes.setdefault(value, MeshSums((i, j, k))).add(index, code)
    sizes = {}
    for value, mesh in meshes.items():
        area, volume = mesh.area_and_volume(matrix)
        sizes[value] = {
            "mesh_volume_ml": volume / 1000,
            "surface_area_mm2": area,
            "sphericity": (36 * math.pi * volume**2) ** (1 / 3) / area,
        }
    return sizes


def _row(segmentation: Segmentation, volume: Volume | None, label: Label, box: Box | None) -> Measurement:
    unit = None if volume is None else volume.unit
    if box is None:
        nothing = math.nan
        return Measurement(
            label=label.name,
            value=label.value,
            kind=label.kind,
            n_voxels=0,
            volume_ml=0.0,
            extent_rl_mm=nothing,
            extent_ap_mm=nothing,
            extent_si_mm=nothing,
            centroid_ras_mm=(nothing, nothing, nothing),
            touches_border=False,
            intensity_unit=unit,
            reason="the structure has no voxel",
        )
    geometry = segmentation.geometry
    mask = PlaneMask(segmentation.array[box], label.value)
    n = int(sections(mask)[0].sum())
    ends = line_ends(mask)
    rl, ap, si = extents_mm(ends, geometry)
    sides = border_sides(box, geometry)
    diameter_mm, diameter_ends = _diameter(ends, geometry)
    return Measurement(
        label=label.name,
        value=label.value,
        kind=label.kind,
        n_voxels=n,
        volume_ml=n * geometry.voxel_ml,
        extent_rl_mm=rl,
        extent_ap_mm=ap,
        extent_si_mm=si,
        centroid_ras_mm=centroid_ras_mm(mask, box, geometry),
        max_diameter_mm=diameter_mm,
        max_diameter_ends_ras_mm=two_points(geometry.to_mm(diameter_ends + [part.start for part in box])),
        touches_border=bool(sides),
        border_sides=sides,
        intensity_unit=unit,
        **({} if volume is None else _intensities_of(segmentation, volume, label, box, n)),
        reason="" if volume is not None else "no image was given: no intensities",
    )


def extents_mm(voxels: NDArray[np.intp], geometry: Geometry) -> tuple[float, float, float]:
    """Return the size of a structure along the patient's R-L, A-P and S-I axes in mm, voxel edges included.

    It is the size of the smallest box with faces square to the patient's axes that holds all of its voxels, also on
    an oblique grid.

    Parameters
    ----------
    voxels
        (N, 3), its voxels as indices into any crop of the grid; those of `line_ends` are enough.
    """
    matrix = geometry.affine[:3, :3]
    x, y, z = np.ptp(voxels @ matrix.T, axis=0) + np.abs(matrix).sum(axis=1)
    return (float(x), float(y), float(z))


def max_diameter_mm(mask: NDArray[np.bool_], geometry: Geometry) -> tuple[float, NDArray[np.float64]]:
    """Return the largest distance between two points of the mask's mesh in mm, and the two points.

    Parameters
    ----------
    mask
        Any crop of the grid, with at least one voxel.

    Returns
    -------
    diameter_mm, ends
        The length; the points as continuous indices into the crop, (2, 3). A single voxel is as long as the largest of
        its spacings. Of equally long ones, the one that comes first along the axes.
    """
    return _diameter(line_ends(mask), geometry)


def _diameter(voxels: NDArray[np.intp], geometry: Geometry) -> tuple[float, NDArray[np.float64]]:
    from scipy.spatial import ConvexHull

    # The mesh's corners lie half a step from the voxels; those of its hull are half a step from ends of lines.
    steps = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = (voxels[:, None] + steps).reshape(-1, 3)
    corners = points[ConvexHull(points).vertices]
    hull = corners[np.lexsort(corners.T[::-1])]
    mm = hull @ geometry.affine[:3, :3].T
    best, ends = -1.0, (0, 0)
    for number, point in enumerate(mm):
        squares = ((mm - point) ** 2).sum(axis=1)
        other = int(squares.argmax())
        # The slack lets the first of equally long ones win over the rounding of the later ones.
        if squares[other] > best * (1 + 1e-9):
            best, ends = float(squares[other]), (number, other)
    return float(np.linalg.norm(mm[ends[0]] - mm[ends[1]])), hull[list(ends)]


def two_points(mm: NDArray[np.float64]) -> tuple[Point, Point]:
    """Return positions (2, 3) in RAS+ mm as records hold them."""
    a, b = ((float(x), float(y), float(z)) for x, y, z in mm)
    return (a, b)


def centroid_ras_mm(mask: NDArray[np.bool_] | PlaneMask, box: Box, geometry: Geometry) -> tuple[float, float, float]:
    """Return the mean position of the mask's voxels in RAS+ mm; `box` is where the crop lies in the grid."""
    mean = [
        part.start + float(counts @ np.arange(len(counts)) / counts.sum())
        for part, counts in zip(box, sections(mask), strict=True)
    ]
    x, y, z = geometry.to_mm(mean)
    return (float(x), float(y), float(z))


def border_sides(box: Box, geometry: Geometry) -> tuple[str, ...]:
    """Return the faces of the grid that a box touches, by the patient direction that each lies nearest to."""
    sides = set()
    for part, n, code in zip(box, geometry.shape, geometry.axcodes, strict=True):
        if part.stop == n:
            sides.add(code)
        if part.start == 0:
            sides.add(_OPPOSITE[code])
    return tuple(side for side in "LRPAIS" if side in sides)


def _intensities_of(segmentation: Segmentation, volume: Volume, label: Label, box: Box, n: int) -> dict[str, float]:
    """Return the statistics of a structure of n voxels; those of a large one are not held all at once."""
    labels, image = segmentation.array[box], volume.array[box]
    if n <= SLAB_VOXELS:
        values, at = np.empty(n, image.dtype), 0
        for plane in values_of(image, labels, label.value):
            values[at : at + len(plane)] = plane
            at += len(plane)
        return intensities(values)
    lots = functools.partial(_lots, lambda: values_of(image, labels, label.value))
    return _statistics(lots, n, lambda ranks: ranked(lots, ranks))


def intensities(values: NDArray[Any]) -> dict[str, float]:
    """Return the statistics of a structure's voxels by field name; the SD is that of the population.

    Percentiles are interpolated linearly between the two nearest voxels, as numpy does it. The values are put into
    another order in place: there may be tens of millions of them.
    """

    def partitioned(ranks: list[int]) -> dict[int, Any]:
        values.partition(ranks)
        return {rank: values[rank] for rank in ranks}

    return _statistics(lambda: _lots(lambda: [values]), len(values), partitioned)


def _lots(blocks: Callable[[], Iterable[NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    """Deal values out in lots of one size, however they come: sums are then the same to the last bit."""
    waiting: list[NDArray[Any]] = []
    count = 0
    for block in blocks():
        rest = block
        while count + len(rest) >= _AT_ONCE:
            taken, rest = rest[: _AT_ONCE - count], rest[_AT_ONCE - count :]
            yield np.concatenate([*waiting, taken]) if waiting else taken
            waiting, count = [], 0
        if len(rest):
            waiting.append(rest)
            count += len(rest)
    if waiting:
        yield np.concatenate(waiting)


def _statistics(
    lots: Callable[[], Iterable[NDArray[Any]]], n: int, order: Callable[[list[int]], dict[int, Any]]
) -> dict[str, float]:
    ends, sums = [], []
    for lot in lots():
        ends.append((float(lot.min()), float(lot.max())))
        sums.append(float(lot.sum(dtype=np.float64)))
    mean = math.fsum(sums) / n
    # No copy of all of them in float64 is made.
    squares = math.fsum(float(((lot - np.float64(mean)) ** 2).sum()) for lot in lots())
    places = [(n - 1) * percent / 100 for percent in _PERCENTILES]
    known = order(sorted({rank for place in places for rank in (math.floor(place), math.ceil(place))}))
    found = []
    for place in places:
        low, high = float(known[math.floor(place)]), float(known[math.ceil(place)])
        found.append(low + (high - low) * (place - math.floor(place)))
    return {
        "intensity_mean": mean,
        "intensity_sd": math.sqrt(squares / n),
        "intensity_min": min(low for low, _ in ends),
        "intensity_p05": found[0],
        "intensity_median": found[1],
        "intensity_p95": found[2],
        "intensity_max": max(high for _, high in ends),
    }
