"""A look at the values that came out: what no scanner makes is refused, with the numbers that say so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import SeriesInfo
from voxmetry.errors import SeriesError

_BRIGHTEST_OF_8_BITS = 255
_WIDE_MM = 250.0
_DENSEST_HU = 3.2e4
_THINNEST_HU = -1100
_STEP = 4
_MOST_OF_DOSE = 2.0
"""Calibration, noise and scatter make some tenths; a wrong unit or hour makes a multiple."""


def check_values(array: NDArray[Any], info: SeriesInfo, unit: str, *, rescaled: bool = True) -> None:
    """Refuse a volume whose values cannot be what its header says.

    Parameters
    ----------
    array
        (K, J, I), rescaled.
    info, unit
        What the series is, and what its values mean.
    rescaled
        Whether its headers hold a slope and an intercept.

    Raises
    ------
    SeriesError
        If all voxels are the same, a slice within the stack holds zeros alone, or a CT's values are no Hounsfield
        units.
    """
    ends = [(slab.min(), slab.max()) for slab in array]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if low == high and array.size > 1:
        raise _refusal(info, f"all voxels are {low:g}", "an image", "look at the files in a viewer; export them again")
    blank = [k for k, end in enumerate(ends) if end == (0, 0)]
    full = [k for k, end in enumerate(ends) if end != (0, 0)]
    inside = [k for k in blank if full[0] < k < full[-1]]
    if inside:
        raise _refusal(
            info,
            f"slice {inside[0] + 1} of {len(ends)} holds zeros alone, between slices that do not",
            "pixels in every slice within the stack",
            "export the series again: the pixels of this slice were lost",
        )
    if unit == "HU":
        _check_hounsfield(array, info, float(low), float(high), rescaled=rescaled)


def check_uptake(array: NDArray[Any], info: SeriesInfo, size: float | None) -> None:
    """Refuse SUV by which the field of view holds more than was left of the injected activity.

    Parameters
    ----------
    array
        (K, J, I), SUV.
    info
        The series.
    size
        What SUV is normalised by, in g or cm2; None leaves the check out.

    Raises
    ------
    SeriesError
        If the activity in the image is more than `_MOST_OF_DOSE` times that of the dose: SUV is concentration x size /
        dose, so its sum times the voxel volume over the size is that share.
    """
    if size is None or info.spacing_mm is None:
        return
    voxel_ml = math.prod(info.spacing_mm) / 1000
    share = float(np.sum(array, dtype=np.float64)) * voxel_ml / size
    if share > _MOST_OF_DOSE:
        raise _refusal(
            info,
            f"SUV up to {float(array.max()):.3g}, by which the image holds {share:.3g} times the activity that "
            "was left of the injected dose",
            "no more activity in the image than was injected",
            "check dose, weight, times and units in the headers, or read its values as they are stored "
            "(suv='none', --suv none)",
        )


def _check_hounsfield(array: NDArray[Any], info: SeriesInfo, low: float, high: float, *, rescaled: bool) -> None:
    fix = "export the original series, in Hounsfield units, in place of one that was windowed or lost its intercept"
    expected = "Hounsfield units: air near -1000, water near 0"
    if low >= 0 and high <= _BRIGHTEST_OF_8_BITS:
        raise _refusal(info, f"CT values from {low:g} to {high:g}, as of a picture of 8 bits", expected, fix)
    if low >= 0 and not rescaled:
        raise _refusal(
            info,
            f"CT values from {low:g} to {high:g} without Rescale Slope and Intercept, as scanners store them",
            expected,
            fix,
        )
    wide = (
        info.spacing_mm is not None
        and min(array.shape[2] * info.spacing_mm[0], array.shape[1] * info.spacing_mm[1]) >= _WIDE_MM
    )
    if low >= 0 and wide:
        raise _refusal(
            info, f"CT values from {low:g} to {high:g}, none below 0 in a field that holds air", expected, fix
        )
    if high > _DENSEST_HU:
        raise _refusal(info, f"CT values up to {high:g}", expected, fix)
    sample = array[:: max(1, array.shape[0] // 32), ::_STEP, ::_STEP]
    # Corners outside the scan hold a padding value, which is the lowest and the same in all of them.
    body = sample[sample > low]
    if body.size and float(np.median(body)) < _THINNEST_HU:
        raise _refusal(info, f"CT values of which half are below {_THINNEST_HU}", expected, fix)


def _refusal(info: SeriesInfo, found: str, expected: str, fix: str) -> SeriesError:
    return SeriesError(found=f"series {info.key}: {found}", expected=expected, fix=fix)
