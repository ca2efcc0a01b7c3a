"""How a run is paced: its learning rate, and the minutes that it may take."""

from __future__ import annotations

import math
import time

from voxmetry.train.state import RunState


class Clock:
    """How far a run is: by its steps, or by the minutes that it may take, whichever is further.

    Of several processes the first one's clock counts for all: they end together, and learn at one rate.

    Parameters
    ----------
    state
        The run; `state.seconds` are those of its epochs that are done, validation included.
    max_minutes
        None: the steps alone decide.
    """

    def __init__(self, state: RunState, max_minutes: float | None) -> None:
        self.state, self.limit = state, None if max_minutes is None else 60 * max_minutes
        self.began = time.perf_counter()

    def note(self) -> None:
        """Count what has passed since the last time into the run's seconds."""
        now = time.perf_counter()
        self.state.seconds = self._of_the_first(self.state.seconds + now - self.began)
        self.began = now

    @property
    def is_over(self) -> bool:
        """Whether what was counted took all the time that there was."""
        return self.limit is not None and self.state.seconds >= self.limit

    def share(self, step: int, total: int) -> float:
        """Return the share of the run that is behind it, 0 to 1."""
        by_steps = step / total
        if self.limit is None:
            return by_steps
        spent = self.state.seconds + time.perf_counter() - self.began
        return self._of_the_first(min(1.0, max(by_steps, spent / self.limit if self.limit else 1.0)))

    def _of_the_first(self, value: float) -> float:
        fabric = self.state.fabric
        return float(fabric.broadcast(value)) if fabric.world_size > 1 else value


def learning_rate(step: float, total: int, peak: float) -> float:
    """One cycle: a cosine rise over the first tenth from peak / 25, then a cosine fall towards peak / 10,000.

    Smith and Topin 2017, arXiv 1708.07120. A function of the step alone, so that nothing needs to be resumed.

    Examples
    --------
    >>> [round(learning_rate(step, 100, 1.0), 4) for step in (0, 10, 99)]
    [0.04, 1.0, 0.0004]
    """
    rise = max(1, total // 10)
    if step < rise:
        low, share = peak / 25, step / rise
        return low + (peak - low) * (1 - math.cos(math.pi * share)) / 2
    low, share = peak / 10_000, (step - rise) / max(1, total - rise)
    return low + (peak - low) * (1 + math.cos(math.pi * share)) / 2
