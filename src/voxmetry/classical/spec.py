"""What a classical baseline is: the content of a file in `configs/models`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from voxmetry.config import CleanStep, Range
from voxmetry.core.base import Record
from voxmetry.core.labels import LabelTable

Share = Annotated[float, Field(gt=0, lt=100)]


class BaselineInput(Record):
    """The image that a baseline takes."""

    name: str
    modality: Literal["CT", "MR", "PT"]


class Threshold(Record):
    """All voxels within fixed limits, in the image's unit; both are included."""

    method: Literal["threshold"] = "threshold"
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _limited(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a threshold needs low, high or both")
        return self


class Otsu(Record):
    """The brighter (or darker) part after Otsu's threshold of the whole image.

    Otsu 1979, doi:10.1109/TSMC.1979.4310076. With more than two classes, the brightest (or darkest) one.
    """

    method: Literal["otsu"]
    bright: bool = True
    classes: Annotated[int, Field(ge=2, le=5)] = 2


class PercentOfMaximum(Record):
    """All voxels of at least a share of the image's largest value: of SUVmax in PET, where 41 % is in common use.

    Boellaard et al. 2015, doi:10.1007/s00259-014-2961-x.
    """

    method: Literal["percent_of_maximum"]
    percent: Share = 41.0


class KMeans(Record):
    """The brightest (or darkest) of the clusters that K-means makes of the intensities.

    The first means lie at even steps between the 1st and the 99th percentile, so that the result is always the same.
    """

    method: Literal["kmeans"]
    clusters: Annotated[int, Field(ge=2, le=8)] = 3
    bright: bool = True


class Edges(Record):
    """A watershed of the gradient, flooded from seeds and held back by Canny edges.

    Seeds are the voxels above the percentile `inside` and below the percentile `outside` of the smoothed image (or the
    other way round). Canny 1986, doi:10.1109/TPAMI.1986.4767851; Meyer 1994, doi:10.1016/0165-1684(94)90060-4.
    """

    method: Literal["edges"]
    sigma_mm: Annotated[float, Field(gt=0)] = 2.0
    inside: Share = 95.0
    outside: Share = 50.0
    bright: bool = True

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.outside >= self.inside:
            raise ValueError(f"outside {self.outside} must be below inside {self.inside}")
        return self


Method = Annotated[Threshold | Otsu | PercentOfMaximum | KMeans | Edges, Field(discriminator="method")]


class ExpectedVolumes(Record):
    """Volumes that would be plausible; another one is flagged."""

    volume_ml: dict[str, Range] = Field(default_factory=dict)


class BaselineSpec(Record):
    """A classical baseline: what it takes, how it segments, what it returns. It has one structure and no weights."""

    schema_version: Literal[1] = 1
    kind: Literal["baseline"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    version: str
    summary: str
    licence: str = "Apache-2.0"
    body_part: str = "any"
    inputs: tuple[BaselineInput]
    segment: Method
    labels: LabelTable
    clean: tuple[CleanStep, ...] = ()
    training_domain: ExpectedVolumes = ExpectedVolumes()

    @model_validator(mode="after")
    def _one_structure(self) -> Self:
        if len(self.labels) != 1:
            raise ValueError(f"{len(self.labels)} labels: a baseline finds one structure")
        return self
