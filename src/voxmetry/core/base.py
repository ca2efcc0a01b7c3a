"""What all records that are read from or written to a file have in common."""

from __future__ import annotations

import math
from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


class Record(BaseModel):
    """A frozen record. An unknown key is an error that names it, so that a typo cannot pass as a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)


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

SCHEMA_VERSION = 1
"""Version of the shape of `result.json`; it grows by one whenever a reader of the last one would stumble."""
