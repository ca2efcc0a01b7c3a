"""What is said about a study: the records that go into `result.json` and the tables, and come back out of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.core.base import Number, Record
from voxmetry.core.labels import LabelTable
from voxmetry.core.notebook import table

SCHEMA_VERSION = 1
"""Version of the shape of `result.json`; it grows by one whenever a reader of the last one would stumble."""

Verdict: TypeAlias = Literal[
    "regular", "single", "duplicate", "missing", "uneven", "tilted", "mixed", "unreadable", "not an image"
]


class SeriesInfo(Record):
    """One DICOM series as its headers describe it. It holds no patient identity."""

    series_uid: str
    study_uid: str | None = None
    frame_uid: str | None = None
    modality: str | None = None
    sop_class: str | None = None
    number: int | None = None
    description: str = ""
    body_part: str = ""
    transfer_syntax: str | None = None
    image_type: str = ""
    protocol: str = ""
    kernel: str = ""
    contrast: str = ""
    """Contrast agent, as the scanner filed it."""
    phase: str = ""
    """Contrast phase, as far as description and protocol name it: native, arterial, portal venous or delayed."""
    volume: int | None = None
    """Number of this volume, from 1, among those that one series mixes; None where the series is one volume."""
    n_volumes: int = 1
    differs: dict[str, str] = Field(default_factory=dict)
    """What tells this volume from the others of its series, such as the echo time."""
    n_files: int
    n_slices: int
    thickness_mm: float | None = None
    plane: str | None = None
    """'axial', 'coronal' or 'sagittal', with 'oblique' before it where it is more than 10 degrees off."""
    rows: int | None = None
    columns: int | None = None
    spacing_mm: tuple[float, float, float] | None = None
    """Along a row's pixels (column step), along a column's pixels (row step), between slices."""
    axcodes: str | None = None
    verdict: Verdict
    reason: str = ""
    """Why the verdict is not 'regular', in words and numbers; empty where it is."""
    files: tuple[str, ...] = Field(default=(), exclude=True, repr=False)
    """Paths in slice order. They stay out of JSON: folders are often named after patients."""
    processing: tuple[str, ...] = ()
    """What was done to the values or the grid beyond the file's own rescaling, in words: SUV, resampling."""
    frames: tuple[tuple[int, int], ...] = Field(default=(), exclude=True, repr=False)
    """In slice order: index into `files`, and index of the frame (or of a mosaic's tile) in that file."""

    @property
    def key(self) -> str:
        """What names this volume on the command line: the series UID, with `#2` for its second volume.

        Examples
        --------
        >>> SeriesInfo(series_uid="1.2", volume=2, n_volumes=3, n_files=9, n_slices=9, verdict="regular").key
        '1.2#2'
        """
        return self.series_uid if self.volume is None else f"{self.series_uid}#{self.volume}"

    @property
    def readable(self) -> bool:
        """Whether `read_series` will return a volume."""
        return self.verdict in ("regular", "single")


Point: TypeAlias = tuple[Number, Number, Number]
"""A position in RAS+ mm."""


class Region(Record):
    """What is measured of a structure and of a lesion alike, on the segmentation's own grid."""

    label: str
    value: int
    n_voxels: int
    volume_ml: float
    centroid_ras_mm: Point
    max_diameter_mm: Number = float("nan")
    touches_border: bool
    border_sides: tuple[str, ...] = ()
    """Faces of the grid that it touches, by the nearest patient direction: L, R, P, A, I, S."""
    intensity_unit: str | None = None
    intensity_mean: Number = float("nan")
    intensity_sd: Number = float("nan")
    intensity_min: Number = float("nan")
    intensity_p05: Number = float("nan")
    intensity_median: Number = float("nan")
    intensity_p95: Number = float("nan")
    intensity_max: Number = float("nan")
    reason: str = ""
    """Why a number is nan; empty where none is."""


class Measurement(Region):
    """One structure of a segmentation."""

    kind: Literal["organ", "lesion"]
    extent_rl_mm: Number
    extent_ap_mm: Number
    extent_si_mm: Number
    mesh_volume_ml: Number = float("nan")
    surface_area_mm2: Number = float("nan")
    sphericity: Number = float("nan")


class Lesion(Region):
    """One connected component of a structure."""

    id: str
    """The structure's name and a number; the largest component is 1."""
    long_axis_mm: Number
    """Longest diameter in one axial slice, as RECIST 1.1 measures."""
    long_axis_ends_ras_mm: tuple[Point, Point]
    short_axis_mm: Number
    """Longest diameter perpendicular to the long axis in the same slice."""
    short_axis_ends_ras_mm: tuple[Point, Point]
    slice_axis: int
    """Axis of the grid that the axial slices are stacked along: 0, 1 or 2."""
    slice_index: int
    location: str | None = None
    """The organ that holds most of it, or else the nearest one; None without organs."""
    location_distance_mm: Number = float("nan")
    """0 inside the organ, else the distance between the nearest voxel centres."""
    suv_peak: Number = float("nan")
    total_lesion_glycolysis_suv_ml: Number = float("nan")


class Comparison(Record):
    """One structure of a prediction held against a reference on the same grid."""

    label: str
    value: int
    status: Literal["both", "missed", "extra", "absent"]
    """In both; only in the reference; only in the prediction; in neither."""
    n_voxels_prediction: int
    n_voxels_reference: int
    volume_prediction_ml: float
    volume_reference_ml: float
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
    n_both: int
    n_missed: int
    n_extra: int
    n_absent: int
    """In neither mask: nothing to compare, so in no mean."""
    mean: dict[str, Number]
    """Over all structures that are in at least one mask; nan if one of them is nan."""
    mean_of_both: dict[str, Number]
    """Over the structures that are in both masks alone."""
    reason: str = ""
    """Why a mean is nan; empty where none is."""


class Flag(Record):
    """Something about a study that a person should know before using its numbers."""

    code: str
    """Machine-readable: 'empty', 'truncated', 'volume_out_of_range', 'spacing_out_of_domain', ..."""
    severity: Literal["note", "review", "reject"]
    """'review' asks for a look before the numbers are used, 'reject' says not to use them: exit code 3 for both."""
    message: str
    label: str | None = None


class PredictedDice(Record):
    """What Dice a structure would have against a reference, as far as the network's certainty tells."""

    label: str
    expected_dice: float
    """Under the network's own probabilities, before it is calibrated."""
    predicted_dice: float
    error: float
    """Mean absolute error of such predictions on labelled cases that were not fitted on."""
    review_below: float


class MembersAgreement(Record):
    """How far the networks of an ensemble agree on a structure."""

    label: str
    mean_dice: float
    """Mean over all pairs of networks of the Dice of their labels, window by window, on the model's grid."""
    members: int


class SourceInfo(Record):
    """What was segmented, without naming the patient or the path."""

    format: str
    modality: str | None
    unit: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axcodes: str
    series_uid: str | None = None
    frame_uid: str | None = None
    """DICOM Frame of Reference UID: images that share it share their coordinates."""
    description: str = ""
    processing: tuple[str, ...] = ()
    """What was done to the values or the grid when it was read: SUV, resampling."""


class Provenance(Record):
    """How a result came to be: enough to make it again."""

    voxmetry_version: str
    packages: dict[str, str]
    python: str
    platform: str
    model: str
    model_version: str
    weights_sha256: str
    settings: dict[str, object]
    device: str
    precision: str = "float32"
    """Of the network's products: "float32", "bf16" or "fp16"."""
    plan: str = ""
    """How the network was run, and the memory that was predicted for it."""
    started: str
    """UTC, ISO 8601."""
    seconds: dict[str, float]
    """Wall-clock seconds of each step, and 'total'."""
    peak_memory_mb: Number
    """Largest resident memory of the process, in units of 10^6 bytes."""


class OtherInput(Record):
    """A further image of a model with several inputs, measured on its own voxels under the same labels."""

    name: str
    """The model's name for the input."""
    source: SourceInfo
    measurements: tuple[Measurement, ...]
    lesions: tuple[Lesion, ...] = ()


class StudyResult(Record):
    """All that is known about a study after it was segmented and measured: the content of `result.json`."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    source: SourceInfo
    labels: LabelTable
    measurements: tuple[Measurement, ...]
    lesions: tuple[Lesion, ...] = ()
    """Connected components of the structures of kind 'lesion'."""
    others: tuple[OtherInput, ...] = ()
    """Further inputs of the model, such as the PET beside a CT; SUV is measured there."""
    comparisons: tuple[Comparison, ...] = ()
    predicted_dice: tuple[PredictedDice, ...] = ()
    """Empty where the model is not calibrated."""
    members_agreement: tuple[MembersAgreement, ...] = ()
    """Empty where the model is no ensemble."""
    flags: tuple[Flag, ...] = ()
    definitions: dict[str, str]
    """How each number is defined, by the name of its field."""
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)
    """Names of the files beside this one, by what they are."""

    @property
    def needs_review(self) -> bool:
        """Whether a person should look before the numbers are used."""
        return any(flag.severity != "note" for flag in self.flags)

    def _repr_html_(self) -> str:
        rows = [
            {
                "label": m.label,
                "volume_ml": m.volume_ml,
                "max_diameter_mm": m.max_diameter_mm,
                f"mean ({m.intensity_unit or 'no unit'})": m.intensity_mean,
            }
            for m in self.measurements
        ]
        flags = [{"flag": flag.code, "severity": flag.severity, "what": flag.message} for flag in self.flags]
        return table(rows) + (table(flags) if flags else "<p>no flags</p>")


class MeanInterval(Record):
    """A mean with its bootstrap confidence interval, resampled by patient."""

    n: int
    """Rows."""
    n_patients: int
    mean: Number
    low: Number
    high: Number
    level: float
    """Coverage that the interval aims at, such as 0.95."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class Distribution(Record):
    """How a number is spread over the rows of one structure."""

    mean: MeanInterval
    sd: Number
    """Standard deviation of the sample (division by n - 1)."""
    median: Number
    q1: Number
    q3: Number
    """Quartiles, interpolated linearly. A row without the number ranks as the worst; nan where they reach it."""
    worst: Number
    worst_case: str | None
    """The case of the worst row: one in a single mask first, then the lowest overlap or largest distance."""
    n_undefined: int
    """Rows without this number: structures in one mask only have no distance."""


class BlandAltman(Record):
    """Agreement of two measurements of the same things: bias and 95 % limits of agreement."""

    n: int
    bias: Number
    bias_low: Number
    bias_high: Number
    sd: Number
    """Standard deviation of the differences (division by n - 1)."""
    lower: Number
    lower_low: Number
    lower_high: Number
    upper: Number
    upper_low: Number
    upper_high: Number
    level: float
    """Coverage of the three intervals."""
    reason: str = ""


class Reliability(Record):
    """Intraclass correlation ICC(2,1): two-way random effects, single rater, absolute agreement."""

    n: int
    n_raters: int
    icc: Number
    low: Number
    high: Number
    level: float
    reason: str = ""


class PairedComparison(Record):
    """Two models on the same cases: differences are first minus second."""

    label: str = ""
    metric: str = ""
    difference: MeanInterval
    median_difference: Number
    n_ties: int
    """Patients whose mean difference is exactly 0."""
    w_plus: Number
    w_minus: Number
    """Sums of the ranks of the positive and negative differences of patients."""
    p_value: Number
    """Wilcoxon's signed-rank test on patients, two-sided."""
    p_adjusted: Number = float("nan")
    """The p-value after Holm's correction over all comparisons of the same table."""
    effect_size: Number
    """Matched-pairs rank-biserial correlation, -1 to 1."""
    n_undefined: int = 0
    """Cases left out because one of the two models has no value there."""
    reason: str = ""


class Instance(Record):
    """One connected part of a structure, or several that were matched with one of the reference."""

    label: str
    status: Literal["matched", "missed", "extra"]
    prediction_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    """Ids count from 1 within a structure and a case, from large to small."""
    volume_prediction_ml: float
    volume_reference_ml: float
    dice: Number
    iou: Number
    centroid_ras_mm: tuple[Number, Number, Number]
    """Of the reference's instance, or of the prediction's where there is none."""


class InstanceMatching(Record):
    """Instances of one structure in a prediction held against those in a reference."""

    label: str
    kind: Literal["thing", "stuff"]
    """A thing is counted by its connected parts, stuff as one whole."""
    rule: Literal["overlap", "iou", "hungarian"]
    min_iou: float
    connectivity: int | None
    """6, 18 or 26 neighbours; None where the label map came with its instances, and for stuff."""
    n_prediction: int
    n_reference: int
    tp_prediction: int
    """Instances of the prediction that have a partner."""
    tp_reference: int
    """Instances of the reference that have one; with one-to-one rules the same number."""
    fp: int
    fn: int
    iou_sum: float
    """Sum of the IoU of matched pairs."""
    sensitivity: Number
    precision: Number
    f1: Number
    sq: Number
    """Segmentation quality: mean IoU of matched pairs."""
    rq: Number
    """Recognition quality: TP / (TP + FP / 2 + FN / 2)."""
    pq: Number
    """Panoptic quality: SQ times RQ."""
    instances: tuple[Instance, ...] = ()
    reason: str = ""


class PanopticQuality(Record):
    """Panoptic quality over a cohort: counts of a structure are added up over cases, then structures averaged."""

    classes: tuple[InstanceMatching, ...]
    """One a structure, without its instances."""
    pq: dict[Literal["all", "things", "stuff"], Number]
    sq: dict[Literal["all", "things", "stuff"], Number]
    rq: dict[Literal["all", "things", "stuff"], Number]
    reason: str = ""


class CaseComparison(Record):
    """One case of a cohort."""

    case: str
    """The files' common name, without suffix."""
    patient: int
    """Number of the patient within the cohort, from 1: cases of one patient share it."""
    comparisons: tuple[Comparison, ...] = ()
    matchings: tuple[InstanceMatching, ...] = ()
    error: dict[str, str] | None = None
    """Why the case could not be compared: found, expected, fix; None where it was."""


class StructureSummary(Record):
    """One structure over all cases."""

    label: str
    n_cases: int
    n_both: int
    n_missed: int
    n_extra: int
    n_absent: int
    present: dict[str, Distribution]
    """By metric, over the cases that have the structure in at least one mask."""
    both: dict[str, Distribution]
    """By metric, over the cases that have it in both masks alone."""
    volumes: BlandAltman
    """Volume of the prediction minus that of the reference in mL, over the cases with the structure in a mask."""
    reliability: Reliability
    """Of the two volumes, over the same cases."""


class CohortSettings(Record):
    """How the cases of a cohort are compared."""

    tolerance_mm: Annotated[float, Field(ge=0)] | dict[str, float] = 1.0
    more_tolerances_mm: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Further tolerances of the surface Dice; summaries and tests are of `tolerance_mm` alone."""
    labels: tuple[str, ...] | None = None
    match: Literal["auto", "name", "value"] = "auto"
    surface: Literal["elements", "border voxels"] = "elements"
    percentile: Literal["directed max", "pooled"] = "directed max"
    empty: Literal["nan", "diagonal"] = "nan"
    instances: Literal["overlap", "iou", "hungarian"] | None = None
    """Matching rule of instances; None leaves instances out."""
    min_iou: Annotated[float, Field(ge=0, lt=1)] = 0.5
    connectivity: Literal[6, 18, 26] = 26
    things: tuple[str, ...] = ()
    """Structures that are counted by their connected parts; empty takes the labels of kind 'lesion'."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 9999
    seed: Annotated[int, Field(ge=0)] = 0


class CohortComparison(Record):
    """A prediction held against a reference over many cases: the content of `comparison.json`."""

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
    other: tuple[CaseComparison, ...] = ()
    """The cases of another model, where two were compared."""
    other_structures: tuple[StructureSummary, ...] = ()
    other_overall: StructureSummary | None = None
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
        return self.model_copy(update={"structures": self.other_structures, "overall": self.other_overall})

    @property
    def failed(self) -> tuple[CaseComparison, ...]:
        """The cases that could not be compared, of both models."""
        return tuple(case for case in (*self.cases, *self.other) if case.error is not None)

    @property
    def complete(self) -> bool:
        """Whether each file found its partner."""
        return not (self.unmatched_predictions or self.unmatched_references)
