"""Real World Value Mapping: what stored values stand for, beside the rescaling (DICOM PS3.3 C.7.6.16.2.11).

A mapping goes from stored values, not from rescaled ones, and holds from its first to its last value alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import Unit
from voxmetry.errors import SeriesError
from voxmetry.io.dicom.read.headers import number, text

_SUV = {
    "bw": ("g/ml{SUVbw}", "{SUVbw}g/ml"),
    "lbm": ("g/ml{SUVlbm(James128)}", "{SUVlbm}g/ml", "g/ml{SUVlbm}"),
    "bsa": ("cm2/ml{SUVbsa}", "{SUVbsa}cm2/ml"),
}
"""UCUM codes of SUV, as CID 85 has them now and as it had them before."""
_UNITS: dict[str, Unit] = {"[hnsf'U]": "HU", "Bq/ml": "Bq/mL"}
_NONE = "1"


@dataclass(frozen=True)
class RealWorld:
    """One linear mapping of a frame, or a table, which has no slope."""

    unit: str
    """UCUM code."""
    label: str
    slope: float | None
    intercept: float | None
    first: float
    last: float

    @property
    def words(self) -> str:
        """What it maps to."""
        return f"{self.unit} ({self.label})" if self.label else self.unit


def real_world_of(items: Sequence[Any]) -> tuple[RealWorld, ...]:
    """Read the items of a Real World Value Mapping Sequence; those without unit or range are left out."""
    found = []
    for item in items:
        units = item.items("MeasurementUnitsCodeSequence")
        unit = (text(units[0], "CodeValue") or text(units[0], "LongCodeValue")) if units else None
        first, last = (_end(item, f"RealWorldValue{which}ValueMapped") for which in ("First", "Last"))
        if unit is None or first is None or last is None:
            continue
        slope, intercept = number(item, "RealWorldValueSlope"), number(item, "RealWorldValueIntercept")
        if slope is None or intercept is None or not abs(slope) + abs(intercept) < float("inf"):
            slope = intercept = None
        found.append(RealWorld(unit, text(item, "LUTLabel") or "", slope, intercept, first, last))
    return tuple(found)


def _end(item: Any, keyword: str) -> float | None:
    value = number(item, keyword)
    return number(item, f"DoubleFloat{keyword}") if value is None else value


def suv_mappings(frames: Sequence[tuple[RealWorld, ...]], kind: str) -> list[RealWorld] | None:
    """Return the mapping of each frame to an SUV; None unless each has just one that is linear."""
    return _one_each([[each for each in frame if each.unit in _SUV[kind]] for frame in frames])


def only_mappings(frames: Sequence[tuple[RealWorld, ...]], what: str) -> list[RealWorld]:
    """Return the one mapping of each frame.

    Raises
    ------
    SeriesError
        If a frame has none, several or a table, or the frames' units differ.
    """
    found = _one_each(frames)
    if found is None or len({each.unit for each in found}) > 1:
        raise SeriesError(
            found=f"{what}: frames without one linear Real World Value Mapping to one unit",
            expected="one for each slice",
            fix="read the rescaled values: real_world=False",
        )
    return found


def _one_each(frames: Sequence[Sequence[RealWorld]]) -> list[RealWorld] | None:
    if not frames or any(len(frame) != 1 or frame[0].slope is None for frame in frames):
        return None
    return [frame[0] for frame in frames]


def unit_of(mappings: Sequence[RealWorld]) -> Unit:
    """Return the unit of mapped values as a volume names it; "1" for those that it has no name for."""
    return _UNITS.get(mappings[0].unit, "1")


def check_range(array: NDArray[Any], mappings: Sequence[RealWorld], what: str) -> None:
    """Refuse mapped values from outside the range of stored values that their mapping holds for.

    Parameters
    ----------
    array
        (K, J, I), mapped.
    mappings
        One a slice.
    what
        The series, for the message.

    Raises
    ------
    SeriesError
        If a value lies outside.
    """
    for k, (plane, each) in enumerate(zip(array, mappings, strict=True)):
        slope, intercept = each.slope or 0.0, each.intercept or 0.0
        ends = sorted((each.first * slope + intercept, each.last * slope + intercept))
        spare = 1e-6 * max(map(abs, ends)) + abs(slope) / 2
        low, high = float(np.min(plane)), float(np.max(plane))
        if low < ends[0] - spare or high > ends[1] + spare:
            raise SeriesError(
                found=f"{what}: slice {k + 1} has values from {low:g} to {high:g} {each.unit}, mapped from outside "
                f"{each.first:g} to {each.last:g}",
                expected="stored values within the range of their Real World Value Mapping",
                fix="read the rescaled values: --suv none; in Python: suv='none', real_world=False",
            )


def named(frames: Sequence[tuple[RealWorld, ...]], rescaled: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """Say which mappings were not applied, where they say more than the rescaling does."""
    more = {
        each.words: None
        for frame, scale in zip(frames, rescaled, strict=True)
        for each in frame
        if (each.slope, each.intercept) != scale or each.unit not in (_NONE, *_UNITS)
    }
    return tuple(f"not applied: a Real World Value Mapping to {words}" for words in more)
