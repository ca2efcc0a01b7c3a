"""Models that are made of others: what each part gives to one label map. The content of such a `model.yaml`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from voxmetry.config import CleanStep, Quality, Resampling, SeriesRules, Spacing, TrainingDomain
from voxmetry.core.base import Record
from voxmetry.core.labels import LabelTable

Value = Annotated[int, Field(ge=1, le=65535)]


class CompositeInput(Record):
    """One image that all members take."""

    name: str
    modality: Literal["CT", "MR", "PT"]
    series: SeriesRules | None = None


class Member(Record):
    """One model of a composite."""

    model: Annotated[str, Field(min_length=1)]
    """A folder inside the composite's own, or the name of an installed or bundled model."""
    values: Annotated[dict[Value, Value], Field(min_length=1)]
    """The member's label values -> those of the composite's table. What is not named is dropped."""


class Crop(Record):
    """Run the members inside the box of some structures that another model finds; outside is background.

    Where it finds none of them, the whole map is background, and the study is flagged.
    """

    model: Annotated[str, Field(min_length=1)]
    structures: Annotated[tuple[str, ...], Field(min_length=1)]
    margin_mm: Annotated[float, Field(ge=0)] = 0.0


class CommonGrid(Record):
    """A grid that the study is resampled to once, for all members, as TotalSegmentator does.

    Images: axes turned to RAS, cubic splines between the outermost voxel centres, values cut to whole numbers. Labels:
    the nearest voxel, back the same way. A study that has this spacing already stays as it is.
    """

    spacing_mm: Spacing


class CompositeSpec(Record):
    """A model of models: one label map from several.

    'merge': members paint their structures into one map, in their order. 'vote': all members have the same structures;
    the label with most votes wins. 'cascade': two members, of which the second takes the labels of the first as further
    inputs (`previous` in its model.yaml); the labels are those of the second.
    """

    schema_version: Literal[1] = 1
    kind: Literal["composite"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]*$")]
    version: str
    summary: str
    licence: str
    body_part: str
    inputs: Annotated[tuple[CompositeInput, ...], Field(min_length=1)]
    labels: LabelTable
    how: Literal["merge", "vote", "cascade"] = "merge"
    precedence: Literal["later", "earlier"] = "later"
    """Whose label a voxel gets that several members claim; of equal votes too."""
    grid: CommonGrid | None = None
    """None: each member resamples the study by its own rule."""
    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    crop: Crop | None = None
    coarse: str | None = None
    """A model of the same structures, by name, that finds their box for `--fast`."""
    clean: tuple[CleanStep, ...] = ()
    training_domain: TrainingDomain = TrainingDomain()
    quality: dict[str, Quality] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        values, names = set(self.labels.values), set(self.labels.names)
        for member in self.members:
            unknown = set(member.values.values()) - values
            if unknown:
                raise ValueError(f"{member.model} gives the values {sorted(unknown)}, which the label table lacks")
        missing = values - {value for member in self.members for value in member.values.values()}
        if missing:
            lacking = [self.labels.by_value(value).name for value in sorted(missing)]
            raise ValueError(f"no member gives {', '.join(lacking)}")
        if self.how == "vote" and len({frozenset(member.values.values()) for member in self.members}) != 1:
            raise ValueError("members that vote give the same values")
        if self.how == "cascade" and len(self.members) != 2:
            raise ValueError(f"a cascade has two members, a first and a second stage; this one has {len(self.members)}")
        for place in (*(member.model for member in self.members), self.crop.model if self.crop else "", self.coarse):
            if place and (PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts or "\\" in place):
                raise ValueError(f"{place!r} is neither a folder inside this model's own nor a name")
        if self.clean and {name for step in self.clean for name in step.labels} - names:
            raise ValueError("clean names structures that are not in the label table")
        return self

    @property
    def orientation(self) -> str:
        """Axes that the field of view is described along."""
        return "RAS"

    @property
    def resampling(self) -> Resampling:
        """How labels come back to the study's own grid: each member by its own rule."""
        return Resampling()

    def needed(self, structures: tuple[str, ...]) -> tuple[Member, ...]:
        """Return the members that give at least one of these structures, all of them for none named and a cascade."""
        if self.how == "cascade":
            return self.members
        wanted = {self.labels[name].value for name in structures} or set(self.labels.values)
        return tuple(member for member in self.members if wanted & set(member.values.values()))
