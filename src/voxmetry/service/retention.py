"""What is deleted after its time: results, and what was uploaded for them."""

from __future__ import annotations

import datetime
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmetry.service.jobs import JobQueue
    from voxmetry.service.store import JobStore

EVERY_SECONDS = 600.0
UPLOAD = "upload-"
"""How the folder of an upload is called that is complete; what the name begins with keeps it apart from others."""
RECEIVED_NAME = "received-"
"""How the folder of what came by DICOM, or was fetched, is called."""
INCOMING = "incoming"
"""Folder inside the data folder: what is being received by DICOM."""


class Retirement:
    """Applies the retention of a queue, every ten minutes.

    Parameters
    ----------
    queue
        Whose jobs.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._next = 0.0

    def apply(self, *, now: datetime.datetime | None = None) -> None:
        """Delete what is due; with `now`, at once and as if it were then."""
        if now is None:
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + EVERY_SECONDS
        how = self._queue.settings.retention
        time_is = now or datetime.datetime.now(datetime.UTC)
        if how.uploads_days is not None:
            for job in self._queue.store.finished_before(_before(time_is, how.uploads_days)):
                self._queue.remove_source(job)
        if how.results_days is not None:
            for job in self._queue.store.finished_before(_before(time_is, how.results_days)):
                self._queue.remove(job.id)


def _before(now: datetime.datetime, days: float) -> str:
    return (now - datetime.timedelta(days=days)).isoformat(timespec="milliseconds")


def sweep_uploads(folder: Path, store: JobStore, incoming: Path) -> None:
    """Delete uploads that were cut off by a kill, and complete ones of which no job came.

    What came by DICOM and is still to be submitted has its folder in `incoming`, and stays.
    """
    for entry in folder.glob(".part-*"):
        shutil.rmtree(entry, ignore_errors=True)
    known = {part for source in store.sources() for part in Path(source).parts}
    for entry in folder.glob(f"{UPLOAD}*"):
        if entry.name not in known:
            shutil.rmtree(entry, ignore_errors=True)
    for entry in folder.glob(f"{RECEIVED_NAME}*"):
        if entry.name not in known and not (incoming / entry.name.removeprefix(RECEIVED_NAME)).exists():
            shutil.rmtree(entry, ignore_errors=True)
