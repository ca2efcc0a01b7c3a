"""A clock of the time in which this process ran: what was said during a pause of the machine is still to be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

MOST_SECONDS = 0.25
"""What counts between two looks at the clock at most; whoever measures a silence by it looks more often."""


class AwakeClock:
    """Seconds since the start, without those in which the process was stopped, or its machine stood still.

    Parameters
    ----------
    monotonic
        The clock of the system.

    Examples
    --------
    >>> now = iter([0.0, 0.125, 10.0, 10.125])
    >>> clock = AwakeClock(lambda: next(now))
    >>> clock(), clock(), clock()
    (0.125, 0.375, 0.5)
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic, self._lock = monotonic, threading.Lock()
        self._last, self._counted = monotonic(), 0.0

    def __call__(self) -> float:
        """Return the seconds that count."""
        with self._lock:
            now = self._monotonic()
            self._counted += min(now - self._last, MOST_SECONDS)
            self._last = now
            return self._counted
