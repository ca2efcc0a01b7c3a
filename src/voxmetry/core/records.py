"""What is said about a study: the records that go into `result.json` and the tables, and come back out of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.core.base import Number, Record
from voxmetry.core.labels import LabelTable

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
    n_files: int
    n_slices: int
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

    @property
    def readable(self) -> bool:
        """Whether `read_series` will return a volume."""
        return self.verdict in ("regular", "single")


class Measurement(Record):
    """One structure of a segmentation, measured on the segmentation's own grid."""

    label: str
    value: int
    kind: Literal["organ", "lesion"]
    n_voxels: int
    volume_ml: float
    extent_rl_mm: Number
    extent_ap_mm: Number
    extent_si_mm: Number
    centroid_ras_mm: tuple[Number, Number, Number]
    mesh_volume_ml: Number = float("nan")
    surface_area_mm2: Number = float("nan")
    sphericity: Number = float("nan")
    max_diameter_mm: Number = float("nan")
    touches_border: bool
    border_sides: tuple[str, ...] = ()
    """Faces of the grid that the structure touches, by the nearest patient direction: L, R, P, A, I, S."""
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


Point: TypeAlias = tuple[Number, Number, Number]
"""A position in RAS+ mm."""


class Lesion(Record):
    """One connected component of a structure, measured on the segmentation's own grid."""

    id: str
    """The structure's name and a number; the largest component is 1."""
    label: str
    value: int
    n_voxels: int
    volume_ml: float
    centroid_ras_mm: Point
    max_diameter_mm: Number
    long_axis_mm: Number
    """Longest diameter in one axial slice, as RECIST 1.1 measures."""
    long_axis_ends_ras_mm: tuple[Point, Point]
    short_axis_mm: Number
    """Longest diameter perpendicular to the long axis in the same slice."""
    short_axis_ends_ras_mm: tuple[Point, Point]
    slice_axis: int
    """Axis of the grid that the axial slices are stacked along: 0, 1 or 2."""
    slice_index: int
    touches_border: bool
    border_sides: tuple[str, ...] = ()
    location: str | None = None
    """The organ that holds most of it, or else the nearest one; None without organs."""
    location_distance_mm: Number = float("nan")
    """0 inside the organ, else the distance between the nearest voxel centres."""
    intensity_unit: str | None = None
    intensity_mean: Number = float("nan")
    intensity_sd: Number = float("nan")
    intensity_min: Number = float("nan")
    intensity_p05: Number = float("nan")
    intensity_median: Number = float("nan")
    intensity_p95: Number = float("nan")
    intensity_max: Number = float("nan")
    suv_peak: Number = float("nan")
    total_lesion_glycolysis_suv_ml: Number = float("nan")
    reason: str = ""
    """Why a number is nan; empty where none is."""


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
    severity: Literal["note", "review"]
    """'review' asks for a look before the numbers are used, and makes the exit code 3."""
    message: str
    label: str | None = None


class SourceInfo(Record):
    """What was segmented, without naming the patient or the path."""

    format: str
    modality: str | None
    unit: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axcodes: str
    series_uid: str | None = None
    description: str = ""


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
    started: str
    """UTC, ISO 8601."""
    seconds: dict[str, float]
    """Wall-clock seconds of each step, and 'total'."""
    peak_memory_mb: Number
    """Largest resident memory of the process, in units of 10^6 bytes."""


class StudyResult(Record):
    """All that is known about a study after it was segmented and measured: the content of `result.json`."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    source: SourceInfo
    labels: LabelTable
    measurements: tuple[Measurement, ...]
    comparisons: tuple[Comparison, ...] = ()
    flags: tuple[Flag, ...] = ()
    definitions: dict[str, str]
    """How each number is defined, by the name of its field."""
    provenance: Provenance
    files: dict[str, str] = Field(default_factory=dict)
    """Names of the files beside this one, by what they are."""

    @property
    def needs_review(self) -> bool:
        """Whether a person should look before the numbers are used."""
        return any(flag.severity == "review" for flag in self.flags)
