"""What the headers of a DICOM series say."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from voxmetry.core.base import Number, Record

SeriesVerdict: TypeAlias = Literal[
    "regular", "single", "duplicate", "missing", "uneven", "tilted", "mixed", "unreadable", "not an image"
]


class SuvBasis(Record):
    """What the SUV of a PET series was worked out from; no date, and nothing of the patient."""

    kind: Literal["bw", "lbm", "bsa"]
    factor: Number
    """SUV of a stored value of 1, after its own rescaling."""
    elapsed_s: Number = float("nan")
    """From injection to the start of the scan that the dose is decayed over; nan where it is not."""
    half_life_s: Number = float("nan")
    sources: dict[str, str] = Field(default_factory=dict)
    """Which element each quantity was taken from."""
    assumptions: tuple[str, ...] = ()
    """What the headers do not say and was taken for granted, such as a unit; each flags the study for review."""


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
    joins: tuple[int, ...] = ()
    """Numbers of the volumes that this one is made of, where they follow each other at different steps."""
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
    verdict: SeriesVerdict
    reason: str = ""
    """Why the verdict is not 'regular', in words and numbers; empty where it is."""
    files: tuple[str, ...] = Field(default=(), exclude=True, repr=False)
    """Paths in slice order. They stay out of JSON: folders are often named after patients."""
    processing: tuple[str, ...] = ()
    """What was done to the values or the grid beyond the file's own rescaling, in words: SUV, resampling."""
    suv: SuvBasis | None = None
    """How SUV was worked out; None for what is no SUV, and before the series is read."""
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
