"""What is said about two time points of a patient: the content of `follow_up.json`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.core.base import Number, Record
from voxmetry.core.records.study import Flag, Lesion, Provenance

FOLLOW_UP_VERSION = 1
"""Version of the shape of `follow_up.json`."""

Change: TypeAlias = Literal["matched", "new", "gone", "merged", "split", "regrouped", "not covered"]
Category: TypeAlias = Literal["CR", "PR", "SD", "PD", "non-CR/non-PD", "NE"]
Row4: TypeAlias = tuple[float, float, float, float]


class FollowUpSettings(Record):
    """How two time points are compared with each other."""

    lesions: tuple[str, ...] | None = None
    """Structures whose connected parts are lesions; None takes those of kind 'lesion'."""
    nodes: tuple[str, ...] = ()
    """Those of them that are lymph nodes: RECIST measures them by the short axis."""
    names: dict[str, str] = Field(default_factory=dict)
    """Names (or values) at one time point, to those at the other: `{"GTV": "tumour"}`."""
    targets: tuple[str, ...] | None = None
    """Ids of the target lesions at baseline; None takes the largest measurable ones."""
    nadir_mm: Annotated[float, Field(ge=0)] | None = None
    """Smallest sum of diameters of the same targets so far; None takes that of the baseline."""
    registration: Literal["auto", "none", "rigid", "affine"] = "auto"
    """'auto': none where both images share a frame of reference and overlap, else rigid."""
    min_overlap: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Two lesions are linked when this share of one of them lies in the other."""
    max_distance_mm: Annotated[float, Field(ge=0)] = 10.0
    """Lesions that overlap none are paired when their centroids are no further apart than this."""
    connectivity: Literal[6, 18, 26] = 26
    min_volume_ml: Annotated[float, Field(ge=0)] = 0.0
    """Smaller lesions are left out at both time points."""


class RegistrationInfo(Record):
    """How the two time points were brought together, and how far to trust it."""

    kind: Literal["none", "rigid", "affine"]
    matrix_ras_mm: tuple[Row4, Row4, Row4, Row4]
    """Takes a place at follow-up to the same place at baseline, both in RAS+ mm."""
    rotation_degrees: Number = float("nan")
    shift_mm: Number = float("nan")
    """How far the middle of the follow-up image is moved."""
    covered: Number = float("nan")
    """Share of the follow-up image that lies within the baseline image."""
    mutual_information_before: Number = float("nan")
    mutual_information_after: Number = float("nan")
    inverse_error_mean_mm: Number = float("nan")
    """Distance between a place and itself after a registration there and an independent one back."""
    inverse_error_max_mm: Number = float("nan")
    ok: bool
    """Whether all checks were passed."""
    reason: str
    """Why none was needed, what the checks found, or which one failed."""


class LesionChange(Record):
    """One lesion through time, or several that merged or split."""

    label: str
    status: Change
    rule: Literal["overlap", "distance", ""]
    """What linked them; empty where nothing did."""
    baseline_ids: tuple[str, ...]
    follow_up_ids: tuple[str, ...]
    overlap: Number
    """Largest share of one of two linked lesions that lies in the other."""
    centroid_distance_mm: Number
    """After the registration; of all voxels of either side together."""
    volume_baseline_ml: float
    volume_follow_up_ml: Number
    volume_change_ml: Number
    volume_change_percent: Number
    diameter_baseline_mm: float
    """Long axis, short axis of a lymph node; of several lesions the sum."""
    diameter_follow_up_mm: Number
    diameter_change_mm: Number
    diameter_change_percent: Number
    trend: Literal["larger", "smaller", "stable", ""]
    """'larger': by 20 % and 5 mm of diameter at least; 'smaller': by 30 %; else 'stable'. Of single lesions
    RECIST says nothing: its thresholds for the sum are borrowed."""
    target: bool
    reason: str = ""
    """Why a number is nan; empty where none is."""


class Response(Record):
    """RECIST 1.1 category of this time point, and the rule that gave it."""

    category: Category
    rule: str
    target_response: Category | None
    """None without target lesions."""
    non_target_response: Category | None
    """None without other lesions."""
    targets: tuple[str, ...]
    """Ids at baseline."""
    new_lesions: tuple[str, ...]
    """Ids at follow-up of the new lesions that count as progression."""
    sum_baseline_mm: Number
    sum_nadir_mm: Number
    sum_follow_up_mm: Number
    change_from_baseline_percent: Number
    change_from_nadir_mm: Number
    change_from_nadir_percent: Number
    caveats: tuple[str, ...]
    """What a reader of these images should look at before the category is used."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class FollowUp(Record):
    """Two time points of a patient compared with each other."""

    schema_version: Annotated[int, Field(ge=1, le=FOLLOW_UP_VERSION)] = FOLLOW_UP_VERSION
    voxmetry_version: str = ""
    settings: FollowUpSettings
    registration: RegistrationInfo
    baseline: tuple[Lesion, ...]
    """Measured on the baseline's own grid."""
    follow_up: tuple[Lesion, ...]
    """Measured on the follow-up's own grid."""
    changes: tuple[LesionChange, ...]
    response: Response
    flags: tuple[Flag, ...] = ()
    definitions: dict[str, str]

    @property
    def needs_review(self) -> bool:
        """Whether a person should look before the numbers are used."""
        return any(flag.severity == "review" for flag in self.flags)


class StructureChange(Record):
    """One structure of a study beside the same one of an earlier study, each on its own grid."""

    label: str
    value: int | None
    """Its value in the later label map; None where that model does not have it."""
    volume_prior_ml: Number
    """nan where the earlier model does not have the structure; 0 where it was not found."""
    volume_ml: Number
    volume_change_ml: Number
    volume_change_percent: Number
    """Of the prior's volume."""
    max_diameter_prior_mm: Number
    max_diameter_mm: Number
    max_diameter_change_mm: Number
    cut_off: bool
    """Whether it touches the edge of one of the images, so that the change may be one of the field of view."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class PriorComparison(Record):
    """A study compared with an earlier one of the same patient: the content of `change.json`."""

    schema_version: Annotated[int, Field(ge=1, le=FOLLOW_UP_VERSION)] = FOLLOW_UP_VERSION
    voxmetry_version: str
    """Of the run that was compared with the prior."""
    prior: Provenance
    """How the earlier result came to be."""
    structures: tuple[StructureChange, ...]
    follow_up: FollowUp | None
    """Lesion by lesion, with the RECIST category; None where no structure is a lesion or nothing could be matched."""
    reason: str = ""
    """Why there is no `follow_up`; empty where there is one."""
    flags: tuple[Flag, ...] = ()
