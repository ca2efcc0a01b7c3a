"""What is said about the jobs of the service."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from voxmetry.config import StudySettings
from voxmetry.core.base import Number, Record
from voxmetry.core.records import Flag
from voxmetry.workflows.cohort.records import Fault

JobState: TypeAlias = Literal["waiting", "running", "done", "failed", "set aside", "cancelled"]
"""'set aside' is a job that took its worker down three times."""
DeliveryState: TypeAlias = Literal["none", "waiting", "delivered", "failed"]

OVER: frozenset[str] = frozenset({"done", "failed", "set aside", "cancelled"})
"""States that nothing follows."""


class Job(Record):
    """One study with one model, from its arrival to its results."""

    id: str
    """Sixteen hexadecimal digits, drawn at random."""
    state: JobState
    model: str
    """Name of the model."""
    settings: StudySettings
    source: tuple[str, ...]
    """Path of the image, or of each input of the model. Never shown to clients."""
    owned: bool = False
    """Whether the source was uploaded or received, and is deleted with the job."""
    priority: int = 5
    """0 to 9; the highest runs first, and of these the oldest."""
    origin: str = ""
    """What brought it: 'upload', 'path', 'monai', or a peer's or route's kind. No identity."""
    route: str | None = None
    """Name of the route that it came by."""
    send_to: tuple[str, ...] = ()
    """Names of the peers that receive its results."""
    label: str = ""
    """What a client calls it, shown on the page."""
    image: str | None = None
    """Identity of the image in the datastore."""
    created: str = ""
    """ISO 8601, UTC, as are `started` and `finished`."""
    started: str = ""
    finished: str = ""
    step: str = ""
    """What is being done now: 'read', 'network', 'write', ..."""
    n_starts: int = 0
    n_losses: int = 0
    """How often its worker was lost."""
    fault: Fault | None = None
    needs_review: bool = False
    flags: tuple[Flag, ...] = ()
    seconds: Number = float("nan")
    files: tuple[str, ...] = ()
    """Names of the files of its result."""
    delivery: DeliveryState = "none"
    n_deliveries: int = 0
    """How often delivery was tried."""
    delivery_fault: str = ""
    cancel: bool = False
    """Whether it is to be given up as soon as it comes back."""

    @property
    def is_over(self) -> bool:
        """Whether nothing follows, but for delivery."""
        return self.state in OVER


class JobEvent(Record):
    """Something that happened to a job."""

    number: int
    """Grows by one with each event of the service."""
    job: str
    at: str
    what: str
    """A state, 'step', 'delivery' or 'lost'."""
    words: str = ""


class Counts(Record):
    """Jobs by state."""

    states: dict[str, int] = Field(default_factory=dict)
    flagged: int = 0
    """Among those that are done."""


class Numbers(Record):
    """Sums over all jobs of the record."""

    seconds: float
    """That the jobs took that are done."""
    oldest_waiting: str
    """When the oldest job that waits came; empty where none does."""
    deliveries: dict[str, int]
    """Jobs by the state of their delivery."""
