"""What is said about a prediction beside a reference, of one case or of many."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field

from voxmetry.core.base import SCHEMA_VERSION, Count, Millilitres, Number, Record
from voxmetry.core.records.instances import DetectionSummary, InstanceMatching, PanopticQuality
from voxmetry.core.records.statistics import BlandAltman, Distribution, PairedComparison, Reliability


class Comparison(Record):
    """One structure of a prediction compared with a reference on the same grid."""

    label: str
    value: int
    status: Literal["both", "missed", "extra", "absent"]
    """In both; only in the reference; only in the prediction; in neither."""
    n_voxels_prediction: Count
    n_voxels_reference: Count
    volume_prediction_ml: Millilitres
    volume_reference_ml: Millilitres
    volume_difference_ml: float
    dice: Number
    iou: Number
    hausdorff_mm: Number
    hd95_mm: Number
    assd_mm: Number
    surface_dice: Number
    tolerance_mm: float
    mean_prediction_to_reference_mm: Number = float("nan")
    mean_reference_to_prediction_mm: Number = float("nan")
    boundary_iou: Number = float("nan")
    value_reference: int | None = None
    """The structure's value in the reference's label map; None where its label table does not have it."""
    surface: str = "elements"
    """Surface definition: 'elements' (weighted by area) or 'border voxels'."""
    percentile: str = "directed max"
    """How the two directions make one percentile: 'directed max' or 'pooled'."""
    empty: str = "nan"
    """What a distance is where one mask is empty: 'nan', or the grid's 'diagonal'."""
    surface_dice_at_mm: dict[str, Number] = Field(default_factory=dict)
    """Surface Dice at further tolerances, by the tolerance in mm."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class ComparisonSummary(Record):
    """Means over the structures of one or more comparisons. A missed or invented structure never drops out silently."""

    n: int
    n_both: Count
    n_missed: Count
    n_extra: Count
    n_absent: Count
    """In neither mask: nothing to compare, so in no mean."""
    mean: dict[str, Number]
    """Over all structures that are in at least one mask; nan if one of them is nan."""
    mean_of_both: dict[str, Number]
    """Over the structures that are in both masks alone."""
    reason: str = ""
    """Why a mean is nan; empty where none is."""


class CaseComparison(Record):
    """One case of a cohort."""

    case: str
    """The files' common name, without suffix."""
    patient: int
    """Number of the patient within the cohort, from 1: cases of one patient share it."""
    comparisons: tuple[Comparison, ...] = ()
    matchings: tuple[InstanceMatching, ...] = ()
    notes: tuple[str, ...] = ()
    """Which structures were not compared, as one side does not know them."""
    error: dict[str, str] | None = None
    """Why the case could not be compared: found, expected, fix; None where it was."""
    colours: dict[str, str] = Field(default_factory=dict)
    """Colours of the structures in the case's own label maps, by name."""


class StructureSummary(Record):
    """One structure over all cases."""

    label: str
    n_cases: Count
    n_both: Count
    n_missed: Count
    n_extra: Count
    n_absent: Count
    present: dict[str, Distribution]
    """By metric, over the cases that have the structure in at least one mask."""
    both: dict[str, Distribution]
    """By metric, over the cases that have it in both masks alone."""
    volumes: BlandAltman
    """Volume of the prediction minus that of the reference in mL, over the cases with the structure in a mask."""
    reliability: Reliability
    """Of the two volumes, over the same cases."""


class Pairing(TypedDict):
    """How the structures of two label maps are paired: keyword arguments of `pair_labels` and of what calls it."""

    labels: tuple[str, ...] | None
    match: Literal["auto", "name", "value"]
    names: dict[str, str]


class CohortSettings(Record):
    """How the cases of a cohort are compared."""

    tolerance_mm: Annotated[float, Field(ge=0)] | dict[str, float] = 1.0
    more_tolerances_mm: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Further tolerances of the surface Dice; summaries and tests are of `tolerance_mm` alone."""
    labels: tuple[str, ...] | None = None
    match: Literal["auto", "name", "value"] = "auto"
    names: dict[str, str] = Field(default_factory=dict)
    """Names (or values) of the one side, to those of the other: `{"GTV_Mass_CT": "tumour"}`."""
    surface: Literal["elements", "border voxels"] = "elements"
    percentile: Literal["directed max", "pooled"] = "directed max"
    empty: Literal["nan", "diagonal"] = "nan"
    instances: Literal["overlap", "iou", "hungarian"] | None = None
    """Matching rule of instances; None leaves instances out."""
    apart: Literal["components", "watershed", "maps"] = "components"
    """What an instance is: a connected component, a part that the watershed cuts, or a value of an instance map."""
    hit_iou: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.5, 0.75)
    """Least IoU of a hit, for average precision and FROC; each is a rule of its own."""
    centre_mm: Annotated[float, Field(gt=0)] | None = None
    """Largest distance of the centroids of a hit; None: the radius of the sphere of the reference's volume."""
    min_iou: Annotated[float, Field(ge=0, lt=1)] = 0.5
    connectivity: Literal[6, 18, 26] = 26
    things: tuple[str, ...] = ()
    """Structures that are counted by their connected parts; empty takes the labels of kind 'lesion'."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 9999
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def pairing(self) -> Pairing:
        """How structures are paired."""
        return {"labels": self.labels, "match": self.match, "names": self.names}


class CohortComparison(Record):
    """A prediction compared with a reference over many cases: the content of `comparison.json`."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    voxmetry_version: str = ""
    """Of the `voxmetry compare` that wrote it; empty where the cases were compared from Python."""
    settings: CohortSettings
    cases: tuple[CaseComparison, ...]
    unmatched_predictions: tuple[str, ...] = ()
    unmatched_references: tuple[str, ...] = ()
    structures: tuple[StructureSummary, ...]
    overall: StructureSummary | None
    """All structures together; None where no case could be compared."""
    panoptic: PanopticQuality | None = None
    detection: tuple[DetectionSummary, ...] = ()
    """One a structure that is counted by instances."""
    other: tuple[CaseComparison, ...] = ()
    """The cases of another model, where two were compared."""
    other_structures: tuple[StructureSummary, ...] = ()
    other_overall: StructureSummary | None = None
    other_detection: tuple[DetectionSummary, ...] = ()
    """The other model's own summary."""
    paired: tuple[PairedComparison, ...] = ()
    """The first model minus the other, by structure and metric."""
    policy: str
    """What the means do with structures that are in one mask only."""
    notes: tuple[str, ...] = ()
    """What was left out of the output, and why."""
    definitions: dict[str, str]

    def of_other_model(self) -> CohortComparison:
        """Return the same with the other model's summary in place of the first's."""
        return self.model_copy(
            update={
                "structures": self.other_structures,
                "overall": self.other_overall,
                "detection": self.other_detection,
            }
        )

    @property
    def colours(self) -> dict[str, str]:
        """Colours of the structures, by name: of the first case whose label maps name one."""
        found: dict[str, str] = {}
        for case in (*self.cases, *self.other):
            found = case.colours | found
        return found

    @property
    def failed(self) -> tuple[CaseComparison, ...]:
        """The cases that could not be compared, of both models."""
        return tuple(case for case in (*self.cases, *self.other) if case.error is not None)

    @property
    def complete(self) -> bool:
        """Whether each file found its partner."""
        return not (self.unmatched_predictions or self.unmatched_references)
