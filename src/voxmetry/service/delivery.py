"""Results on their way to the peers that a job names: each peer by itself, tried again, each time later.

A peer that is away holds up nobody else, and what it took once is not sent to it again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from voxmetry.errors import OutputError, VoxmetryError
from voxmetry.service.dicom.network_store import NetworkStore, Sending
from voxmetry.service.records import Job
from voxmetry.workflows.dicom_names import DICOM_FILES, KEY_IMAGES

if TYPE_CHECKING:
    from voxmetry.service.jobs import JobQueue

Deliver: TypeAlias = Callable[[str, Sequence[Path]], Mapping[str, str]]
"""Sends files to a named peer, and returns why it did not take one, by its name; raises `VoxmetryError` where the peer
is not to be reached at all."""

LOG = logging.getLogger("voxmetry.service")
STOP_SECONDS = 5.0
_KINDS = {"seg": ("dicom_seg",), "rtstruct": ("rtstruct",), "sr": ("sr",), "pdf": ("pdf",), "key_images": KEY_IMAGES}
"""What `Route.send` names, as files of a run are named."""


class Deliveries:
    """Threads that send what is done.

    Parameters
    ----------
    queue
        The jobs.
    deliver
        Sends files to a peer.
    """

    def __init__(self, queue: JobQueue, deliver: Deliver) -> None:
        self._queue, self._deliver = queue, deliver
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="voxmetry-delivery", daemon=True)
        self._peers: dict[str, threading.Thread] = {}
        self._held = contextlib.ExitStack()
        self.record: NetworkStore

    def start(self) -> None:
        """Begin to send."""
        self.record = NetworkStore(self._queue.root)
        self._held.callback(self.record.close)
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether something is to be sent."""
        self._wake.set()

    def again(self, job: str) -> bool:
        """Send what no peer has taken of a job, now and as often as at first; return whether there is anything."""
        found = self.record.try_again(job) > 0
        if found:
            self._tell(job)
            self.wake()
        return found

    def stop(self) -> None:
        """End; what is being sent now has some seconds, and is sent again after the next start."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._peers.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        if not any(thread.is_alive() for thread in self._peers.values()):
            self._held.close()

    # --- what is to be sent

    def _work(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                for job in self._queue.store.waiting_for_delivery():
                    self._plan(job)
                for peer in self.record.waiting_peers():
                    self._begin(peer)
            except OutputError as error:
                LOG.error("the record of deliveries cannot be written: %s", error.found)
            self._wake.wait(1.0)

    def _plan(self, job: Job) -> None:
        """Write down what is to be sent of a job, once; and say how it stands."""
        if not self.record.of_job(job.id):
            files = self._files_of(job)
            if not files or not job.send_to:
                why = "no such object was written" if job.send_to else "the record does not say to whom"
                self._queue.store.change(job.id, tell=("delivery", f"nothing to send: {why}"), delivery="none")
                return
            self.record.plan(job.id, job.send_to, files)
        self._tell(job.id)

    def _files_of(self, job: Job) -> list[str]:
        route = self._queue.settings.routes.get(job.route or "")
        kinds = route.send if route is not None else tuple(_KINDS)
        names = [DICOM_FILES[what] for kind in kinds for what in _KINDS[kind]]
        return [name for name in names if name in job.files]

    def _begin(self, peer: str) -> None:
        thread = self._peers.get(peer)
        if thread is None or not thread.is_alive():
            self._peers[peer] = thread = threading.Thread(
                target=self._send_to, args=(peer,), name="voxmetry-delivery-peer", daemon=True
            )
            thread.start()

    # --- sending

    def _send_to(self, peer: str) -> None:
        """Send a peer all that is due now."""
        try:
            while not self._stopping.is_set() and (due := self.record.due(peer)):
                self._send(peer, due)
                self._tell(due[0].job)
        except OutputError as error:
            LOG.error("the record of deliveries cannot be written: %s", error.found)
            self._stopping.wait(STOP_SECONDS)

    def _send(self, peer: str, due: Sequence[Sending]) -> None:
        if self._queue.store.get(due[0].job) is None:
            self.record.forget(due[0].job)
            return
        folder = self._queue.folder(due[0].job)
        there = [each for each in due if (folder / each.file).is_file()]
        for gone in (each for each in due if each not in there):
            self.record.tried(gone, state="failed", reason="the file is gone: its results were deleted")
        if not there:
            return
        try:
            problems = self._deliver(peer, [folder / each.file for each in there])
        except VoxmetryError as error:
            LOG.warning("job %s: %s", due[0].job, error.found)
            for each in there:
                self._failed(each, error.found)
            # Others need not find out again.
            self.record.hold_back(peer, time.time() + self._wait_after(there[0].n_tries + 1))
            return
        for each in there:
            if each.file in problems:
                LOG.warning("job %s: %s was not taken by %s: %s", each.job, each.file, peer, problems[each.file])
                self._failed(each, f"{peer}: {problems[each.file]}")
            else:
                LOG.info("job %s: %s was sent to %s", each.job, each.file, peer)
                self.record.tried(each, state="delivered")

    def _failed(self, sending: Sending, reason: str) -> None:
        n = sending.n_tries + 1
        state = "failed" if n >= self._queue.settings.delivery.tries else "waiting"
        self.record.tried(sending, state=state, reason=reason, after=time.time() + self._wait_after(n))

    def _wait_after(self, n_tries: int) -> float:
        how = self._queue.settings.delivery
        return float(min(how.longest_wait_seconds, how.first_wait_seconds * 2.0 ** min(n_tries - 1, 60)))

    def _tell(self, job: str) -> None:
        """Say in the job's row how its deliveries stand."""
        known = self._queue.store.get(job)
        if known is None:
            self.record.forget(job)
            return
        rows = self.record.of_job(job)
        states = {each.state for each in rows}
        state = "waiting" if "waiting" in states else "failed" if "failed" in states else "delivered"
        reasons = sorted({each.reason for each in rows if each.reason and each.state != "delivered"})
        fault, n = "; ".join(reasons)[:1000], max((each.n_tries for each in rows), default=0)
        if (state, fault, n) == (known.delivery, known.delivery_fault, known.n_deliveries):
            return
        words = "delivered" if state == "delivered" else fault
        tell = ("delivery", words) if words else None
        self._queue.store.change(job, tell=tell, delivery=state, n_deliveries=n, delivery_fault=fault)
