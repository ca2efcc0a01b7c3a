"""A receiver on loopback, a series to send, and an Orthanc server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import orthanc as orthanc_server
import phantoms
from voxmetry.io import write_series

pytest.importorskip("pynetdicom", reason="the extra `serve` is not installed")

from dicom_callers import ROUTE, Running, Submitted
from voxmetry.config.routes import DicomPeer, DicomReceiver, Route
from voxmetry.service.dicom.collector import Collector
from voxmetry.service.dicom.receiver import Receiver

SERIES_UID, STUDY_UID = "1.2.3.4.5", "1.2.3.4"


@pytest.fixture(scope="session")
def _series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sent") / "series"
    write_series(
        phantoms.volume(), folder, modality="MR", description="Phantom T1", series_uid=SERIES_UID, study_uid=STUDY_UID
    )
    return sorted(folder.iterdir())


@pytest.fixture
def series(_series: list[Path]) -> list[Path]:
    """Axial MR slices, one file each; not to be changed."""
    return _series


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a receiver: routes, peers and limits may be given; all are stopped at the end."""
    started: list[Running] = []

    def begin(
        routes: dict[str, Route] | None = None,
        peers: dict[str, Any] | None = None,
        submitted: Submitted | None = None,
        root: Path | None = None,
        **limits: Any,
    ) -> Running:
        routes = routes or {"hippocampus": Route(**ROUTE)}
        peers = peers or {"ct": DicomPeer(kind="dicom", ae_title="CT1", addresses=("127.0.0.1",))}
        settings = DicomReceiver(**{"port": 0, "free_mb": 1, **limits})
        submitted = submitted or Submitted()
        collector = Collector(root or tmp_path / "service", routes, settings, submitted)
        receiver = Receiver(settings, routes, peers, collector)
        collector.start()
        receiver.start()
        started.append(Running(collector.folder.parent, receiver, collector, submitted))
        return started[-1]

    yield begin
    for running in started:
        running.receiver.stop()
        running.collector.stop()


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[orthanc_server.Orthanc]:
    """An Orthanc server with DICOMweb; the test is skipped where it is not installed."""
    if why := orthanc_server.why_not():
        pytest.skip(why)
    with orthanc_server.running(tmp_path_factory.mktemp("orthanc")) as server:
        yield server
