"""What a run needs of those who do the work: take a study, and say what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from voxmetry.errors import VoxmetryError
from voxmetry.workflows.cohort.records import Outcome, Task


@dataclass(frozen=True)
class Finished:
    """A study came back."""

    outcome: Outcome


@dataclass(frozen=True)
class Lost:
    """A study's worker is gone."""

    key: tuple[str, str]
    alone: bool
    """Whether the worker had nothing else at the same time: only then is it known to be this study's doing."""
    how: str
    """What the system says about the worker's end."""


@dataclass(frozen=True)
class Again:
    """A study came back undone, through no fault of its own."""

    key: tuple[str, str]


@dataclass(frozen=True)
class Stopped:
    """A study met what the next one would meet as well: OUT cannot be written, the model cannot be used."""

    key: tuple[str, str]
    error: VoxmetryError


@dataclass(frozen=True)
class Step:
    """A study has come to its next step."""

    key: tuple[str, str]
    words: str


Event: TypeAlias = Finished | Lost | Again | Stopped | Step


class Executor(Protocol):
    """Those who do the work."""

    max_starts: int | None
    """How often workers may start a study in one run; None where the run itself counts."""

    def room(self, *, alone: bool) -> bool:
        """Whether a study can be taken now; with `alone`, by a worker that has nothing else."""
        ...

    def submit(self, task: Task, *, alone: bool) -> None:
        """Take a study."""
        ...

    def wait(self, seconds: float) -> Event | None:
        """Wait for the next event, at most this long.

        Raises
        ------
        VoxmetryError
            Where no worker can do anything: none starts, or the scheduler is gone.
        """
        ...

    def close(self) -> None:
        """Give up what is under way, and free everything."""
        ...
