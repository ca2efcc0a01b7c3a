"""The grid of a DICOM segmentation: of its image, or worked out from its frames."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.axes import OFF_LATTICE, Move
from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.errors import GeometryError, ReadingWarning
from voxmetry.io.dicom.read.grid import tolerance_mm
from voxmetry.io.dicom.read.headers import (
    text,
)
from voxmetry.io.dicom.read.kinds import shown


@dataclass(frozen=True)
class SegFrame:
    """One frame: its place in LPS+ mm and the segment that it belongs to (0: a label map holds all)."""

    index: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    step_mm: float | None
    """Spacing Between Slices."""
    thickness_mm: float | None
    segment: int


@dataclass(frozen=True)
class PlacedFrames:
    """The frames' own grid, and how it lies in the one that was asked for."""

    own: Geometry
    move: Move | None
    target: Geometry
    name: str

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array of the frames' grid onto the grid that was asked for."""
        return self.move(array) if self.move else array


def own_grid(
    frames: Sequence[SegFrame], dataset: Any, name: str, grid: Geometry | None
) -> tuple[Geometry, tuple[int, ...]]:
    """Return the grid from the lowest to the highest frame, and the slice of each frame on it."""
    first = frames[0]
    odd = [
        f"frame {x.index + 1}"
        for x in frames
        if np.abs(np.subtract(x.orientation, first.orientation)).max() > 2e-4
        or np.abs(np.subtract(x.spacing, first.spacing)).max() > 1e-4 * min(first.spacing)
    ]
    if odd:
        raise GeometryError(
            found=f"{name}: {shown(odd)} with another orientation or pixel spacing than the first",
            expected="one grid",
            fix="export the segmentation for one series",
        )
    row, column = np.reshape(first.orientation, (2, 3)).astype(np.float64)
    normal = np.cross(row, column)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    lowest = int(heights.argmin())
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * first.spacing[1], column * first.spacing[0]
    snapped = _on_image(affine, normal, positions, grid) if grid is not None else None
    if snapped is not None:
        affine, slots = snapped
    else:
        step, slots = _steps(heights - heights[lowest], first, normal, grid, name)
        affine[:3, 2] = normal * step
        # From all frames, so that the rounding of one position does not move the others.
        origins = positions - np.outer(slots, affine[:3, 2])
        affine[:3, 3] = np.median(origins, axis=0)
        off = np.linalg.norm(origins - affine[:3, 3], axis=1)
        if off.max() > tolerance_mm(step):
            raise GeometryError(
                found=f"frame {int(off.argmax()) + 1} of {name} lies {off.max():.3g} mm off the grid of the others",
                expected=f"frames one above the other, a whole number of steps apart (to {tolerance_mm(step):.3g} mm)",
                fix="pass the image that was segmented, so that its slices say where frames may lie, "
                "or resample the segmentation onto a regular grid",
            )
    shape = (int(dataset.Columns), int(dataset.Rows), int(slots.max()) + 1)
    return Geometry(swap_lps_ras(affine), shape, text(dataset, "FrameOfReferenceUID")), tuple(slots.tolist())


def _on_image(
    affine: Float64, normal: Float64, positions: Float64, grid: Geometry
) -> tuple[Float64, NDArray[np.intp]] | None:
    """Put frames on the slices of the image that they belong to; None where they are none of its slices.

    Positions of both are rounded in headers. What counts as a slice's place for the image does so for a frame of it.
    """
    ijk = grid.to_ijk(swap_lps_ras(positions))
    nearest = np.rint(ijk)
    off = np.linalg.norm(grid.to_mm(nearest) - swap_lps_ras(positions), axis=1)
    directions = np.column_stack([affine[:3, 0], affine[:3, 1], normal])
    steps = np.linalg.solve(grid.affine[:3, :3], swap_lps_ras(directions.T).T)
    axes = np.abs(steps).argmax(axis=0)
    along = grid.spacing_mm[int(axes[2])]
    whole = np.zeros((3, 3))
    whole[axes, range(3)] = np.sign(steps[axes, range(3)])
    # In the plane a pixel is a pixel of the image: over a whole row the two may part by a twentieth of one.
    parts = np.abs(steps[:, :2] - whole[:, :2]).max() * max(grid.shape)
    if sorted(axes.tolist()) != [0, 1, 2] or parts > OFF_LATTICE or off.max() > tolerance_mm(along):
        return None
    found = np.eye(4)
    found[:3, :3] = swap_lps_ras((grid.affine[:3, :3] @ whole).T).T
    places = nearest[:, axes[2]] * whole[axes[2], 2]
    lowest = int(places.argmin())
    found[:3, 3] = swap_lps_ras(grid.to_mm(nearest[lowest]))
    return found, (places - places[lowest]).astype(np.intp)


def _steps(
    heights: Float64, first: SegFrame, normal: Float64, grid: Geometry | None, name: str
) -> tuple[float, NDArray[np.intp]]:
    """Return the step in mm, and how many lie below each frame.

    The step is the image's; without one the positions decide it, with what the header says for frames that were left
    out: see `_stated_steps`. It is fitted to all positions by least squares.
    """
    if grid is not None:
        along = np.abs(swap_lps_ras(normal) @ grid.directions)
        image_mm = grid.spacing_mm[int(along.argmax())]
        return image_mm, np.rint(heights / image_mm).astype(np.intp)
    gaps = np.diff(np.unique(np.round(heights, 3)))
    gaps = gaps[gaps > 0.01]
    if not gaps.size:
        stated = first.step_mm or first.thickness_mm
        if not stated:
            raise GeometryError(
                found=f"{name} has one slice and no Slice Thickness",
                expected="a thickness, or the image that was segmented",
                fix="pass the image",
            )
        return stated, np.zeros(len(heights), np.intp)
    usual = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    for step in (*_stated_steps(gaps, first), usual):
        fitted = _fitted(gaps, step)
        if fitted is not None:
            return fitted, np.rint(heights / fitted).astype(np.intp)
    smallest = float(gaps.min())
    return smallest, np.rint(heights / smallest).astype(np.intp)


def warn_of_step(frames: Sequence[SegFrame], step_mm: float, name: str) -> None:
    """Warn where Spacing Between Slices contradicts the distance of the frames."""
    stated = frames[0].step_mm
    if stated and abs(step_mm - stated) > tolerance_mm(step_mm):
        warnings.warn(
            f"{name}: Spacing Between Slices says {stated:.4g} mm, and its frames lie {step_mm:.4g} mm apart: their "
            "positions were taken",
            ReadingWarning,
            stacklevel=4,
        )


def _stated_steps(gaps: Float64, first: SegFrame) -> list[float]:
    """Return the steps that a header states and the gaps between frames confirm.

    A stated step is confirmed by gaps that have no larger step in common: frames at 0, 2 and 5 mm are a millimetre
    apart, with frames left out, those at 0, 3 and 6 mm are not. A single gap confirms a Spacing Between Slices unless
    the slices are as thick as the gap is wide. Slice Thickness is no step, and a single gap never confirms it.
    """
    confirmed = []
    for stated, is_step in ((first.step_mm, True), (first.thickness_mm, False)):
        if stated is None or _fitted(gaps, stated) is None:
            continue
        shared = int(np.gcd.reduce(np.rint(gaps / stated).astype(np.int64)))
        thick = (first.thickness_mm or 0.0) >= gaps.min() - tolerance_mm(float(gaps.min()))
        if shared == 1 or (len(gaps) == 1 and is_step and not thick):
            confirmed.append(stated)
    return confirmed


def _fitted(gaps: Float64, step: float) -> float | None:
    """Return a step that is near to this one and fits all gaps, each a whole number of it; None where none does."""
    slots = np.concatenate([[0], np.cumsum(np.maximum(np.rint(gaps / step), 1))])
    places = np.concatenate([[0.0], np.cumsum(gaps)])
    centred = slots - slots.mean()
    fitted = float(centred @ places / (centred @ centred))
    off = np.abs(places - places.mean() - fitted * centred).max()
    return fitted if off <= tolerance_mm(fitted) else None
