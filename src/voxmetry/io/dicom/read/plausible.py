"""Units of what SUV is worked out from: a value that no patient has is converted by name, or refused.

Elements have one unit each in the standard (PS3.3 C.7.2.2, C.8.9.2): kg, m, Bq, s. Exports fill some in g, cm, MBq.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WEIGHT_KG = (0.01, 400.0)
"""From a mouse to the heaviest that a scanner's table carries."""
SIZE_M = (0.05, 2.6)
BODY_MASS_INDEX = (6.0, 130.0)
"""In kg/m2, of preterm infants to the most that is on record; animals and the smallest infants are left out."""
_SMALL_M, _SMALL_KG = 0.4, 2.0
DOSE_BQ = (5e5, 3e9)
"""From a mouse's injection to rubidium and water in one."""
DOSE_BQ_PER_KG = (2e4, 2e9)
"""Scanners of the whole body do with a twentieth of a MBq/kg; a mouse gets hundreds."""
_GRAMS = {"g": 1e-3}
_LENGTHS = {"cm": 1e-2, "mm": 1e-3}
_ACTIVITIES = {"kBq": 1e3, "MBq": 1e6, "GBq": 1e9, "mCi": 3.7e7}


_HALF_LIVES_S = {
    ("c", 11): 1221.8,
    ("n", 13): 597.9,
    ("o", 15): 122.24,
    ("f", 18): 6586.2,
    ("cu", 64): 45724.0,
    ("ga", 68): 4062.6,
    ("rb", 82): 75.45,
    ("zr", 89): 282276.0,
    ("i", 124): 360806.0,
}
"""Of the nuclides of PET, in s (M.-M. Bé et al., Table of Radionuclides, Monographie BIPM-5); only compared with."""
_NAMES = {
    **{"carbon": "c", "nitrogen": "n", "oxygen": "o", "fluorine": "f", "fluor": "f", "copper": "cu", "gallium": "ga"},
    **{"rubidium": "rb", "zirconium": "zr", "iodine": "i"},
}
_HALF_LIFE_SPARE = 0.03
_DURATIONS = {"min": 60.0, "h": 3600.0, "ms": 1e-3}


class ImplausibleError(Exception):
    """A value that nobody has, in no unit or in several; the text says which and why."""


@dataclass(frozen=True)
class Amount:
    """A value in the standard's unit, and in words if it had to be converted to it."""

    value: float
    converted: str = ""


def weight_kg(value: float, size_m: float | None) -> Amount:
    """Return a body's weight in kg.

    Parameters
    ----------
    value
        Patient's Weight as it is stored.
    size_m
        Its size, where that is known: the two must belong to one body.

    Raises
    ------
    ImplausibleError
        If it is none in kg and none in g.

    Examples
    --------
    >>> weight_kg(70000, 1.75)
    Amount(value=70.0, converted="Patient's Weight taken as g in place of kg")
    """
    return _taken("Patient's Weight", value, "kg", WEIGHT_KG, _GRAMS, lambda x: _is_body(x, size_m))


def size_m(value: float, weight: float) -> Amount:
    """Return a body's size in m; raises as `weight_kg`.

    Parameters
    ----------
    value
        Patient's Size as it is stored.
    weight
        Patient's Weight as it is stored: what is converted must belong to it, in kg or in g.

    Examples
    --------
    >>> size_m(175, 70)
    Amount(value=1.75, converted="Patient's Size taken as cm in place of m")
    """
    kg = weight if weight <= WEIGHT_KG[1] else weight * _GRAMS["g"]

    def fits(metres: float) -> bool:
        return metres == value or _is_body(kg, metres)

    return _taken("Patient's Size", value, "m", SIZE_M, _LENGTHS, fits)


def dose_bq(value: float, body_kg: float | None) -> Amount:
    """Return an injected activity in Bq; raises as `weight_kg`.

    Examples
    --------
    >>> dose_bq(350, 70)
    Amount(value=350000000.0, converted='Radionuclide Total Dose taken as MBq in place of Bq')
    """

    def fits(bq: float) -> bool:
        return body_kg is None or DOSE_BQ_PER_KG[0] <= bq / body_kg <= DOSE_BQ_PER_KG[1]

    return _taken("Radionuclide Total Dose", value, "Bq", DOSE_BQ, _ACTIVITIES, fits)


def half_life_s(value: float, nuclide: str | None) -> Amount:
    """Return a half-life in s; raises as `weight_kg`.

    Parameters
    ----------
    value
        Radionuclide Half Life as it is stored.
    nuclide
        What the header calls the nuclide; one that is not known here leaves the value as it is.

    Examples
    --------
    >>> half_life_s(109.77, "^18^Fluorine"), half_life_s(109.77, None).value
    (Amount(value=6586.2, converted='Radionuclide Half Life taken as min in place of s'), 109.77)
    """
    known = _HALF_LIVES_S.get(_nuclide(nuclide or ""))
    if known is None:
        return Amount(value)
    limits = (known * (1 - _HALF_LIFE_SPARE), known * (1 + _HALF_LIFE_SPARE))
    return _taken(f"Radionuclide Half Life of {nuclide}", value, "s", limits, _DURATIONS, lambda _: True, "Half Life")


def _nuclide(words: str) -> tuple[str, int]:
    """Return symbol and mass number that a name such as ^18^Fluorine, F-18 or 18F has; ("", 0) for another."""
    masses, names = re.findall(r"\d+", words), re.findall(r"[a-z]+", words.lower())
    symbols = [_NAMES.get(name, name) for name in names]
    return (symbols[0], int(masses[0])) if len(masses) == 1 and symbols and len(masses[0]) < 4 else ("", 0)


def _is_body(kg: float, metres: float | None) -> bool:
    if metres is None or (metres < _SMALL_M and kg < _SMALL_KG):
        return True
    return BODY_MASS_INDEX[0] <= kg / metres**2 <= BODY_MASS_INDEX[1]


def _taken(
    what: str,
    value: float,
    unit: str,
    limits: tuple[float, float],
    others: Mapping[str, float],
    fits: Callable[[float], bool],
    short: str = "",
) -> Amount:
    def is_plausible(x: float) -> bool:
        return limits[0] <= x <= limits[1] and fits(x)

    if is_plausible(value):
        return Amount(value)
    found = [(name, value * factor) for name, factor in others.items() if is_plausible(value * factor)]
    if len(found) == 1:
        name, converted = found[0]
        words = f"Radionuclide {short}" if short else what
        return Amount(converted, f"{words} taken as {name} in place of {unit}")
    several = f" and could be {' or '.join(name for name, _ in found)}" if found else ""
    raise ImplausibleError(f"{what} {value:g} is implausible in {unit}{several}")
