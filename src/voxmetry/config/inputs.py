"""What a model takes: its inputs, which series of a study each is, and how its values are normalised."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from voxmetry.core.base import Record


class Range(Record):
    """Lowest and highest value, both included."""

    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def __contains__(self, x: float) -> bool:
        return self.low <= x <= self.high


class Normalise(Record):
    """How intensities of one input become network input.

    'zscore': clip to the given percentiles of the voxels that are not exactly 0 (or of all), then subtract their mean
    and divide by their standard deviation. 'window': clip to [low, high] in the image's unit, then subtract `mean` and
    divide by `sd`. 'shift': the same without clipping. 'minmax': scale the lowest and the highest value to low and
    high (0 and 1 if not given).
    """

    method: Literal["zscore", "window", "shift", "minmax"]
    percentiles: tuple[float, float] = (0.5, 99.5)
    nonzero: bool = True
    keep_zeros: bool = False
    """'zscore' with `nonzero`: leave the voxels that are not counted as they are."""
    low: float | None = None
    high: float | None = None
    mean: float = 0.0
    sd: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.method == "window" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("method 'window' needs low and high, low below high")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles {self.percentiles} are not two rising numbers in 0..100")
        return self


class SeriesRules(Record):
    """Which series of a study is meant, beyond its modality.

    What a header leaves open breaks no rule but `description`. Patterns are regular expressions, searched without
    regard to case in Series Description and Protocol Name.
    """

    description: tuple[str, ...] = ()
    """One of these must be found."""
    not_description: tuple[str, ...] = ()
    """None of these may be found."""
    body_part: tuple[str, ...] = ()
    """Body Part Examined."""
    thickness_mm: Range | None = None
    """Slice thickness, or the step between slices where the header does not state it."""
    phase: tuple[Literal["native", "arterial", "portal venous", "delayed"], ...] = ()
    """Contrast phase, as far as description and protocol name one."""
    plane: tuple[Literal["axial", "coronal", "sagittal"], ...] = ()
    """Orientation of the slices; oblique ones count as the nearest."""

    @model_validator(mode="after")
    def _patterns(self) -> Self:
        for pattern in (*self.description, *self.not_description):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return self


class InputSpec(Record):
    """One input channel."""

    name: str
    modality: Literal["CT", "MR", "PT"]
    normalise: Normalise
    series: SeriesRules | None = None
    """Which series of a DICOM study this input is, where its modality alone does not say."""
    then: tuple[Normalise, ...] = ()
    """Further steps, each on the result of the one before."""
