"""What a person should know about an image before its segmentation is used: artefacts, missing data, strange values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.config import Landmarks, Range, TrainingDomain
from voxmetry.core.memory import release_pages
from voxmetry.core.records import Flag
from voxmetry.core.volume import Volume
from voxmetry.ops.layout import memory_axes
from voxmetry.ops.parts import SLAB_VOXELS
from voxmetry.ops.ranks import percentiles

METAL_HU = 3000
"""Bone and enamel end below; metal reaches the top of the scanner's scale, 3071 HU, or lies above."""
METAL_ML = 0.2
"""Metal above this volume is flagged: a clip is smaller."""
BODY_HU = -300
CUT_SHARE = 0.05
"""Share of the image's four sides that may lie in the body: the table and an elbow pass."""
SECTION_MM = 300.0
"""A model that has seen smaller images across was trained on regions, whose sides always lie in the body."""
LANDMARKS = (5, 50, 95)
"""Percentiles of an image's values that are compared with those of the training images."""
LANDMARK_MARGIN = 0.25
"""Share of the range that was seen by which a value may lie beside it."""
SUV_RANGE = (0.2, 300.0)
"""Within which the largest SUV of a PET lies, whatever is in it: noise in air, the bladder."""
_AXES = {"L": "left to right", "P": "posterior to anterior", "I": "inferior to superior"}


def flag_image(volume: Volume, name: str, modality: str, domain: TrainingDomain) -> tuple[Flag, ...]:
    """Look for what makes an image unfit, or unlike what a model was trained on.

    Parameters
    ----------
    volume
        The image, (I, J, K).
    name
        The model's name for this input.
    modality
        What the model takes it for: "CT", "MR" or "PT".
    domain
        What the model has seen; what is not known there is not flagged.
    """
    found = [*_slices(volume, name), *_values(volume, name)]
    if volume.unit == "HU":
        found += [*_metal(volume), *_cut_body(volume, domain)]
    seen = domain.intensity.get(name)
    return (*found, *(_unlike(volume, name, modality, seen) if seen is not None else ()))


def landmarks(volume: Volume, modality: str) -> tuple[float, float, float]:
    """Return the 5th, 50th and 95th percentile of an image's values that are not exactly 0.

    Of CT and PET as they are, by which a file in another unit stands out; of MR, which has no unit, in parts of their
    own 95th percentile. nan for an image that holds nothing but 0, or of MR whose 95th percentile is not above 0.

    Examples
    --------
    >>> from voxmetry import Geometry
    >>> grid = Geometry(np.eye(4), (10, 10, 10))
    >>> landmarks(Volume(np.arange(1000, dtype=np.float32).reshape(10, 10, 10), grid, "HU"), "CT")
    (50.9, 500.0, 949.1)
    """
    if not volume.array.any():
        return (np.nan, np.nan, np.nan)
    low, middle, high = (round(x, 4) for x in percentiles(lambda: _not_zero(volume.array), LANDMARKS))
    if modality in ("CT", "PT"):
        return (low, middle, high)
    return (low / high, middle / high, 1.0) if high > 0 else (np.nan, np.nan, np.nan)


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield slabs of an array along memory, (n, rows, columns)."""
    stored = array.transpose(memory_axes(array))
    thick = max(1, SLAB_VOXELS // max(1, stored.shape[1] * stored.shape[2]))
    for start in range(0, len(stored), thick):
        yield stored[start : start + thick]
        release_pages(array)


def _not_zero(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for slab in _slabs(array):
        yield slab[slab != 0]


def landmarks_seen(images: Mapping[str, list[tuple[float, float, float]]]) -> dict[str, Landmarks]:
    """Return the ranges of the landmarks of many images, by the name of the input."""
    made = {}
    for name, rows in images.items():
        table = np.array(rows, dtype=np.float64)
        table = table[np.isfinite(table).all(axis=1)]
        if len(table):
            low, middle, high = (Range(low=float(x.min()), high=float(x.max())) for x in table.T)
            made[name] = Landmarks(p05=low, p50=middle, p95=high)
    return made


def _slices(volume: Volume, name: str) -> Iterator[Flag]:
    """Flag slices between others that hold one value only, or are the same as the one before.

    Slices are looked at across each axis of the coarsest spacing: an image of cubes may have been acquired along any.
    """
    spacing = volume.geometry.spacing_mm
    for axis in range(3):
        if spacing[axis] < 0.99 * max(spacing) or volume.geometry.shape[axis] < 3:
            continue
        others = tuple(other for other in range(3) if other != axis)
        blank = volume.array.min(axis=others) == volume.array.max(axis=others)
        inside = np.flatnonzero(~blank)
        if not len(inside):
            continue
        first, last = int(inside[0]), int(inside[-1])
        missing = int(blank[first : last + 1].sum())
        slices = np.moveaxis(volume.array, axis, 0)
        same = sum(not blank[n] and np.array_equal(slices[n], slices[n - 1]) for n in range(first + 1, last + 1))
        where = _AXES[{"R": "L", "A": "P", "S": "I"}.get(letter := volume.geometry.axcodes[axis], letter)]
        for code, n, what in (
            ("blank_slices", missing, "hold one value only, between slices that do not: data is missing"),
            ("repeated_slices", same, "are the same, voxel for voxel, as the slice before: data is missing"),
        ):
            if n:
                yield _review(code, f"{n} of the {len(blank)} slices of {name} from {where} {what}.")


def _values(volume: Volume, name: str) -> Iterator[Flag]:
    low, high = float(volume.array.min()), float(volume.array.max())
    if low == high:
        yield _review("one_value", f"All voxels of {name} have the value {low:g}.")
    elif volume.unit == "HU" and low >= 0:
        message = f"No voxel of {name} is below 0 HU ({low:g} to {high:g}), as fat and air are: are these values HU?"
        yield _review("values_not_hu", message)
    elif volume.unit == "SUVbw" and not SUV_RANGE[0] <= high <= SUV_RANGE[1]:
        message = f"The largest SUV of {name} is {high:.3g}; it lies between {SUV_RANGE[0]:g} and {SUV_RANGE[1]:g}."
        yield _review("values_not_suv", message)


def _metal(volume: Volume) -> Iterator[Flag]:
    ml = sum(int(np.count_nonzero(slab >= METAL_HU)) for slab in _slabs(volume.array)) * volume.geometry.voxel_ml
    if ml >= METAL_ML:
        yield _review(
            "metal",
            f"{ml:.1f} mL at {METAL_HU} HU or above, as metal has: streaks beside it change HU and outlines.",
        )


def _cut_body(volume: Volume, domain: TrainingDomain) -> Iterator[Flag]:
    """Note a body that reaches the sides of the image, where the model knows whole sections."""
    if domain.field_of_view_mm is not None and min(span.low for span in domain.field_of_view_mm[:2]) < SECTION_MM:
        return
    sides = {}
    for axis, letter in enumerate(volume.geometry.axcodes):
        if letter in "SI":
            continue
        for index, side in ((0, _OPPOSITE[letter]), (-1, letter)):
            sides[side] = np.moveaxis(volume.array, axis, 0)[index] > BODY_HU
    share = sum(int(side.sum()) for side in sides.values()) / sum(side.size for side in sides.values())
    if share > CUT_SHARE:
        names = ", ".join(side for side, mask in sides.items() if mask.mean() > CUT_SHARE)
        yield Flag(
            code="body_cut_off",
            severity="note",
            message=f"The body reaches the sides of the image ({names}): {share:.0%} of them lie in it. What is "
            "outside the field of view is not measured, and HU near its edge are less exact.",
        )


_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


def _unlike(volume: Volume, name: str, modality: str, seen: Landmarks) -> Iterator[Flag]:
    outside = []
    for percent, value, span in zip(
        LANDMARKS, landmarks(volume, modality), (seen.p05, seen.p50, seen.p95), strict=True
    ):
        room = LANDMARK_MARGIN * max(span.high - span.low, 0.05 * abs(span.high))
        # What holds one value has no landmarks, and is flagged for that.
        if math.isfinite(value) and not span.low - room <= value <= span.high + room:
            outside.append(f"{percent}th percentile {value:.3g} (seen: {span.low:.3g} to {span.high:.3g})")
    if outside:
        kind = {"CT": "HU", "PT": "SUV"}.get(modality, "parts of the 95th percentile")
        yield _review(
            "intensity_out_of_domain",
            f"The values of {name} are unlike those of the training images, in {kind}: {', '.join(outside)}.",
        )


def _review(code: str, message: str) -> Flag:
    return Flag(code=code, severity="review", message=message)
