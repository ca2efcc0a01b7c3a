"""Callers of a C-STORE service as scanners and archives are, and what stands in for the queue behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom.sop_class import CTImageStorage, MRImageStorage, Verification

from voxmetry.service.dicom.association import CallingEntity
from voxmetry.service.dicom.collector import Collector
from voxmetry.service.dicom.receiver import Receiver


@dataclass
class Submitted:
    """What a queue was given."""

    jobs: list[dict[str, Any]] = field(default_factory=list)
    refuse: Exception | None = None

    def __call__(self, folder: Path, route: str, *, sender: str | None, origin: str, once: str) -> str:
        if self.refuse is not None:
            raise self.refuse
        for number, job in enumerate(self.jobs):
            if job["once"] == once:
                return f"job{number}"
        self.jobs.append({"folder": folder, "route": route, "sender": sender, "origin": origin, "once": once})
        return f"job{len(self.jobs) - 1}"


@dataclass
class Running:
    """A receiver, and what it handed on."""

    root: Path
    receiver: Receiver
    collector: Collector
    submitted: Submitted

    @property
    def port(self) -> int:
        return self.receiver.port

    def left(self) -> list[str]:
        """Names of what lies in the folder of what is being received."""
        return sorted(
            str(path.relative_to(self.collector.folder))
            for path in self.collector.folder.rglob("*")
            if path.name != "earlier"
        )

    def patience(self, seconds: float) -> None:
        """Set how long callers may say nothing, those that are there too.

        A good caller may be paused for seconds by the machine; only those that are to be cut off get little time.
        """
        server: Any = self.receiver._server
        server.limits = server.limits.model_copy(update={"idle_seconds": seconds})
        server.ae.acse_timeout = server.ae.dimse_timeout = server.ae.network_timeout = seconds
        for association in server.active_associations:
            association.limits = server.limits

    def over(self, n: int = 0) -> bool:
        """Whether all associations are over, and `n` jobs were submitted."""
        return not self.receiver.n_open and len(self.submitted.jobs) >= n


def eventually(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds; fail where it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError("it did not come to that in time")
        time.sleep(0.02)


# At release: a test must not depend on how long the machine pauses between two objects.
ROUTE = {"model": "hippocampus-mr", "ae_title": "VOX", "senders": ("ct",), "quiet_seconds": 3600, "on_release": True}


def call(port: int, *, title: str = "CT1", called: str = "VOX", tls: Any = None, contexts: Any = None) -> Any:
    """Ask for an association, as a scanner does."""
    entity = CallingEntity(ae_title=title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    for context in contexts or (Verification, MRImageStorage, CTImageStorage):
        entity.add_requested_context(context)
    return entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)


def send(association: Any, files: list[Path]) -> list[int | None]:
    """Send files, and return the status of each."""
    return [getattr(association.send_c_store(pydicom.dcmread(path)), "Status", None) for path in files]
