"""What the service's own interface takes and returns: jobs as clients see them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from voxmetry.core.records import Flag
from voxmetry.service.infer import JobOptions
from voxmetry.service.records import Job, JobEvent, JobState
from voxmetry.workflows.cohort.records import Fault

STEPS = ("load model", "read", "preprocess", "network", "clean up", "measure", "compare with prior", "write")
"""In their order, for a measure of progress."""


class Refusal(BaseModel):
    """Why something was not done: what was found, what was expected, what to do."""

    error: str
    found: str
    expected: str
    fix: str


class JobView(BaseModel):
    """A job as clients see it."""

    id: str
    state: JobState
    model: str
    priority: int
    origin: str
    route: str | None
    label: str
    image: str | None
    created: str
    started: str
    finished: str
    step: str
    progress: Annotated[float, Field(ge=0, le=1)]
    """Share of its steps that is done; steps differ in length."""
    fault: Fault | None
    needs_review: bool
    flags: tuple[Flag, ...]
    seconds: float | None
    files: tuple[str, ...]
    delivery: str
    delivery_fault: str
    n_starts: int

    @classmethod
    def of(cls, job: Job) -> JobView:
        """Return what clients see: neither paths nor settings that name any."""
        values = {name: getattr(job, name) for name in cls.model_fields if name not in ("progress", "seconds")}
        seconds = job.seconds if job.seconds == job.seconds else None
        return cls(**values, progress=progress_of(job), seconds=seconds)


class JobList(BaseModel):
    """Some of the jobs, the newest first."""

    jobs: list[JobView]
    counts: dict[str, int]
    """All jobs by state, and 'flagged' among those that are done."""
    last_event: int
    """Number of the newest event: ask for those after it."""


class NewJob(BaseModel):
    """A study that the service can reach by itself; one of path, image and uid names it."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1, max_length=200)]
    path: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """Root and path below it: research/case_7. For a model of several inputs a folder, or `paths`."""
    paths: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(max_length=10)] = ()
    """One for each input of the model, each a root and a path below it."""
    image: Annotated[str, Field(min_length=1, max_length=400)] | None = None
    """Id of an image in the datastore."""
    uid: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)*$", max_length=64)] | None = None
    """Study or Series Instance UID of what lies below a root, or on a peer."""
    peer: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Name of the peer that `uid` is fetched from."""
    options: JobOptions = JobOptions()
    priority: Annotated[int, Field(ge=0, le=8)] = 5
    """The highest runs first; 9 is for those who wait in 3D Slicer or OHIF."""
    label: Annotated[str, Field(max_length=100)] = ""
    """What it is shown as; every user sees it, so that no name of a patient belongs in it."""
    once: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """A second request with the same text returns the job of the first."""


class FileEntry(BaseModel):
    """A file of a result."""

    name: str
    n_bytes: int


class EventList(BaseModel):
    """What happened, in its order."""

    events: list[JobEvent]
    last: int
    """Ask for those after it."""


class ModelView(BaseModel):
    """A model of the service."""

    name: str
    summary: str
    inputs: list[str]
    """Modality of each input."""
    structures: list[str]


def progress_of(job: Job) -> float:
    """Return the share of a job's steps that is done.

    Examples
    --------
    >>> from voxmetry.config import StudySettings
    >>> progress_of(Job(id="1", state="running", model="m", settings=StudySettings(), source=(), step="network"))
    0.375
    """
    if job.state == "running":
        words = job.step.split(":")[0]
        return STEPS.index(words) / len(STEPS) if words in STEPS else 0.0
    return 1.0 if job.is_over else 0.0
