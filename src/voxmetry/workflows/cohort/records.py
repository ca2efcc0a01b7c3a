"""What is said about the studies of a cohort: found, planned, handed to a worker, and come back from it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from voxmetry.config import StudySettings
from voxmetry.core.base import Number, Record
from voxmetry.core.records import Comparison, Flag, Lesion, Measurement, OtherInput

State: TypeAlias = Literal["waiting", "running", "done", "failed", "set aside", "refused", "duplicate"]
"""'refused' and 'duplicate' are found while planning; 'set aside' is a study that took its worker down three times."""


class Fault(Record):
    """Why something was not done, in the three parts of every error of this package."""

    error: str
    found: str
    expected: str = ""
    fix: str = ""


class Candidate(Record):
    """One image that was found, from its headers alone."""

    case: str
    """Name within the cohort: the path inside the input, without suffix."""
    path: str
    """File, or folder of DICOM files."""
    series: str | None = None
    """Series Instance UID, where the path is a folder."""
    study_uid: str | None = None
    """Study Instance UID of a DICOM series."""
    verdict: str = ""
    """What the audit of a DICOM series says of its slices; 'uneven', 'missing' and 'tilted' are read when asked for."""
    format: Literal["DICOM", "NIfTI", "ITK", "unknown"] = "unknown"
    modality: str | None = None
    """CT, MR or PT; of several images all of theirs, joined by +."""
    description: str = ""
    body_part: str = ""
    shape: tuple[int, int, int] | None = None
    """(I, J, K), or columns, rows and slices of a DICOM series."""
    spacing_mm: tuple[float, float, float] | None = None
    itemsize: int = 2
    """Bytes a voxel, as stored."""
    fingerprint: str = ""
    """Sizes and times of the files: another fingerprint means another input."""
    reference: str | None = None
    patient: str | None = None
    model: str | None = None
    """The model that a manifest names for this study."""
    entities: dict[str, str] = Field(default_factory=dict)
    """BIDS entities, in the order of the file's name, with 'suffix' and 'datatype'."""
    fault: Fault | None = None
    """Why it cannot be run, where the headers say so already."""
    parts: tuple[Candidate, ...] = ()
    """Its images, where it has several, such as CT and PET; what stands above is then the first one's."""
    loose: bool = False
    """Whether the parts are all series of a folder, of which a model takes those of its modalities."""

    @property
    def images(self) -> tuple[Candidate, ...]:
        """Its images, one or several."""
        return self.parts or (self,)


class PlannedStudy(Record):
    """One study with one model: what would be done with it, and why."""

    case: str
    model: str
    """Name of the model; empty where no model takes the study."""
    state: State
    fault: Fault | None = None
    """Why it is refused, a duplicate, or failed before."""
    why: str = ""
    """Why it is to run again, in words."""
    candidate: Candidate
    recipe: str = ""
    """SHA-256 of everything that decides on the numbers: weights, model and settings."""
    seconds_foreseen: Number = float("nan")
    memory_mb_foreseen: Number = float("nan")

    @property
    def key(self) -> tuple[str, str]:
        """Case and model."""
        return (self.case, self.model)


class Forecast(Record):
    """Time and memory that a run is expected to take."""

    n: int
    seconds: Number
    memory_mb: Number
    """Of the largest study, in one process, in units of 10^6 bytes."""
    basis: str
    """What the two are taken from."""


class CohortPlan(Record):
    """What a run would do."""

    out: str
    layout: Literal["folders", "bids"]
    models: tuple[str, ...]
    studies: tuple[PlannedStudy, ...]
    notes: tuple[str, ...] = ()
    """What was left out of the source, in words."""
    forecast: Forecast

    def of(self, *states: State) -> tuple[PlannedStudy, ...]:
        """Return the studies in one of these states."""
        return tuple(study for study in self.studies if study.state in states)

    def counts(self) -> dict[str, int]:
        """Return how many studies are in each state."""
        found: dict[str, int] = {}
        for study in self.studies:
            found[study.state] = found.get(study.state, 0) + 1
        return found


class RunSettings(Record):
    """How a cohort is run. What changes a number is in `study`; the rest only changes how long it takes."""

    study: StudySettings = StudySettings(report="brief")
    """A full report takes longer than the network on a small study: by default only flagged studies have one."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes on this machine; None takes one for each CUDA device, or one on the CPU."""
    in_flight: Annotated[int, Field(ge=1)] = 3
    """Studies that one process holds at once: while one is in the network, others are read and written."""
    scheduler: str | None = None
    """Address of a Dask scheduler, or 'local' or 'local:N' for a cluster of N processes on this machine."""
    only_failed: bool = False
    skip_done: bool = False
    """Believe the record: do not hash the files of studies that it calls done."""
    break_lock: bool = False


class Task(Record):
    """One study with one model, as it is handed to a worker."""

    case: str
    model: str
    """Name of the model, for people."""
    model_path: str
    """What `load_model` takes."""
    study: tuple[str, ...]
    """Path of the image, or of each input of the model in its order."""
    reference: str | None
    settings: StudySettings
    root: str
    """OUT."""
    place: str
    """Where the files go, inside OUT."""
    stem: str | None = None
    """What the names of the files begin with in a BIDS derivative."""
    sidecar: dict[str, object] | None = None
    """What a BIDS derivative says about its source."""
    run: str
    """Identity of the run."""
    version: str
    weights_sha256: str
    max_starts: int | None = None
    """Set aside when it is started more often than this in one run: each time before, its worker was lost."""

    @property
    def key(self) -> tuple[str, str]:
        """Case and model."""
        return (self.case, self.model)


class FileMark(Record):
    """A file as it was written."""

    sha256: str
    n_bytes: int


class Outcome(Record):
    """What became of one study with one model."""

    case: str
    model: str
    state: Literal["done", "failed", "set aside"]
    fault: Fault | None = None
    place: str
    """Folder of the files, inside OUT."""
    files: dict[str, FileMark] = Field(default_factory=dict)
    """By their path inside OUT."""
    colours: dict[str, str] = Field(default_factory=dict)
    """Of the structures, by their names: those of the study's own report."""
    measurements: tuple[Measurement, ...] = ()
    lesions: tuple[Lesion, ...] = ()
    others: tuple[OtherInput, ...] = ()
    """What was measured on each further image of a model with several inputs."""
    comparisons: tuple[Comparison, ...] = ()
    flags: tuple[Flag, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict)
    resident_mb: Number = float("nan")
    """Resident memory of the worker when the study was done, in units of 10^6 bytes."""
    peak_memory_mb: Number = float("nan")
    worker: str = ""
    device: str = ""
    started: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    n_starts: int = 1

    @property
    def key(self) -> tuple[str, str]:
        """Case and model."""
        return (self.case, self.model)

    @property
    def needs_review(self) -> bool:
        """Whether a person should look before the numbers are used."""
        return any(flag.severity == "review" for flag in self.flags)
