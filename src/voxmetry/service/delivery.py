"""Results on their way to the peers that a job names: tried a few times, each later than the one before."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from voxmetry.errors import OutputError, VoxmetryError
from voxmetry.service.records import Job

if TYPE_CHECKING:
    from voxmetry.service.jobs import JobQueue

Deliver: TypeAlias = Callable[[Job], None]
"""Sends the results of a job to all of its peers; raises `VoxmetryError` where one did not take them."""

LOG = logging.getLogger("voxmetry.service")


class Deliveries:
    """A thread that sends what is done.

    Parameters
    ----------
    queue
        The jobs.
    deliver
        What sends the results of one.
    """

    def __init__(self, queue: JobQueue, deliver: Deliver) -> None:
        self._queue, self._deliver = queue, deliver
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="voxmetry-delivery", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether something is to be sent."""
        self._wake.set()

    def stop(self) -> None:
        """Finish what is being sent now, and end."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                job = self._queue.store.to_deliver()
                if job is not None:
                    self._send(job)
                    continue
            except OutputError as error:
                LOG.error("the record of deliveries cannot be written: %s", error.found)
            self._wake.wait(1.0)

    def _send(self, job: Job) -> None:
        n, how = job.n_deliveries + 1, self._queue.settings.delivery
        try:
            self._deliver(job)
        except VoxmetryError as error:
            over = n >= how.tries
            wait = min(how.longest_wait_seconds, how.first_wait_seconds * 2.0 ** min(n - 1, 60))
            after = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=wait)
            self._queue.store.change(
                job.id,
                tell=("delivery", error.found),
                delivery="failed" if over else "waiting",
                n_deliveries=n,
                delivery_fault=error.found,
                deliver_after=after.isoformat(timespec="milliseconds"),
            )
            return
        self._queue.store.change(
            job.id, tell=("delivery", "delivered"), delivery="delivered", n_deliveries=n, delivery_fault=""
        )
