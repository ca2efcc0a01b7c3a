"""What is said about a study: the content of `result.json` and its tables."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.core.base import SCHEMA_VERSION, Count, Millilitres, Millimetres, Number, Record, Unit
from voxmetry.core.labels import LabelTable
from voxmetry.core.notebook import table
from voxmetry.core.records.comparison import Comparison
from voxmetry.core.records.correction import Correction
from voxmetry.core.records.series import SuvBasis

Size: TypeAlias = Annotated[int, Field(ge=1)]
"""Voxels along an axis."""

Point: TypeAlias = tuple[Number, Number, Number]
"""A position in RAS+ mm."""

NOWHERE: Point = (float("nan"), float("nan"), float("nan"))
"""The position of what has no voxel."""


class Region(Record):
    """What is measured of a structure and of a lesion alike, on the segmentation's own grid."""

    label: str
    value: Annotated[int, Field(ge=1, le=65535)]
    n_voxels: Count
    volume_ml: Millilitres
    centroid_ras_mm: Point
    max_diameter_mm: Number = float("nan")
    max_diameter_ends_ras_mm: tuple[Point, Point] = (NOWHERE, NOWHERE)
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


class Total(Record):
    """The sum of several structures, such as the intracranial volume, of which each is a share."""

    name: str
    labels: tuple[str, ...]
    volume_ml: Millilitres
    touches_border: bool
    """Whether one of them is cut off at a face of the image, so that the sum is too small."""
    share_percent: dict[str, float]
    """By structure; empty where the sum is 0."""


class Part(Region):
    """One part of a structure, measured by itself: a lesion, or an instance."""

    id: str
    """The structure's name and a number."""
    long_axis_mm: Number
    """Longest diameter in one slice of `plane`, as RECIST 1.1 measures."""
    long_axis_ends_ras_mm: tuple[Point, Point]
    short_axis_mm: Number
    """Longest diameter perpendicular to the long axis in the same slice."""
    short_axis_ends_ras_mm: tuple[Point, Point]
    slice_axis: Annotated[int, Field(ge=0, le=2)]
    """Axis of the grid that these slices are stacked along: 0, 1 or 2."""
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
    """Plane of measurement: that of acquisition where its slices are thick, else the axial one."""
    slice_index: Count
    location: str | None = None
    """The organ that holds most of it, or else the nearest one; None without organs."""
    location_distance_mm: Number = float("nan")
    """0 inside the organ, else the distance between the nearest voxel centres."""
    suv_peak: Number = float("nan")
    total_lesion_glycolysis_suv_ml: Number = float("nan")


class Lesion(Part):
    """One connected component of a structure of kind 'lesion'; the largest one is number 1."""


class InstanceMeasurement(Part):
    """One instance of a structure: a vertebra, a lesion that touches another."""

    instance: int
    """Its value in the instance map."""
    score: Number = float("nan")
    """Certainty in 0..1; nan where the method gives none, as connected components."""
    box_low_ras_mm: Point
    """Lowest corner of its box along the patient's axes: as the network gave it, or round the outer edges of voxels."""
    box_high_ras_mm: Point


class Flag(Record):
    """Something about a study that a person should know before using its numbers."""

    code: str
    """Machine-readable: 'empty', 'truncated', 'volume_out_of_range', 'spacing_out_of_domain', ..."""
    severity: Literal["note", "review", "reject"]
    """'review': look at the pictures before the numbers are used; 'reject': do not use them. Exit code 3 for both."""
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
    modality: Literal["CT", "MR", "PT"] | None
    unit: Unit
    shape: tuple[Size, Size, Size]
    spacing_mm: tuple[Millimetres, Millimetres, Millimetres]
    axcodes: Annotated[str, Field(pattern="^[LRAPIS]{3}$")]
    series_uid: str | None = None
    frame_uid: str | None = None
    """DICOM Frame of Reference UID: images that share it share their coordinates."""
    description: str = ""
    processing: tuple[str, ...] = ()
    """What was done to the values or the grid when it was read: SUV, resampling."""
    suv: SuvBasis | None = None
    """What SUV was worked out from, and what was taken for granted; None for what is no SUV of a DICOM series."""


class FastRun(Record):
    """What a run with `fast` did otherwise than a full one.

    Examples
    --------
    >>> str(FastRun(overlap=0.25, full_overlap=0.5)), str(FastRun(coarse="totalsegmentator-ct-6mm"))
    ('windows overlap by 25 % in place of 50 %', 'only inside the box that totalsegmentator-ct-6mm finds')
    >>> str(FastRun(eight_bits=("mine",), eight_bits_dice={"mine": 0.9912})), str(FastRun())
    ('in 8 bits: mine (Dice with the full run down to 0.99)', 'as a full run: windows overlap by no more')
    >>> str(FastRun(fewer_windows=True))
    'a quarter of the windows, and those at what these find'
    """

    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share that neighbouring windows overlap by; None where that is the model's own."""
    full_overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The model's own share; of a model of models the largest of its members. None where `overlap` is."""
    fewer_windows: bool = False
    """Whether a part of the model's windows was run: a quarter, and those whose middle holds what these found."""
    coarse: str = ""
    """The model that found the box inside of which alone the others ran; empty where all was looked at."""
    eight_bits: tuple[str, ...] = ()
    """Models whose networks ran in 8 bits."""
    eight_bits_dice: dict[str, Number] = Field(default_factory=dict)
    """Of each of these the lowest Dice of a structure with the full run, on the images it was calibrated on."""
    no_eight_bits: str = ""
    """Why others did not, and what would let them."""

    def __str__(self) -> str:
        parts = [f"only inside the box that {self.coarse} finds"] if self.coarse else []
        if self.overlap is not None and self.full_overlap is not None:
            few, own = (f"{100 * share:.0f} %" for share in (self.overlap, self.full_overlap))
            parts.append(f"windows overlap by {few} in place of {own}")
        parts += ["a quarter of the windows, and those at what these find"] if self.fewer_windows else []
        known = {name: f" (Dice with the full run down to {dice:.2f})" for name, dice in self.eight_bits_dice.items()}
        names = [f"{name}{known.get(name, '')}" for name in self.eight_bits]
        parts += [f"in 8 bits: {', '.join(names)}"] if names else []
        return ", ".join(parts) or "as a full run: windows overlap by no more"


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
    fast: FastRun | None = None
    """What was traded for time; None for a full run."""
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
    total: Total | None = None
    """Where the model names a sum that its structures are shares of."""
    lesions: tuple[Lesion, ...] = ()
    """Connected components of the structures of kind 'lesion'."""
    instances: tuple[InstanceMeasurement, ...] = ()
    """Where structures were told apart: by the network, by connected components or by watershed."""
    instances_by: Literal["", "network", "components", "watershed"] = ""
    """How; empty where nothing was told apart."""
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
    correction: Correction | None = None
    """Who corrected the model's label map, and what changed; None where it is the model's own."""
    files: dict[str, str] = Field(default_factory=dict)
    """Names of the files beside this one, by what they are."""
    not_written: dict[str, str] = Field(default_factory=dict)
    """Files that were asked for and could not be written, by their names, and why."""

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
