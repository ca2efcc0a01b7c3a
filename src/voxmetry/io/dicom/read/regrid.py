"""Onto a regular grid by choice: stacks whose steps vary, or that lean from the normal of their slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Float64, Geometry, swap_lps_ras
from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.grid import TILT_DEGREES, SlicePlane, axes_of

_NEGLIGIBLE_VOXELS = 0.01


def regrid(
    array: NDArray[Any], planes: Sequence[SlicePlane], *, allow_uneven: bool, resample_tilt: bool
) -> tuple[NDArray[Any], Geometry, str]:
    """Resample slices onto a regular grid with its third axis along their normal.

    Parameters
    ----------
    array
        (K, J, I), the slices from the lowest to the highest along the normal.
    planes
        Where each lies; all of one size, orientation and pixel spacing, no two at one place.
    allow_uneven
        Whether slices may be interpolated between neighbours that lie at uneven steps.
    resample_tilt
        Whether slices may be shifted in their plane.

    Returns
    -------
    ndarray of float32
        (K', J', I'). Within each slice and between neighbours the interpolation is linear, so no value lies outside
        those of the slices. The plane grows by the shift of the stack; there the lowest value of the image stands.
    Geometry
        First and last slice keep their places along the normal; the step is the one nearest to `_fine_step` that
        divides the distance between them.
    str
        What was done, in words and numbers.

    Raises
    ------
    SeriesError
        If the stack needs the choice that was not made.
    """
    row, column, normal = axes_of(planes[0])
    rise, run = planes[0].pixel_spacing
    offsets = np.array([plane.position for plane in planes]) - np.array(planes[0].position)
    heights, across, down = offsets @ normal, offsets @ row / run, offsets @ column / rise
    gaps = np.diff(heights)
    n_slices = max(1, round(float(heights[-1]) / _fine_step(gaps))) + 1
    step = float(heights[-1]) / (n_slices - 1)
    places: Float64 = np.arange(n_slices) * np.float64(step)
    told = []
    angle = _lean(heights, across * run, down * rise)
    if angle > TILT_DEGREES:
        if not resample_tilt:
            raise _refusal(
                f"the stack leans {angle:.2f} degrees from the slices' normal", "--resample-tilt (resample_tilt=True)"
            )
        told.append(f"resampled from a tilt of {angle:.2f} degrees, linear within each slice")
    uneven = n_slices != len(planes) or float(np.abs(heights - places).max()) > 1e-3 * step
    if uneven:
        if not allow_uneven and float(np.abs(gaps - step).max()) > 0.2 * step:
            raise _refusal(
                f"the step varies from {gaps.min():.4g} to {gaps.max():.4g} mm", "--allow-uneven (allow_uneven=True)"
            )
        told.append(
            f"resampled from {len(planes)} slices at steps of {gaps.min():.4g} to {gaps.max():.4g} mm onto {n_slices} "
            f"at {step:.4g} mm, linear between neighbours"
        )
    low, shape = _canvas(across, down, array.shape[1:])
    moved = np.full((len(planes), *shape), array.min(), np.float32)
    for k, values in enumerate(array):
        _place(moved[k], values, down[k] - low[0], across[k] - low[1])
    result = _between(moved, heights, places) if uneven else moved
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = row * run, column * rise, normal * step
    affine[:3, 3] = np.array(planes[0].position) + low[1] * row * run + low[0] * column * rise
    geometry = Geometry(swap_lps_ras(affine), (shape[1], shape[0], n_slices), planes[0].frame_uid)
    return result, geometry, "; ".join(told) or "resampled onto a regular grid, linear"


def _fine_step(gaps: Float64) -> float:
    """Return the usual distance of neighbours where they lie close: a quarter of all are no further apart.

    Examples
    --------
    >>> _fine_step(np.array([4.0] * 10 + [5.5] + [7.0] * 12)), _fine_step(np.array([3.0] * 20 + [0.5, 6.0]))
    (4.0, 3.0)
    """
    low = float(np.quantile(gaps, 0.25, method="lower"))
    return float(np.median(gaps[(gaps >= 0.8 * low) & (gaps <= 1.25 * low)]))


def _lean(heights: Float64, across_mm: Float64, down_mm: Float64) -> float:
    """Return the angle of the least-squares line through the positions from the normal, in degrees."""
    centred = heights - heights.mean()
    slopes = [float(centred @ (aside - aside.mean()) / (centred @ centred)) for aside in (across_mm, down_mm)]
    return float(np.degrees(np.arctan(np.hypot(slopes[0], slopes[1]))))


def _canvas(across: Float64, down: Float64, shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first row and column that any slice reaches, counted from the first slice's, and rows and columns."""
    low = (int(np.floor(down.min() + _NEGLIGIBLE_VOXELS)), int(np.floor(across.min() + _NEGLIGIBLE_VOXELS)))
    high = (int(np.ceil(down.max() - _NEGLIGIBLE_VOXELS)), int(np.ceil(across.max() - _NEGLIGIBLE_VOXELS)))
    return low, (shape[0] + high[0] - low[0], shape[1] + high[1] - low[1])


def _place(out: NDArray[Any], values: NDArray[Any], down: float, across: float) -> None:
    """Write a slice into a larger one, shifted by rows and columns that need not be whole; linear."""
    whole_down, whole_across = int(np.floor(down + _NEGLIGIBLE_VOXELS)), int(np.floor(across + _NEGLIGIBLE_VOXELS))
    rest_down, rest_across = max(down - whole_down, 0.0), max(across - whole_across, 0.0)
    blended = values.astype(np.float32)
    for axis, rest in ((0, rest_down), (1, rest_across)):
        if rest > _NEGLIGIBLE_VOXELS:
            # Beyond the edge the last value goes on: half of it and half of nothing would be neither.
            edge = [(0, 0), (0, 0)]
            edge[axis] = (1, 1)
            padded = np.pad(blended, edge, mode="edge")
            before = np.delete(padded, -1, axis)
            after = np.delete(padded, 0, axis)
            blended = (rest * before + (1 - rest) * after).astype(np.float32)
    rows, columns = blended.shape
    out[whole_down : whole_down + rows, whole_across : whole_across + columns] = blended[
        : out.shape[0] - whole_down, : out.shape[1] - whole_across
    ]


def _between(slices: NDArray[Any], heights: Float64, places: Float64) -> NDArray[Any]:
    """Interpolate linearly between neighbouring slices."""
    result = np.empty((len(places), *slices.shape[1:]), np.float32)
    upper = np.clip(np.searchsorted(heights, places, side="left"), 1, len(heights) - 1)
    for k, (place, index) in enumerate(zip(places, upper, strict=True)):
        share = float(np.clip((place - heights[index - 1]) / (heights[index] - heights[index - 1]), 0, 1))
        result[k] = (1 - share) * slices[index - 1] + share * slices[index]
    return result


def _refusal(found: str, choice: str) -> SeriesError:
    return SeriesError(
        found=found,
        expected="slices on a regular grid, or the choice to resample them onto one",
        fix=f"add {choice}, if interpolated values will do",
    )
