"""How long a sender was silent, measured while this process ran."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="the extra `serve` is not installed")

from dicom_callers import ROUTE, Submitted
from voxmetry.config.routes import DicomReceiver, Route
from voxmetry.service.dicom.awake import MOST_SECONDS, AwakeClock
from voxmetry.service.dicom.collector import Collector
from voxmetry.service.dicom.objects import read_instance


@pytest.fixture
def now() -> Iterator[list[float]]:
    return [0.0]


def test_a_series_is_not_cut_in_two_by_a_pause_of_the_machine(tmp_path: Path, series, now) -> None:
    """Its next slices lie in the connection: they are read once the process goes on."""
    routes = {"r": Route(**{**ROUTE, "quiet_seconds": 15})}
    collector = Collector(tmp_path, routes, DicomReceiver(free_mb=1), Submitted(), clock=AwakeClock(lambda: now[0]))
    (collector.folder).mkdir(parents=True)
    part = collector.folder / "a.part"
    part.write_bytes(series[0].read_bytes())
    collector.add(part, read_instance(part), "r", "ct", 1)
    now[0] += 60
    assert collector._over() == []
    for _ in range(60):
        now[0] += 0.2
        assert collector._over() == []
    for _ in range(16):
        now[0] += 0.2
        found = collector._over()
    assert [group.about.route for group in found] == ["r"]


def test_what_counts_between_two_looks_has_a_limit(now) -> None:
    clock = AwakeClock(lambda: now[0])
    now[0] = MOST_SECONDS / 2
    assert clock() == MOST_SECONDS / 2
    now[0] = 100.0
    assert clock() == 1.5 * MOST_SECONDS
    now[0] = 99.0 + 1
    assert clock() == 1.5 * MOST_SECONDS
