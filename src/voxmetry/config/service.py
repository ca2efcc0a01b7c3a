"""The settings of `voxmetry serve`: one strict YAML file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from voxmetry.config.routes import (
    Days,
    Delivery,
    DicomReceiver,
    Host,
    OrthancPoll,
    PathText,
    Peer,
    Route,
    Seconds,
    network_problems,
)
from voxmetry.config.study import StudySettings
from voxmetry.core.base import Record

Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ServiceLimits(Record):
    """What the service takes at most. What is beyond is refused in words before it costs memory or disk."""

    upload_mb: Annotated[float, Field(gt=0)] = 4000
    """Bytes of one upload, in units of 10^6; of an archive, packed and unpacked."""
    upload_files: Annotated[int, Field(ge=1)] = 20_000
    """Files of one upload, also inside an archive."""
    upload_seconds: Seconds = 600
    """How long one upload may take."""
    idle_seconds: Seconds = 30
    """How long an upload may bring nothing."""
    waiting_jobs: Annotated[int, Field(ge=1)] = 1000
    """Jobs that wait at once."""
    uploads_at_once: Annotated[int, Field(ge=1)] = 8
    """Uploads and answers being prepared at the same time."""
    free_mb: Annotated[float, Field(ge=0)] = 500
    """Room, in units of 10^6 bytes, that must be left on the disk: below it nothing is accepted and no job starts."""
    wait_seconds: Seconds = 3600
    """How long a client that waits for its segmentation is kept waiting; the job itself goes on."""


class Retention(Record):
    """What is deleted, and when; None keeps it for ever."""

    results_days: Days | None = None
    """Results, and the rows of their jobs, this long after they are finished."""
    uploads_days: Days | None = None
    """Images that were uploaded or received, this long after their last job is finished."""


class TrainingSettings(Record):
    """What clients may have trained, as `voxmetry annotate train` takes it."""

    work: Annotated[tuple[PathText, ...], Field(min_length=1)]
    """Folders of work lists whose corrections were collected."""
    start_from: PathText
    """The model to start from: its run folder."""
    data: tuple[PathText, ...] = ()
    """Data sets of old cases."""
    out: PathText | None = None
    """Folder of the new runs, one each; None takes `trainings` in `data` of the service."""
    held_out: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Share of the new patients that is held out, for ever."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """None takes those of the model's settings; a client may ask for others."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """When a training ends and writes the model at the latest."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; the studies of clients are segmented beside it."""


class ServiceSettings(Record):
    """How `voxmetry serve` runs."""

    data: PathText = "voxmetry-service"
    """Folder of the record of jobs, of uploads and of results; relative to where the service is started."""
    host: Host = "127.0.0.1"
    """Address that it listens on; anything but loopback wants `tokens`, or `--no-auth`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes any free port."""
    models: Annotated[tuple[PathText, ...], Field(min_length=1)] = ("hippocampus-mr",)
    """Names of models or folders of models; nothing else can be asked for."""
    settings: StudySettings = StudySettings(report="full")
    """How each study is read and run where a request or a route does not say otherwise."""
    roots: dict[Name, PathText] = Field(default_factory=dict)
    """Folders whose images may be named by clients, each under a name: nothing outside them is opened."""
    tokens: PathText | None = None
    """File of the hashes of tokens, as `voxmetry serve token` writes it."""
    cors: tuple[str, ...] = ()
    """Origins, such as https://viewer.example, whose pages may call the service; none: cross-origin requests fail."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes on this machine; None takes one for each CUDA device, or one on the CPU."""
    in_flight: Annotated[int, Field(ge=1)] = 3
    """Studies that one process holds at once."""
    scheduler: str | None = None
    """Address of a Dask scheduler, as for cohorts; None runs the jobs on this machine."""
    limits: ServiceLimits = ServiceLimits()
    retention: Retention = Retention()
    routes: dict[Name, Route] = Field(default_factory=dict)
    """What is done with the studies that come by each way."""
    peers: dict[Name, Peer] = Field(default_factory=dict)
    """Systems that send studies and receive results, each under a name."""
    dicom: DicomReceiver | None = None
    """The C-STORE service; None: none is started."""
    polls: tuple[OrthancPoll, ...] = ()
    """Orthanc servers that are asked for what is new."""
    delivery: Delivery = Delivery()
    training: TrainingSettings | None = None
    """What the clients of MONAI Label may have trained; None: nothing."""

    @model_validator(mode="after")
    def _names_fit(self) -> ServiceSettings:
        problems = network_problems(self.routes, self.peers, self.dicom, self.polls)
        problems += [
            f"routes.{name}.model: {route.model} is not in models"
            for name, route in self.routes.items()
            if route.model not in self.models
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self
