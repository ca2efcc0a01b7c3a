"""Which values of an image are shown as black and as white."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.volume import Volume

Window: TypeAlias = tuple[float, float]
"""The values that are black and white, in the image's unit."""

# Usual CT windows (level 40 width 400, level -600 width 1500, level 400 width 1800) as their ends in HU.
SOFT_TISSUE: Window = (-160.0, 240.0)
LUNG: Window = (-1350.0, 150.0)
BONE: Window = (-500.0, 1300.0)

_SAMPLE = 200_000


def display_window(volume: Volume, median: float = math.nan) -> Window:
    """Choose the window that an image is shown in.

    CT: soft tissue, or lung or bone where the structure that is shown is one by its median. PET in SUV: from 0 to the
    99.9th percentile, at least 5 and at most 15. Anything else: from the 0.5th to the 99.5th percentile of the voxels
    that are not exactly 0, which most often are outside the body.

    Parameters
    ----------
    volume
        The image.
    median
        Median value of the structure that is shown, in the image's unit, or nan.
    """
    if volume.unit == "HU":
        return LUNG if median < -400 else BONE if median > 200 else SOFT_TISSUE
    values = _sample(volume.array)
    if volume.unit == "SUVbw":
        return (0.0, float(np.clip(np.percentile(values, 99.9), 5.0, 15.0)))
    inside = values[values != 0]
    low, high = np.percentile(inside if inside.size else values, (0.5, 99.5))
    if low == high:
        return (float(low) - 0.5, float(high) + 0.5)
    return (float(low), float(high))


def _sample(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return about 200 000 evenly spread voxels: enough for a percentile, and quick on any image."""
    step = max(1, round((array.size / _SAMPLE) ** (1 / 3)))
    return array[::step, ::step, ::step].astype(np.float64).ravel()
