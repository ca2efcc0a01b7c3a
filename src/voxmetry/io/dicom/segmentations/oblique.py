"""Contours that are turned against the image's grid: each voxel centre is compared with the nearest contour plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxmetry.core.geometry import Float64, Geometry
from voxmetry.errors import GeometryError
from voxmetry.io.dicom.segmentations.contours import COPY, is_copy, own_step, planes_of
from voxmetry.io.overlapping import Piece

_FLAT_MM = 0.5
"""Points of one contour may lie this far from its plane: they are rounded, and drawn by hand."""
_PARALLEL = 0.999
"""Cosine between the normals of two contours of one structure; 2.6 degrees."""


def fill_oblique(contours: Sequence[tuple[Float64, bool]], grid: Geometry, name: str) -> list[Piece]:
    """Fill planar contours of any orientation.

    Parameters
    ----------
    contours
        Points in voxel indices (N, 3) and whether the contour is one of an exclusive or.
    grid
        The image's grid.
    name
        Of the structure, for messages.

    Returns
    -------
    list of pieces
        Index into the grid and mask: the box round the contours.

    Raises
    ------
    GeometryError
        If a contour is not flat, or the contours are not parallel.
    """
    mm = [(grid.to_mm(points), is_xor) for points, is_xor in contours]
    frame = _frame([points for points, _ in mm], name)
    turned = [(points @ frame.T, is_xor) for points, is_xor in mm]
    levels = np.array([float(points[:, 2].mean()) for points, _ in turned])
    slice_mm = float((np.abs(frame[2] @ grid.directions) * grid.spacing_mm).sum())
    planes = planes_of(levels, slice_mm, slice_mm)
    heights = np.array([height for height, _ in planes])
    step = own_step(heights, slice_mm)
    every = np.concatenate([points for points, _ in contours])
    reach = step / 2 / np.array(grid.spacing_mm)
    low = np.maximum(np.floor(every.min(axis=0) - reach), 0).astype(int)
    high = np.minimum(np.ceil(every.max(axis=0) + reach), np.array(grid.shape) - 1).astype(int) + 1
    # A structure that lies outside of the image has an empty box.
    high = np.maximum(high, low)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    index = np.stack(np.meshgrid(*[np.arange(x.start, x.stop) for x in box], indexing="ij"), axis=-1)
    places = grid.to_mm(index) @ frame.T
    nearest = np.abs(places[..., 2, None] - heights).argmin(axis=-1)
    mask = np.zeros(places.shape[:3], bool)
    for number, (height, members) in enumerate(planes):
        slab = (nearest == number) & (np.abs(places[..., 2] - height) <= step / 2)
        rings = [(turned[index][0][:, :2], turned[index][1]) for index in members]
        mask[slab] = _inside(places[slab][:, :2], rings)
    return [(box, mask)]


def _frame(contours: Sequence[Float64], name: str) -> Float64:
    """Return rows u, v, normal of the plane that all contours are parallel to, (3, 3)."""
    largest = max(contours, key=lambda points: float(np.ptp(points, axis=0).max()))
    _, _, axes = np.linalg.svd(largest - largest.mean(axis=0), full_matrices=False)
    frame = np.array([axes[0], np.cross(axes[2], axes[0]), axes[2]])
    off = max(float(np.ptp(points @ axes[2])) for points in contours)
    if off > _FLAT_MM:
        raise GeometryError(
            found=f"{name} has contours that are not flat or not parallel: points {off:.3g} mm apart along the normal",
            expected="planar contours, one above the other",
            fix="export the structures again, on the slices that they were drawn on",
        )
    return frame


def _inside(points: Float64, rings: Sequence[tuple[Float64, bool]]) -> np.ndarray:
    """Whether points (N, 2) lie inside: a ring in others is a hole, one beside them is joined, a copy counts once."""
    from matplotlib.path import Path

    found = np.zeros(len(points), bool)
    seen: list[Float64] = []
    for ring, is_xor in sorted(rings, key=lambda pair: -float(np.ptp(pair[0], axis=0).max())):
        if not is_xor and any(is_copy(ring, other, COPY) for other in seen):
            continue
        seen.append(ring)
        within = Path(ring).contains_points(points)
        if is_xor or found[within].all():
            found ^= within
        else:
            found |= within
    return found
