"""How a long task tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after each part of a task, such as a case or a file."""

    def __call__(self, done: int, total: int, /) -> None:
        """Take the number of parts that are done and of all."""
