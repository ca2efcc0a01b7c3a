"""How numbers and foreign text are written in a report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from voxmetry.core.text import clean as clean

UNDEFINED = "n/a"
"""What stands for a number that is not defined. A dash beside the number of its note would read as minus one."""

_MINUS = "\u2212"


def decimals(x: float, places: int) -> str:
    """Write a finite number with fixed decimals, a true minus sign and no negative zero; nan as `UNDEFINED`.

    Examples
    --------
    >>> decimals(-3.14159, 2), decimals(-0.001, 1), decimals(float("nan"), 1)
    ('−3.14', '0.0', 'n/a')
    """
    if not math.isfinite(x):
        return UNDEFINED
    text = f"{x:.{places}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def millilitres(x: float) -> str:
    """Write a volume in mL: two decimals below 100, one from there on, and never 0 for a volume that is not 0.

    Examples
    --------
    >>> millilitres(1.2345), millilitres(123.45), millilitres(0.001), millilitres(0.0)
    ('1.23', '123.5', '< 0.01', '0.00')
    """
    if 0 < x < 0.005:
        return "< 0.01"
    # 99.996 would round up to '100.00'.
    return decimals(x, 2 if abs(x) < 99.995 else 1)


def millimetres(x: float) -> str:
    """Write a length in mm with one decimal."""
    return decimals(x, 1)


def ratio(x: float) -> str:
    """Write a share of 1, such as Dice, with three decimals that never round up to a full 1 or down to 0.

    Examples
    --------
    >>> ratio(0.8975), ratio(0.99999), ratio(1.0), ratio(0.0001), ratio(0.0)
    ('0.897', '> 0.999', '1.000', '< 0.001', '0.000')
    """
    if 0.9995 <= x < 1:
        return "> 0.999"
    if 0 < x < 0.0005:
        return "< 0.001"
    return decimals(x, 3)


def intensity_places(values: Iterable[float], unit: str | None, *, significant: int = 4) -> int:
    """Return how many decimals a group of voxel values is written with, the same for all so that a column lines up.

    HU have none and SUV two; other units as many as give the largest value the significant digits that are asked for.

    Examples
    --------
    >>> intensity_places([50.2, 109.0], "1"), intensity_places([0.0123], "1"), intensity_places([-812.4], "HU")
    (1, 5, 0)
    """
    if unit == "HU":
        return 0
    if unit == "SUVbw":
        return 2
    largest = max((abs(x) for x in values if math.isfinite(x)), default=0.0)
    if largest == 0:
        return 0
    return min(8, max(0, significant - 1 - math.floor(math.log10(largest))))


def unit_name(unit: str | None) -> str:
    """Write a unit of voxel values as a reader knows it.

    Examples
    --------
    >>> unit_name("SUVbw"), unit_name("1")
    ('SUV (body weight)', 'arbitrary units')
    """
    return {"SUVbw": "SUV (body weight)", "1": "arbitrary units", None: ""}.get(unit, unit or "")


def times(values: tuple[float, ...] | tuple[int, ...], places: int = 0) -> str:
    """Join sizes by multiplication signs.

    Examples
    --------
    >>> times((35, 51, 35)), times((0.9766, 0.9766, 2.0), 2)
    ('35 × 51 × 35', '0.98 × 0.98 × 2.00')
    """
    return " × ".join(decimals(float(value), places) for value in values)


def count(n: int, singular: str, plural: str | None = None) -> str:
    """Write a number of things.

    Examples
    --------
    >>> count(1, "flag"), count(2, "flag"), count(0, "study", "studies")
    ('1 flag', '2 flags', '0 studies')
    """
    return f"{n} {singular if n == 1 else plural or singular + 's'}"


def without_folders(text: str) -> str:
    r"""Keep only the last part of what looks like a path: folders are often named after patients.

    Examples
    --------
    >>> without_folders("/data/DOE_JANE/t1.nii.gz"), without_folders("C:\\scans\\t1.nii"), without_folders("cpu")
    ('t1.nii.gz', 't1.nii', 'cpu')
    """
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
