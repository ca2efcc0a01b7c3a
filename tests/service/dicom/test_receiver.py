"""The C-STORE service: studies come in, and nobody who does harm stops another or leaves anything."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from pynetdicom.sop_class import MRImageStorage

from dicom_callers import ROUTE, Submitted, call, eventually, send
from orthanc import free_port
from voxmetry.config.routes import DicomPeer, Route, SeriesMatch, Tls
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import InputError, OutputError
from voxmetry.io import read_volume
from voxmetry.service.dicom import incoming as bounded
from voxmetry.service.dicom.gateway import Gateway
from voxmetry.service.dicom.tls import client_context


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestASeries:
    def test_becomes_one_job_after_a_quiet_time_and_reads_as_what_was_sent(self, start, series) -> None:
        running = start({"hippocampus": Route(**{**ROUTE, "quiet_seconds": 4, "on_release": False})})
        first, second = call(running.port), call(running.port)
        # Two associations at once, as archives do.
        assert send(first, series[:5]) == [0] * 5
        assert send(second, series[5:]) == [0] * (len(series) - 5)
        first.release()
        second.release()
        eventually(lambda: running.over(1))
        (job,) = running.submitted.jobs
        assert (job["route"], job["sender"], job["origin"]) == ("hippocampus", "ct", "dicom")
        assert names(job["folder"]) == [f"{n:06}.dcm" for n in range(1, len(series) + 1)]
        sent, received = read_volume(series[0].parent), read_volume(job["folder"])
        assert (sent.array == received.array).all()
        assert received.geometry.shape == sent.geometry.shape
        assert running.left() == [next(name for name in running.left() if name.endswith(".json"))]

    def test_sent_twice_in_one_go_is_taken_once(self, start, series) -> None:
        running = start()
        caller = call(running.port)
        assert send(caller, [*series, *series]) == [0] * 2 * len(series)
        caller.release()
        eventually(lambda: running.over(1))
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)

    def test_is_handed_on_at_release_where_the_route_says_so(self, start, series) -> None:
        running = start({"now": Route(**ROUTE)})
        caller = call(running.port)
        send(caller, series)
        time.sleep(0.6)
        assert not running.submitted.jobs
        caller.release()
        eventually(lambda: running.over(1))

    def test_whose_last_slices_come_late_is_done_again_with_all(self, start, series) -> None:
        running = start()
        for part in (series[:-3], series[-3:]):
            caller = call(running.port)
            send(caller, part)
            caller.release()
            n_before = len(running.submitted.jobs)
            eventually(lambda n=n_before: running.over(n + 1))
        assert [len(names(job["folder"])) for job in running.submitted.jobs] == [len(series) - 3, len(series)]

    def test_that_no_rule_of_the_route_takes_is_deleted(self, start, series) -> None:
        match = SeriesMatch(description=("*thorax*",))
        running = start({"thorax": Route(**{**ROUTE, "match": match})})
        caller = call(running.port)
        send(caller, series)
        caller.release()
        eventually(lambda: running.collector.counts["groups not matched"] == 1)
        assert (running.left(), running.submitted.jobs) == ([], [])

    def test_waits_for_as_long_as_the_queue_takes_nothing(self, start, series, monkeypatch) -> None:
        monkeypatch.setattr("voxmetry.service.dicom.collector.AGAIN_SECONDS", 0.3)
        full = InputError(found="the queue is full", expected="room", fix="wait")
        running = start(submitted=Submitted(refuse=full))
        caller = call(running.port)
        send(caller, series)
        caller.release()
        eventually(lambda: running.collector.counts["groups kept waiting"] >= 2)
        running.submitted.refuse = None
        eventually(lambda: running.over(1))
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)

    def test_two_series_of_a_study_are_one_job_where_the_route_groups_by_study(self, start, series, tmp_path) -> None:
        others = []
        for path in series[:4]:
            dataset = pydicom.dcmread(path)
            dataset.SeriesInstanceUID = "1.2.3.4.6"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.9.{dataset.InstanceNumber}"
            others.append(tmp_path / path.name)
            dataset.save_as(others[-1])
        running = start({"pair": Route(**{**ROUTE, "group": "study", "match": SeriesMatch(min_instances=5)})})
        caller = call(running.port)
        send(caller, [*others, *series])
        caller.release()
        eventually(lambda: running.over(1))
        # The short series fits no rule, and goes; its study stays.
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)


class TestWhoMayCall:
    @pytest.mark.parametrize(
        ("title", "called", "diagnostic"),
        [("CT1", "NOBODY", 7), ("EVE", "VOX", 3), ("ct1", "VOX", 3), ("CT1", "vox", 7)],
    )
    def test_other_titles_are_rejected_with_the_reason(self, start, title, called, diagnostic) -> None:
        running = start()
        caller = call(running.port, title=title, called=called)
        assert caller.is_rejected
        assert caller.acceptor.primitive.diagnostic == diagnostic

    def test_a_known_title_from_another_address_is_cut_off(self, start) -> None:
        running = start(peers={"ct": DicomPeer(kind="dicom", ae_title="CT1", addresses=("10.9.9.9",))})
        caller = call(running.port)
        assert not caller.is_established
        assert running.receiver.counts["connections refused: address"] == 1

    def test_a_peer_of_another_route_may_not_call_this_one(self, start) -> None:
        peers = {
            "ct": DicomPeer(kind="dicom", ae_title="CT1", addresses=("127.0.0.1",)),
            "mr": DicomPeer(kind="dicom", ae_title="MR1", addresses=("127.0.0.1",)),
        }
        routes = {
            "a": Route(**{**ROUTE, "ae_title": "A", "senders": ("ct",)}),
            "b": Route(**{**ROUTE, "ae_title": "B", "senders": ("mr",)}),
        }
        running = start(routes, peers)
        assert call(running.port, title="CT1", called="B").is_rejected
        good = call(running.port, title="MR1", called="B")
        assert good.send_c_echo().Status == 0
        good.release()

    def test_an_echo_is_answered(self, start) -> None:
        running = start()
        caller = call(running.port)
        assert caller.send_c_echo().Status == 0
        caller.release()
        eventually(running.over)
        assert running.left() == []


class TestWhatIsRefused:
    def test_what_is_no_image_is_let_go_or_refused_as_the_settings_say(self, start, series, tmp_path) -> None:
        from pynetdicom.sop_class import SecondaryCaptureImageStorage

        page = pydicom.dcmread(series[0])
        page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        page.save_as(tmp_path / "page.dcm")
        running = start(other_objects="refuse")
        caller = call(running.port, contexts=[SecondaryCaptureImageStorage])
        assert not caller.accepted_contexts
        running = start()
        caller = call(running.port, contexts=[SecondaryCaptureImageStorage, MRImageStorage])
        assert send(caller, [tmp_path / "page.dcm", *series]) == [0] * (1 + len(series))
        caller.release()
        eventually(lambda: running.over(1))
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)
        assert running.receiver.counts["objects let go: no images"] == 1

    def test_an_object_whose_name_is_not_that_of_the_request(self, start, series) -> None:
        running = start()
        caller = call(running.port)
        assert self._raw(caller, pydicom.dcmread(series[0]), sop_instance="1.2.3.99").Status == bounded_status("A900")
        assert send(caller, series[1:2]) == [0]
        caller.release()

    @pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
    def test_bytes_that_are_no_object(self, start, series) -> None:
        running = start()
        caller = call(running.port)
        dataset = pydicom.dcmread(series[0])
        status = self._raw(caller, dataset, body=b"\x08\x00\x16\x00\xff\xff\xff\x7f" + b"\xff" * 3000).Status
        assert status == bounded_status("C000")
        # UIDs of another series: a path is nothing but text to us.
        dataset.SeriesInstanceUID = "../../etc/cron.d/x"
        assert self._raw(caller, dataset).Status in (0, bounded_status("C000"))
        assert send(caller, series[1:2]) == [0]
        caller.release()
        eventually(running.over)
        assert not list(running.root.parent.rglob("cron.d"))

    def test_an_object_that_is_too_large_costs_no_disk_and_ends_nothing(self, start, series, tmp_path) -> None:
        running = start(instance_mb=0.5)
        large = pydicom.dcmread(series[0])
        large.add_new((0x0009, 0x0010), "LO", "TEST")
        large.add_new((0x0009, 0x1001), "OB", b"\0" * 2_000_000)
        large.save_as(tmp_path / "large.dcm")
        caller = call(running.port)
        most = Watched(running.collector.folder)
        assert send(caller, [tmp_path / "large.dcm"]) == [bounded_status("A700")]
        assert most.stop() < 1_000_000
        assert send(caller, series[:1]) == [0]
        caller.release()

    def test_more_than_one_series_may_have_is_refused_and_not_run(self, start, series) -> None:
        route = Route(**{**ROUTE, "abandoned_seconds": 0.3})
        running = start({"hippocampus": route}, group_instances=5)
        caller = call(running.port)
        assert send(caller, series[:7]) == [0] * 5 + [bounded_status("A700")] * 2
        caller.release()
        eventually(lambda: running.collector.counts["groups aborted"] == 1)
        assert (running.submitted.jobs, running.left()) == ([], [])

    def test_a_full_disk_is_told_and_nothing_stays(self, start, series, monkeypatch) -> None:
        running = start()
        caller = call(running.port)
        assert send(caller, series[:1]) == [0]
        full = shutil.disk_usage(running.root)._replace(free=1000)
        with monkeypatch.context() as change:
            change.setattr(bounded.shutil, "disk_usage", lambda _path: full)
            assert send(caller, series[1:3]) == [bounded_status("A700")] * 2
        with monkeypatch.context() as change:
            change.setattr(bounded.os, "fsync", _no_space)
            assert send(caller, series[3:4]) == [bounded_status("A700")]
        assert not list(running.collector.folder.glob("*.part"))
        # There is room again.
        assert send(caller, series[1:]) == [0] * (len(series) - 1)
        caller.release()
        eventually(lambda: running.over(1))
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)

    @staticmethod
    def _raw(caller: Any, dataset: Any, *, sop_instance: str | None = None, body: bytes | None = None) -> Any:
        """Send a request whose data set is not that of the request."""
        from io import BytesIO

        from pynetdicom.dimse_primitives import C_STORE
        from pynetdicom.dsutils import encode

        request = C_STORE()
        request.MessageID = 7
        request.AffectedSOPClassUID = dataset.SOPClassUID
        request.AffectedSOPInstanceUID = sop_instance or dataset.SOPInstanceUID
        request.Priority = 2
        context = next(c for c in caller.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID)
        implicit = context.transfer_syntax[0].is_implicit_VR
        request.DataSet = BytesIO(body if body is not None else encode(dataset, implicit, True))
        # As pynetdicom does it: its own thread would take the answer.
        caller._reactor_checkpoint.clear()
        while not caller._is_paused:
            time.sleep(0.01)
        caller.dimse.send_msg(request, context.context_id)
        answer = caller.dimse.get_msg(block=True)[1]
        caller._reactor_checkpoint.set()
        return answer


def bounded_status(text: str) -> int:
    return int(text, 16)


def _no_space(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


class Watched:
    """The most bytes that a folder held."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._most, self._going = folder, 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while self._going:
            sizes = []
            for path in self._folder.rglob("*"):
                try:
                    sizes.append(path.stat().st_size)
                except OSError:
                    continue
            self._most = max(self._most, sum(sizes))
            time.sleep(0.005)

    def stop(self) -> int:
        self._going = False
        self._thread.join()
        return self._most


class TestAbortedTransfers:
    def test_leave_nothing_once_the_rest_has_not_come(self, start, series) -> None:
        running = start({"hippocampus": Route(**{**ROUTE, "abandoned_seconds": 0.6})})
        caller = call(running.port)
        send(caller, series[:4])
        caller.abort()
        eventually(lambda: running.collector.counts["groups aborted"] == 1)
        assert (running.submitted.jobs, running.left()) == ([], [])

    def test_are_run_where_the_route_says_so(self, start, series) -> None:
        running = start({"all": Route(**{**ROUTE, "abandoned_seconds": 0.6, "after_abort": "run"})})
        caller = call(running.port)
        send(caller, series)
        caller.abort()
        eventually(lambda: running.over(1))

    def test_go_on_by_another_association(self, start, series) -> None:
        running = start()
        caller = call(running.port)
        send(caller, series[:4])
        caller.abort()
        eventually(running.over)
        caller = call(running.port)
        send(caller, series[4:])
        caller.release()
        eventually(lambda: running.over(1))
        assert len(names(running.submitted.jobs[0]["folder"])) == len(series)

    @pytest.mark.parametrize("how", ["close", "silence"])
    def test_in_the_middle_of_an_object_leave_no_part_of_it(self, start, series, how) -> None:
        running = start({"hippocampus": Route(**{**ROUTE, "abandoned_seconds": 0.3})})
        caller = call(running.port)
        send(caller, series[:1])
        _begin_object(caller, pydicom.dcmread(series[1]))
        eventually(lambda: list(running.collector.folder.glob("*.part")))
        running.patience(1.0)
        if how == "close":
            caller.dul.socket.socket.close()
            caller.kill()
        eventually(running.over)
        eventually(lambda: running.left() == [])
        assert not running.submitted.jobs

    def test_after_a_kill_what_was_released_goes_on_and_what_was_cut_short_does_not(
        self, start, series, tmp_path
    ) -> None:
        route = Route(**{**ROUTE, "on_release": False, "abandoned_seconds": 3600})
        first = start({"hippocampus": route})
        whole, cut = call(first.port), call(first.port)
        send(whole, series)
        whole.release()
        other = tmp_path / "other.dcm"
        dataset = pydicom.dcmread(series[0])
        dataset.SeriesInstanceUID = "1.2.3.4.7"
        dataset.save_as(other)
        send(cut, [other])
        eventually(lambda: first.receiver.n_open == 1)
        copy = tmp_path / "killed"
        shutil.copytree(first.root, copy)
        cut.release()
        soon = Route(**{**ROUTE, "on_release": False, "quiet_seconds": 0.4, "abandoned_seconds": 1.5})
        again = start({"hippocampus": soon}, root=copy)
        eventually(lambda: again.over(1))
        assert len(names(again.submitted.jobs[0]["folder"])) == len(series)
        eventually(lambda: again.collector.counts["groups aborted"] == 1)
        assert len(again.submitted.jobs) == 1

    def test_after_a_kill_between_moving_and_submitting_the_job_is_submitted(self, start, series, tmp_path) -> None:
        lost = OutputError(found="killed here", expected="", fix="")
        first = start(submitted=Submitted(refuse=lost))
        caller = call(first.port)
        send(caller, series)
        caller.release()
        eventually(lambda: first.collector.counts["groups kept waiting"])
        copy = tmp_path / "killed"
        shutil.copytree(first.root, copy)
        again = start(root=copy)
        eventually(lambda: again.over(1))
        assert len(names(again.submitted.jobs[0]["folder"])) == len(series)


def _begin_object(caller: Any, dataset: Any) -> None:
    """Send a request and the first bytes of its object, and nothing more."""
    from io import BytesIO

    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    request = C_STORE()
    request.MessageID, request.Priority = 9, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    context = next(c for c in caller.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID)
    request.DataSet = BytesIO(encode(dataset, context.transfer_syntax[0].is_implicit_VR, True))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    for number, part in enumerate(message.encode_msg(context.context_id, 512)):
        if number == 2:
            return
        caller.dul.send_pdu(part)


def connect(port: int, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(data)
    return connection


def request_bytes() -> bytes:
    """An A-ASSOCIATE-RQ as pynetdicom makes it."""
    from pynetdicom import build_context
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import (
        A_ASSOCIATE,
        ImplementationClassUIDNotification,
        MaximumLengthNotification,
    )

    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "CT1", "VOX"
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16382
    implementation.implementation_class_uid = "1.2.3"
    primitive.user_information = [length, implementation]
    context = build_context("1.2.840.10008.1.1")
    context.context_id = 1
    image = build_context("1.2.840.10008.5.1.4.1.1.4")
    image.context_id = 3
    primitive.presentation_context_definition_list = [context, image]
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def packet(context: int, control: int, data: bytes) -> bytes:
    value = struct.pack(">IBB", len(data) + 2, context, control) + data
    return struct.pack(">BBI", 4, 0, len(value)) + value


class TestMalformed:
    """Raw bytes. After each of them a good caller is served, and nothing of the bad one is left."""

    @pytest.fixture
    def running(self, start, series):
        running = start({"hippocampus": Route(**{**ROUTE, "abandoned_seconds": 0.3})}, idle_seconds=1.0)
        yield running
        running.patience(60.0)
        caller = call(running.port)
        assert send(caller, series) == [0] * len(series)
        caller.release()
        eventually(lambda: running.over(1))
        assert not list(running.collector.folder.glob("*.part"))
        eventually(lambda: not any(running.receiver.connections.values()))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x00" * 64,
            b"\xff" * 64,
            b"\x01\x00\xff\xff\xff\xff" + b"A" * 4096,
            b"\x04\x00\xff\xff\xff\xf0",
            b"\x01\x00\x00\x00\x00\x04abcd",
            b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00",
            b"\x01",
        ],
    )
    def test_what_is_no_request(self, running, data) -> None:
        connection = connect(running.port, data)
        connection.settimeout(60)
        while connection.recv(4096):
            pass
        connection.close()

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data[:-20],
            lambda data: data[:60] + b"\xff" * 40 + data[100:],
            lambda data: data[:74] + struct.pack(">BBH", 0x10, 0, 60000) + data[78:],
            lambda data: data.replace(b"1.2.840.10008.1.1", b"\xff\xfe\x00\x01\x02" * 3 + b"ab"),
            lambda data: data[:10] + b"VOX\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + data[26:],
        ],
    )
    def test_a_request_that_is_damaged(self, running, spoil) -> None:
        data = spoil(request_bytes())
        connection = connect(running.port, data)
        connection.settimeout(60)
        while True:
            part = connection.recv(4096)
            if not part or part[:1] in (b"\x02", b"\x03", b"\x07"):
                break
        connection.close()

    @pytest.mark.parametrize(
        "data",
        [
            packet(3, 2, b"no command"),
            packet(99, 3, b"\x00\x00\x00\x00\x04\x00\x00\x00\x10\x00\x00\x00"),
            packet(1, 3, b"\xff" * 500),
            struct.pack(">BBI", 4, 0, 6) + struct.pack(">IBB", 4_000_000_000, 1, 3),
            struct.pack(">BBI", 4, 0, 4_000_000_000),
            struct.pack(">BBI", 4, 0, 0),
            packet(1, 1, b"\x00" * 60_000) * 40,
            b"\x09\x00\x00\x00\x00\x00",
        ],
    )
    def test_what_follows_a_good_request(self, running, data) -> None:
        connection = connect(running.port, request_bytes())
        connection.settimeout(60)
        assert connection.recv(4096)[:1] == b"\x02"
        try:
            connection.sendall(data)
            while connection.recv(4096):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        connection.close()

    def test_a_caller_that_drips(self, running) -> None:
        connection = connect(running.port)
        began = time.monotonic()
        data = request_bytes()
        closed = False
        for byte in data:
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                closed = True
                break
            time.sleep(0.1)
            if time.monotonic() - began > 60:
                break
        assert closed
        connection.close()

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_requests_that_wait_for_no_answer(self, running, series) -> None:
        running.patience(60.0)
        caller = call(running.port)
        dataset = pydicom.dcmread(series[0])
        from io import BytesIO

        from pynetdicom.dimse_primitives import C_STORE
        from pynetdicom.dsutils import encode

        context = next(c for c in caller.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID)
        body = encode(dataset, context.transfer_syntax[0].is_implicit_VR, True)
        for number in range(200):
            request = C_STORE()
            request.MessageID, request.Priority = number + 1, 2
            request.AffectedSOPClassUID = dataset.SOPClassUID
            request.AffectedSOPInstanceUID = f"1.2.3.{number}"
            request.DataSet = BytesIO(body)
            if not caller.is_established:
                break
            caller.dimse.send_msg(request, context.context_id)
        assert len(list(running.collector.folder.glob("*.part"))) <= 8
        caller.abort()


class TestManyAtOnce:
    def test_one_address_holds_half_of_the_associations_at_most(self, start, series) -> None:
        running = start(associations=6)
        open_ones = [connect(running.port) for _ in range(3)]
        eventually(lambda: sum(running.receiver.connections.values()) == 3)
        refused = connect(running.port)
        refused.settimeout(60)
        assert refused.recv(10) == b""
        for connection in [*open_ones, refused]:
            connection.close()
        eventually(lambda: not any(running.receiver.connections.values()))
        caller = call(running.port)
        assert send(caller, series[:1]) == [0]
        caller.release()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of localhost that it signed."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl(*signed, "-in", f"{name}.csr", "-out", f"{name}.pem", "-extfile", "names")
    return folder


class TestTls:
    def test_only_callers_with_a_certificate_are_served_and_one_that_is_silent_stops_nobody(
        self, start, series, certificates
    ) -> None:
        tls = Tls(**{key: str(certificates / f) for key, f in
                     (("certificate", "server.pem"), ("key", "server.key"), ("authority", "ca.pem"))})  # fmt: skip
        running = start(tls=tls)
        silent = connect(running.port)
        mine = client_context(
            str(certificates / "client.pem"), str(certificates / "client.key"), str(certificates / "ca.pem")
        )
        caller = call(running.port, tls=(mine, "127.0.0.1"))
        assert send(caller, series) == [0] * len(series)
        caller.release()
        assert not call(running.port).is_established
        nameless = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        assert not call(running.port, tls=(nameless, "127.0.0.1")).is_established
        eventually(lambda: running.over(1))
        silent.close()


def test_a_caller_whom_nobody_answers_closes_its_connection() -> None:
    # What it leaves to the garbage collector is a warning, and those are errors here.
    assert not call(free_port()).is_established


def test_what_was_begun_ends_where_the_port_is_taken(tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dicom = {"host": "127.0.0.1", "port": taken.getsockname()[1], "free_mb": 1}
        peers = {"ct": {"kind": "dicom", "ae_title": "CT1", "addresses": ("127.0.0.1",)}}
        settings = ServiceSettings(
            data=str(tmp_path), models=("hippocampus-mr",), peers=peers, routes={"hippocampus": ROUTE}, dicom=dicom
        )
        gateway = Gateway(settings, SimpleNamespace(root=tmp_path))
        with pytest.raises(OutputError, match="cannot be listened at"):
            gateway.start()
    assert not gateway.collector._thread.is_alive()


def test_an_object_goes_to_disk_and_not_to_memory(start, series, tmp_path) -> None:
    running = start()
    large = pydicom.dcmread(series[0])
    large.add_new((0x0009, 0x0010), "LO", "TEST")
    large.add_new((0x0009, 0x1001), "OB", b"\0" * 8_000_000)
    large.save_as(tmp_path / "large.dcm")
    kept = []
    old = bounded.IncomingObject.finish

    def look(incoming: bounded.IncomingObject) -> Path | None:
        kept.append((len(incoming.getvalue()), incoming.n_bytes))
        return old(incoming)

    bounded.IncomingObject.finish = look  # type: ignore[method-assign]
    try:
        caller = call(running.port)
        assert send(caller, [tmp_path / "large.dcm"]) == [0]
        caller.release()
    finally:
        bounded.IncomingObject.finish = old  # type: ignore[method-assign]
    assert kept[0][0] == 0
    assert kept[0][1] > 8_000_000


def test_nothing_of_a_patient_is_logged(start, series, tmp_path, caplog) -> None:
    caplog.set_level("DEBUG")
    named = pydicom.dcmread(series[0])
    named.PatientName, named.PatientID, named.SeriesDescription = "Planted^Name", "PLANTED-7", "Planted words"
    named.save_as(tmp_path / "named.dcm")
    running = start()
    caller = call(running.port, called="PLANTED")
    caller = call(running.port)
    send(caller, [tmp_path / "named.dcm", *series[1:]])
    caller.abort()
    eventually(running.over)
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("voxmetry"))
    assert ours
    for secret in ("planted", str(named.StudyInstanceUID), str(named.SOPInstanceUID)):
        assert secret not in ours.lower()
