"""A real archive on loopback: Orthanc sends and receives by C-STORE and by DICOMweb, and is polled."""

from __future__ import annotations

import pytest

from dicom_callers import ROUTE, eventually
from voxmetry.config.routes import (
    Delivery,
    DicomPeer,
    DicomReceiver,
    OrthancPeer,
    OrthancPoll,
    Route,
    SeriesMatch,
    WebPeer,
)
from voxmetry.errors import DownloadError, InputError
from voxmetry.io import read_volume
from voxmetry.service.dicom.fetch import DicomwebArchive, OrthancArchive, fetch_series
from voxmetry.service.dicom.network_store import NetworkStore
from voxmetry.service.dicom.poller import OrthancPoller
from voxmetry.service.dicom.send import Sender

LIMITS = DicomReceiver(free_mb=1)


@pytest.fixture
def archive(orthanc, series):
    orthanc.clear()
    orthanc.upload(*series)
    yield orthanc
    orthanc.clear()


def test_orthanc_sends_a_series_by_c_store(start, archive, series) -> None:
    peers = {"archive": DicomPeer(kind="dicom", ae_title="ORTHANC", addresses=("127.0.0.1",))}
    running = start({"r": Route(**{**ROUTE, "senders": ("archive",), "quiet_seconds": 600, "on_release": True})}, peers)
    archive.knows("voxmetry", "VOX", running.port)
    archive.post("modalities/voxmetry/echo", {})
    archive.post("modalities/voxmetry/store", [archive.get("series")[0]])
    eventually(lambda: running.over(1))
    received = read_volume(running.submitted.jobs[0]["folder"])
    assert (received.array == read_volume(series[0].parent).array).all()


@pytest.mark.parametrize("kind", ["dicom", "dicomweb"])
def test_results_reach_orthanc_and_twice_is_once(orthanc, series, kind) -> None:
    orthanc.clear()
    peers = {
        "dicom": DicomPeer(kind="dicom", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom),
        "dicomweb": WebPeer(kind="dicomweb", url=f"{orthanc.url}/dicom-web"),
    }
    sender = Sender(peers, Delivery())
    sender.echo(kind)
    for _ in range(2):
        assert sender(kind, series[:3]) == {}
    (stored,) = orthanc.series("MR")
    assert len(stored["Instances"]) == 3
    with pytest.raises(Exception, match="no peer"):
        sender("somebody else", series[:1])


def test_a_study_is_fetched_by_dicomweb_as_it_was_stored(archive, series, tmp_path) -> None:
    peer = WebPeer(kind="dicomweb", url=f"{archive.url}/dicom-web")
    web = DicomwebArchive("archive", peer, LIMITS, 120)
    for uid in ("1.2.3.4", "1.2.3.4.5"):
        (found,) = web.series_of(uid)
        assert (found.modality, found.description, found.n_instances) == ("MR", "Phantom T1", len(series))
    instances = fetch_series(web, [found], tmp_path / "got", LIMITS, SeriesMatch())
    assert len(instances) == len(series)
    assert sorted(p.name for p in (tmp_path / "got").iterdir())[0] == "000001.dcm"
    assert (read_volume(tmp_path / "got").array == read_volume(series[0].parent).array).all()
    assert web.series_of("1.2.3.999") == []
    few = LIMITS.model_copy(update={"group_instances": 3})
    with pytest.raises(InputError, match="more than 3 objects"):
        fetch_series(web, [found], tmp_path / "few", few, SeriesMatch())
    small = DicomwebArchive("archive", peer, LIMITS.model_copy(update={"group_mb": 0.001}), 120)
    with pytest.raises(DownloadError, match="more than is taken"):
        fetch_series(small, [found], tmp_path / "small", LIMITS, SeriesMatch())
    assert [path.name for path in tmp_path.iterdir()] == ["got"]


def test_a_server_that_is_away_or_another_thing_is_told_without_its_address(orthanc, tmp_path) -> None:
    for url in ("http://127.0.0.1:9/dicom-web", f"{orthanc.url}/nothing-here"):
        with pytest.raises(DownloadError, match="archive: ") as raised:
            DicomwebArchive("archive", WebPeer(kind="dicomweb", url=url), LIMITS, 5).series_of("1.2.3.4")
        assert "127.0.0.1" not in str(raised.value)
    away = {"pacs": DicomPeer(kind="dicom", ae_title="PACS", host="127.0.0.1", port=9)}
    with pytest.raises(DownloadError, match="pacs: no connection"):
        Sender(away, Delivery(timeout_seconds=3)).echo("pacs")


class TestPolling:
    def _poller(self, archive, record, taken, *, from_start=True, group="series") -> OrthancPoller:
        peer = OrthancPeer(kind="orthanc", url=archive.url)

        def take(_archive, series, once) -> None:
            taken.append((once, [(each.modality, each.n_instances) for each in series]))

        return OrthancPoller(
            OrthancPoll(peer="archive", route="r", from_start=from_start, seconds=0.2),
            Route(**{**ROUTE, "group": group}),
            OrthancArchive("archive", peer, LIMITS, 120),
            record,
            take,
        )

    def _all(self, poller, taken, n) -> None:
        def enough() -> bool:
            while poller.ask():
                pass
            return len(taken) >= n

        eventually(enough)

    @pytest.mark.parametrize("group", ["series", "study"])
    def test_each_series_is_taken_once_also_by_the_next_process(self, archive, series, tmp_path, group) -> None:
        eventually(archive.settled)
        record, taken = NetworkStore(tmp_path), []
        self._all(self._poller(archive, record, taken, group=group), taken, 1)
        assert taken[-1][1] == [("MR", len(series))]
        record.close()
        n, again = len(taken), NetworkStore(tmp_path)
        poller = self._poller(archive, again, taken, group=group)
        while poller.ask():
            pass
        assert len(taken) == n
        again.close()

    def test_what_was_there_before_is_left_unless_the_settings_say_so(self, archive, tmp_path) -> None:
        eventually(archive.settled)
        record, taken = NetworkStore(tmp_path), []
        poller = self._poller(archive, record, taken, from_start=False)
        while poller.ask():
            pass
        assert not taken
        assert record.position("archive", "r") == archive.get("changes?last")["Last"]
        record.close()

    def test_the_files_are_fetched_by_orthancs_own_interface(self, archive, series, tmp_path) -> None:
        peer = OrthancPeer(kind="orthanc", url=archive.url)
        own = OrthancArchive("archive", peer, LIMITS, 120)
        found = own.series_of(archive.get("series")[0])
        assert len(fetch_series(own, found, tmp_path / "got", LIMITS, SeriesMatch())) == len(series)
        assert own.series_of("00000000-00000000") == []
