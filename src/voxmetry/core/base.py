"""What all records that are read from or written to a file have in common."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from voxmetry.errors import ConfigError


class Record(BaseModel):
    """A frozen record. An unknown key is an error that names it, so that a typo cannot pass as a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
    MAY_BE_BASED_ON_ANOTHER: ClassVar[bool] = False
    """Whether a file of it may be `based_on` a file beside it, and say what differs."""


def require_settings(settings: object, kind: type[Record]) -> None:
    """Raise `ConfigError` where settings are those of another function: several have a parameter of that name.

    Examples
    --------
    >>> require_settings(Record(), Record)
    """
    if not isinstance(settings, kind):
        raise ConfigError(
            found=f"settings of type {type(settings).__name__}",
            expected=f"{kind.__module__}.{kind.__name__}",
            fix=f"pass {kind.__name__}(...), or leave settings out",
        )


def _null_to_nan(x: object) -> object:
    return math.nan if x is None else x


def _nan_to_null(x: float) -> float | None:
    return x if math.isfinite(x) else None


Number: TypeAlias = Annotated[
    float,
    BeforeValidator(_null_to_nan),
    PlainSerializer(_nan_to_null, return_type=float | None, when_used="json"),
]
"""A float that is nan where it is undefined, and null in JSON, which knows no nan."""

Count: TypeAlias = Annotated[int, Field(ge=0)]
"""How many there are of something."""

Millilitres: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A volume that is known, in mL."""

Millimetres: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A size above 0, in mm."""

Unit: TypeAlias = Literal["HU", "SUVbw", "SUVlbm", "SUVbsa", "Bq/mL", "1"]
"""What a voxel's value means: Hounsfield units, SUV by body weight (g/mL), lean body mass (g/mL) or body surface area
(cm2/mL), activity, or nothing absolute (MR)."""

SCHEMA_VERSION = 1
"""Version of the shape of `result.json`; it grows by one whenever a reader of the last one would stumble."""
