"""One row a lesion: connected components of a structure, with the diameters that a radiologist would draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import Label
from voxmetry.core.memory import is_mapped
from voxmetry.core.records import Lesion
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, LabelError
from voxmetry.io.memory import fits_memory
from voxmetry.measurement.locator import Locator
from voxmetry.measurement.volumetry import (
    border_sides,
    centroid_ras_mm,
    intensities,
    max_diameter_mm,
    two_points,
)
from voxmetry.ops.boxes import Box, boxes_of
from voxmetry.ops.layout import values_in
from voxmetry.ops.parts import find_parts

PEAK_RADIUS_MM = (3 * 1000 / (4 * math.pi)) ** (1 / 3)
"""Radius of a sphere of 1 mL, 6.2 mm."""


Plane: TypeAlias = Literal["axial", "coronal", "sagittal"]
_PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
BOX_BYTES, LESION_BYTES = 6, 100
"""A voxel of a lesion's box, and of the lesion, while it is measured."""
_THICK = 1.7
"""Times that a slice is thicker than its pixels are long, from which on it was acquired as one. No scanner's usual
ratio lies near it, so that rounding does not decide."""


class Component(NamedTuple):
    """One lesion: its mask in a crop, where the crop lies in the grid, and the structure that it belongs to."""

    mask: NDArray[np.bool_]
    box: Box
    label: Label


class _Axes(NamedTuple):
    """Long and short axis in one slice: lengths in mm, ends as indices into the grid, (2, 3) each."""

    long_mm: float
    long_ends: NDArray[np.float64]
    short_mm: float
    short_ends: NDArray[np.float64]
    slice_index: int


def lesions(
    segmentation: Segmentation,
    volume: Volume | None = None,
    *,
    labels: Sequence[str] | None = None,
    organs: Segmentation | None = None,
    connectivity: int = 26,
    min_volume_ml: float = 0.0,
    skipped: list[str] | None = None,
) -> tuple[Lesion, ...]:
    """Measure each connected component of the lesion labels.

    Parameters
    ----------
    segmentation
        The label map.
    volume
        The image on the same grid, for intensity statistics; for PET in SUVbw also SUVpeak and total lesion
        glycolysis.
    labels
        Structures to take apart; None takes those of kind 'lesion'.
    organs
        Label map on the same grid whose structures of kind 'organ' say where a lesion lies; it may be `segmentation`.
    connectivity
        26: voxels that share a corner belong together; 18: an edge; 6: a face.
    min_volume_ml
        Smaller components are left out.
    skipped
        Takes the id of each lesion that there is no memory to measure, which is left out then, and "the organs in which
        lesions lie" where there is none to find these by; None measures all, whatever that takes.

    Returns
    -------
    tuple of Lesion
        Label by label, the largest component first; of equal ones the most inferior, posterior, left one first, so
        that the numbers do not depend on how the voxels are stored.

    Raises
    ------
    GeometryError
        If the image or the organs lie on another grid.
    LabelError
        If a name is unknown.
    ConfigError
        If the connectivity or the smallest volume is none.

    References
    ----------
    Diameters: Eisenhauer et al., RECIST 1.1, 2009, doi:10.1016/j.ejca.2008.10.026. SUVpeak: Wahl et al., 2009,
    doi:10.2967/jnumed.108.057307.

    Examples
    --------
    >>> from voxmetry import LabelTable
    >>> array = np.zeros((20, 20, 5), np.uint8)
    >>> array[2:12, 3:7, 2] = 1
    >>> array[15, 15, 4] = 1
    >>> nodes = Segmentation(array, Geometry(np.eye(4), array.shape), LabelTable.from_names({1: "node"}))
    >>> [(x.id, x.n_voxels, round(x.long_axis_mm, 2)) for x in lesions(nodes, labels=["node"])]
    [('node-1', 40, 10.44), ('node-2', 1, 1.0)]
    """
    if connectivity not in (6, 18, 26) or not min_volume_ml >= 0:
        raise ConfigError(
            found=f"connectivity={connectivity}, min_volume_ml={min_volume_ml}",
            expected="6, 18 or 26, and a volume of 0 or above",
            fix="use 26 and 0.0 if in doubt",
        )
    for other, what in ((volume, "segmentation and image"), (organs, "segmentation and organs")):
        if other is not None:
            segmentation.geometry.require_same(other.geometry, what=what)
    chosen = [x for x in segmentation.labels if x.kind == "lesion"]
    if labels is not None:
        chosen = [segmentation.labels[name] for name in dict.fromkeys(labels)]
    boxes = boxes_of(segmentation) if chosen else {}
    present = [label for label in chosen if label.value in boxes]
    # Surfaces of all organs are looked for only where a lesion is to be located.
    locate = Locator(organs) if organs is not None and present else None
    if locate is not None and skipped is not None and locate.too_large:
        skipped.append("the organs in which lesions lie")
        locate = None
    rows = []
    for label in present:
        found = _in_order(
            segmentation,
            label,
            boxes[label.value],
            connectivity,
            min_volume_ml,
            as_far_as_fits=skipped is not None and is_mapped(segmentation.array),
        )
        for number, x in enumerate(found, start=1):
            name = f"{label.name}-{number}"
            if x is not None:
                rows.append(Lesion(id=name, **part_fields(x, segmentation.geometry, volume, locate)))
            elif skipped is not None:
                skipped.append(name)
    return tuple(rows)


def measurement_plane(geometry: Geometry) -> tuple[int, Plane]:
    """Return the axis that RECIST's slices are stacked along, and the name of their plane.

    RECIST 1.1 asks for the longest diameter in the plane of measurement. Where voxels are more than 1.7 times as long
    along one axis as along both others, the slices across it are those that were acquired; else the slices are those
    nearest to axial.

    Examples
    --------
    >>> measurement_plane(Geometry(np.diag([5.0, 1.0, 1.0, 1.0]), (20, 256, 256)))
    (0, 'sagittal')
    >>> measurement_plane(Geometry(np.diag([1.0, 1.0, 1.5, 1.0]), (256, 256, 90)))
    (2, 'axial')
    """
    order = geometry.closest_axes[0]
    spacing = geometry.spacing_mm
    longest = int(np.argmax(spacing))
    rest = max(length for axis, length in enumerate(spacing) if axis != longest)
    axis = longest if spacing[longest] > _THICK * rest else order.index(2)
    return axis, _PLANES[order[axis]]


def ordered_components(
    segmentation: Segmentation, label: Label, whole: Box, connectivity: int, min_volume_ml: float
) -> Iterator[Component]:
    """Yield the lesions of one structure, which lies in the box `whole`, in the order of their numbers."""
    found = _in_order(segmentation, label, whole, connectivity, min_volume_ml)
    return (component for component in found if component is not None)


def _in_order(
    segmentation: Segmentation,
    label: Label,
    whole: Box,
    connectivity: int,
    min_volume_ml: float,
    *,
    as_far_as_fits: bool = False,
) -> Iterator[Component | None]:
    """Yield the lesions of one structure one after the other: the mask of one is there at once.

    With `as_far_as_fits`, None stands for one that there is no memory to measure.
    """
    geometry = segmentation.geometry
    corner = [part.start for part in whole]
    parts = find_parts(segmentation.array[whole], lambda slab: slab == label.value, connectivity)

    def order(number: int) -> tuple[float, ...]:
        place = np.round(geometry.to_mm(parts.centroid(number, corner))[::-1], 3)
        return (-float(parts.sizes[number - 1]), *place.tolist())

    large = np.flatnonzero(parts.sizes * geometry.voxel_ml >= min_volume_ml) + 1
    for number in sorted(large.tolist(), key=order):
        box = parts.boxes[number - 1] + np.array(corner)[:, None]
        i, j, k = (slice(low, high) for low, high in box.tolist())
        needed = BOX_BYTES * int(np.prod(box[:, 1] - box[:, 0])) + LESION_BYTES * int(parts.sizes[number - 1])
        if as_far_as_fits and not fits_memory(needed):
            yield None
        else:
            yield Component(parts.mask(number), (i, j, k), label)


def part_fields(
    x: Component, geometry: Geometry, volume: Volume | None = None, locate: Locator | None = None
) -> dict[str, Any]:
    """Measure one part of a structure: the fields of `Part` but its id.

    Parameters
    ----------
    x
        Its mask, where that lies in the grid, its structure.
    geometry
        The grid.
    volume
        The image on the grid, for intensities.
    locate
        Finds the organ that it lies in.
    """
    corner = np.array([part.start for part in x.box])
    n = int(np.count_nonzero(x.mask))
    axis, plane = measurement_plane(geometry)
    axes = _recist(x.mask, geometry, axis)
    sides = border_sides(x.box, geometry)
    diameter_mm, diameter_ends = max_diameter_mm(x.mask, geometry)
    location, distance_mm = locate(np.argwhere(x.mask) + corner) if locate else (None, math.nan)
    return {
        "label": x.label.name,
        "value": x.label.value,
        "n_voxels": n,
        "volume_ml": n * geometry.voxel_ml,
        "centroid_ras_mm": centroid_ras_mm(x.mask, x.box, geometry),
        "max_diameter_mm": diameter_mm,
        "max_diameter_ends_ras_mm": two_points(geometry.to_mm(diameter_ends + corner)),
        "long_axis_mm": axes.long_mm,
        "long_axis_ends_ras_mm": two_points(geometry.to_mm(axes.long_ends + corner)),
        "short_axis_mm": axes.short_mm,
        "short_axis_ends_ras_mm": two_points(geometry.to_mm(axes.short_ends + corner)),
        "slice_axis": axis,
        "plane": plane,
        "slice_index": int(axes.slice_index + corner[axis]),
        "touches_border": bool(sides),
        "border_sides": sides,
        "location": location,
        "location_distance_mm": distance_mm,
        **({} if volume is None else _intensities(x, volume, n * geometry.voxel_ml)),
    }


def _intensities(x: Component, volume: Volume, volume_ml: float) -> dict[str, Any]:
    numbers: dict[str, Any] = {"intensity_unit": volume.unit, **intensities(values_in(volume.array[x.box], x.mask))}
    if volume.unit == "SUVbw":
        numbers["suv_peak"] = suv_peak(x.mask, x.box, volume)
        numbers["total_lesion_glycolysis_suv_ml"] = numbers["intensity_mean"] * volume_ml
        return numbers
    return {**numbers, "reason": f"the image is in {volume.unit}, not in SUVbw: no SUVpeak, no total lesion glycolysis"}


def suv_peak(mask: NDArray[np.bool_], box: Box, volume: Volume) -> float:
    """Return the largest mean in a sphere of 1 mL round a voxel of the mask, in the image's unit.

    The sphere holds the voxels whose centre is within 6.2 mm of its own; those outside the image are left out.

    Parameters
    ----------
    mask
        The crop `box` of the grid.
    """
    matrix = volume.geometry.affine[:3, :3]
    # Rows of the inverse bound how many steps along each axis a sphere can reach.
    reach = np.floor(PEAK_RADIUS_MM * np.linalg.norm(np.linalg.inv(matrix), axis=1)).astype(int)
    steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
    steps = steps[np.linalg.norm(steps @ matrix.T, axis=1) <= PEAK_RADIUS_MM]
    where = np.argwhere(mask) + [part.start for part in box]
    total, count = np.zeros(len(where)), np.zeros(len(where), np.intp)
    for step in steps:
        place = where + step
        inside = ((place >= 0) & (place < volume.array.shape)).all(axis=1)
        total[inside] += volume.array[tuple(place[inside].T)]
        count += inside
    return float((total / count).max())


def _recist(mask: NDArray[np.bool_], geometry: Geometry, axis: int) -> _Axes:
    """Find the slice with the longest diameter; of equal ones the first along the axis."""
    others = [a for a in range(3) if a != axis]
    matrix = geometry.affine[:3, :3][:, others]
    best: _Axes | None = None
    for index, plane in enumerate(np.moveaxis(mask, axis, 0)):
        if not plane.any():
            continue
        long, short = _plane_axes(plane, matrix, 0.0 if best is None else best.long_mm)
        if long is None or short is None:
            continue
        ends = [np.insert(pair, axis, index, axis=1) for pair in (long, short)]
        lengths = [float(np.linalg.norm(matrix @ (pair[1] - pair[0]))) for pair in (long, short)]
        best = _Axes(lengths[0], ends[0], lengths[1], ends[1], index)
    if best is None:
        raise LabelError(found="a lesion without a voxel", expected="one voxel at least", fix="leave it out")
    return best


def _plane_axes(
    plane: NDArray[np.bool_], matrix: NDArray[np.float64], at_least_mm: float
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return the ends of the long and the short axis as plane indices, (2, 2) each; None if not longer than asked."""
    from scipy.spatial import ConvexHull

    steps = np.concatenate([np.eye(2), -np.eye(2)]) / 2
    points = (np.argwhere(plane)[:, None] + steps).reshape(-1, 2)
    hull = points[ConvexHull(points).vertices]
    # An orthonormal frame of the plane, so that lengths and right angles are those of the patient.
    frame = np.linalg.qr(matrix)[0]
    to_plane = frame.T @ matrix
    mm = hull @ to_plane.T
    squares = ((mm[:, None] - mm) ** 2).sum(axis=2)
    a, b = np.unravel_index(int(squares.argmax()), squares.shape)
    length = math.sqrt(squares[a, b])
    if length <= at_least_mm * (1 + 1e-9):
        return None, None
    along = (mm[b] - mm[a]) / length
    turned = np.column_stack([mm @ along, mm @ [-along[1], along[0]]])
    s, low, high = _longest_chord(turned)
    ends = np.array([s * along + w * np.array([-along[1], along[0]]) for w in (low, high)])
    return hull[[a, b]], np.linalg.solve(to_plane, ends.T).T


def _longest_chord(polygon: NDArray[np.float64]) -> tuple[float, float, float]:
    """Longest chord of a convex polygon along its second coordinate: where, lower end, upper end.

    The chord's length is a concave function, linear between the corners, so that it is longest at a corner.
    """
    a, b = polygon, np.roll(polygon, -1, axis=0)
    run = b[:, 0] - a[:, 0]
    best = (0.0, 0.0, 0.0)
    for s in np.sort(polygon[:, 0]):
        crossed = (np.minimum(a[:, 0], b[:, 0]) <= s) & (np.maximum(a[:, 0], b[:, 0]) >= s)
        share = np.divide(s - a[:, 0], run, out=np.zeros_like(run), where=run != 0)
        heights = (a[:, 1] + share * (b[:, 1] - a[:, 1]))[crossed]
        if heights.max() - heights.min() > (best[2] - best[1]) * (1 + 1e-9):
            best = (float(s), float(heights.min()), float(heights.max()))
    return best
