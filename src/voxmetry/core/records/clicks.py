"""A point that a person clicked to say what is there."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator

from voxmetry.core.base import Record
from voxmetry.errors import ConfigError

BACKGROUND = "background"
"""What a click says that says 'none of the structures'."""


class Click(Record):
    """One click."""

    at: tuple[float, float, float]
    """Where: RAS+ mm in the patient, or the index of a voxel in the first image as it is stored."""
    label: Annotated[str, Field(max_length=200)] = ""
    """The structure that the voxel belongs to, or 'background'. None named: the model's only structure."""
    space: Literal["mm", "voxel"] = "mm"

    @field_validator("at")
    @classmethod
    def _finite(cls, at: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(map(math.isfinite, at)):
            raise ValueError("a click needs three finite numbers")
        return at


def parse_click(text: str) -> Click:
    """Read `x,y,z` or `x,y,z,label`, in RAS+ mm.

    Raises
    ------
    ConfigError
        If it is not three numbers, and perhaps a name.

    Examples
    --------
    >>> parse_click("-12.5,30,4,anterior")
    Click(at=(-12.5, 30.0, 4.0), label='anterior', space='mm')
    """
    parts = [part.strip() for part in text.split(",", 3)]
    try:
        x, y, z = (float(part) for part in parts[:3])
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))) or (len(parts) > 3 and not parts[3]):
        raise ConfigError(
            found=f"the click {text!r}",
            expected="x,y,z in mm towards the patient's right, anterior and superior, and perhaps the structure's name",
            fix="write it like --click 12.5,-30,4,tumour, or with ,background where nothing is",
        )
    return Click(at=(x, y, z), label=parts[3]) if len(parts) > 3 else Click(at=(x, y, z))
