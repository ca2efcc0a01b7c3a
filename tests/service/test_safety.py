"""What others may not do: without a token, with too much, too slowly, by a path, from another page."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import select
import socket
import stat
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import uvicorn

import phantoms
from service_clients import SHAPE, call, call_json, form, send_form, start, until
from voxmetry import save
from voxmetry.cli import run
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import ConfigError, FormatError, OutputError
from voxmetry.service import infer, multipart
from voxmetry.service import run as serving
from voxmetry.service.datastore_index import read_index
from voxmetry.service.errors import NotFoundError, QueueFullError
from voxmetry.service.guard import Audit
from voxmetry.service.jobs import JobQueue
from voxmetry.service.run import require_safe
from voxmetry.service.service import Service
from voxmetry.service.tokens import Tokens, add_token


@pytest.fixture(scope="module")
def closed(tmp_path_factory, tiny_model):
    """A service that asks for a token, and two tokens of it."""
    folder = tmp_path_factory.mktemp("closed")
    tokens = {name: add_token(folder / "tokens.yaml", name) for name in ("ward", "lab")}
    settings = ServiceSettings(
        data=str(folder / "data"),
        port=0,
        models=(str(tiny_model),),
        tokens=str(folder / "tokens.yaml"),
        cors=("https://viewer.example",),
        limits={"free_mb": 1},
    )
    address, end = start(settings)
    yield address.removeprefix("http://"), tokens, folder
    end()


class TestWhoMayCall:
    @pytest.mark.parametrize(
        "path", ["/v1/jobs", "/info/", "/metrics", "/datastore/?output=all", "/v1/openapi.json", "/v1/docs", "/nothing"]
    )
    @pytest.mark.parametrize(
        "given", [None, "Bearer wrong", "Bearer ", "Basic d2FyZDp4", "Bearer vxm_" + "A" * 43, "Bearer \xff"]
    )
    def test_without_a_known_token_nothing_is_told(self, closed, path, given):
        status, headers, body = call(closed[0], "GET", path, headers={"authorization": given} if given else {})
        assert status == 401
        assert headers["www-authenticate"] == "Bearer"
        assert json.loads(body)["error"]

    def test_with_one_of_them_it_is(self, closed):
        host, tokens, _ = closed
        for token in tokens.values():
            assert call(host, "GET", "/info/", headers={"Authorization": f"Bearer {token}"})[0] == 200

    def test_what_is_open_holds_nothing(self, closed):
        for path in ("/", "/health", "/page/page.js"):
            status, _, body = call(closed[0], "GET", path)
            assert status == 200
            assert b"tiny-mr" not in body

    def test_slicer_logs_in_with_the_token_as_its_password(self, closed):
        host, tokens, _ = closed
        status, found = call_json(host, "GET", "/auth/")
        assert (status, found["enabled"]) == (200, True)
        kind = {"content-type": "application/x-www-form-urlencoded"}
        good = f"username=me&password={tokens['ward']}&grant_type=password"
        status, _, body = call(host, "POST", "/auth/token", good, kind)
        answer = json.loads(body)
        assert (status, answer["token_type"]) == (200, "bearer")
        asked = {"Authorization": f"Bearer {answer['access_token']}"}
        assert call(host, "GET", "/auth/token/valid", headers=asked)[0] == 200
        assert call(host, "POST", "/auth/token", good + "x", kind)[0] in (200, 401)
        assert call(host, "POST", "/auth/token", "username=me&password=x", kind)[0] == 401

    def test_the_page_keeps_a_cookie_that_scripts_and_other_sites_have_not(self, closed):
        host, tokens, _ = closed
        assert call(host, "POST", "/page/login", "wrong")[0] == 401
        status, headers, _ = call(host, "POST", "/page/login", tokens["ward"])
        assert status == 200
        cookie = headers["set-cookie"]
        assert "httponly" in cookie.lower()
        assert "samesite=strict" in cookie.lower()
        assert tokens["ward"] not in cookie
        sent = {"cookie": cookie.split(";")[0]}
        assert call(host, "GET", "/v1/jobs", headers=sent)[0] == 200
        assert call(host, "POST", "/page/logout", headers=sent)[0] == 200
        assert call(host, "GET", "/v1/jobs", headers=sent)[0] == 401

    def test_only_hashes_are_kept_and_a_token_taken_out_is_refused_at_once(self, tmp_path):
        path = tmp_path / "tokens.yaml"
        first, second = add_token(path, "first"), add_token(path, "second")
        assert first not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        known = Tokens(path)
        assert (known.name_of(first), known.name_of(second), known.name_of("x")) == ("first", "second", None)
        path.write_text("tokens: []\n")
        assert known.name_of(first) is None
        path.write_text("not: tokens\n")
        assert known.name_of(second) is None
        with pytest.raises(ConfigError):
            add_token(path, "third")

    def test_a_file_that_others_may_write_is_refused(self, tmp_path):
        path = tmp_path / "tokens.yaml"
        add_token(path, "a")
        path.chmod(0o666)
        with pytest.raises(ConfigError, match="others may write"):
            Tokens(path)

    def test_a_token_is_made_at_the_shell(self, tmp_path, capsys):
        path = tmp_path / "tokens.yaml"
        assert run(["serve", "token", "ward", "--tokens", str(path)]) == 0
        token = capsys.readouterr().out.strip()
        assert Tokens(path).name_of(token) == "ward"
        assert run(["serve", "token", "ward", "--tokens", str(path)]) == 2

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
    def test_an_address_beyond_this_machine_wants_tokens_or_a_word(self, host, tmp_path):
        settings = ServiceSettings(host=host)
        with pytest.raises(ConfigError, match="no tokens"):
            require_safe(settings, no_auth=False)
        require_safe(settings, no_auth=True)
        require_safe(ServiceSettings(host=host, tokens="x"), no_auth=False)

    def test_the_audit_names_who_and_what_and_no_image(self, closed):
        host, tokens, folder = closed
        asked = {"Authorization": f"Bearer {tokens['lab']}"}
        call(host, "GET", "/datastore/image?image=DOE%5EJANE", headers=asked)
        call(host, "GET", "/v1/jobs/DOE%5EJANE", headers=asked)
        # A line is written once its answer is sent.
        mine, end = [], time.monotonic() + 300
        while len(mine) < 2 and time.monotonic() < end:
            text = (folder / "data" / "audit.log").read_text()
            mine = [
                line for line in map(json.loads, text.splitlines()) if line["who"] == "lab" and line["status"] > 200
            ]
        assert "DOE" not in text
        assert [(line["route"], line["status"]) for line in mine] == [
            ("/datastore/image", 404),
            ("/v1/jobs/{job}", 422),
        ]


class TestOtherPages:
    def test_another_name_of_this_machine_is_refused(self, live):
        assert call(live.host, "GET", "/v1/jobs", headers={"host": "evil.example:8000"})[0] == 403
        assert call(live.host, "GET", "/v1/jobs", headers={"host": "localhost:1"})[0] == 200

    def test_another_origin_may_not_send(self, live):
        for origin in ("https://evil.example", "null", f"http://127.0.0.1:{int(live.host.split(':')[1]) + 1}"):
            status, headers, _ = call(live.host, "POST", "/infer/tiny-mr?image=x", headers={"origin": origin})
            assert status == 403
            assert "access-control-allow-origin" not in headers
        own = f"http://{live.host}"
        assert call(live.host, "POST", "/infer/tiny-mr?image=x", headers={"origin": own})[0] == 404

    def test_an_origin_that_is_named_may(self, tmp_path, tiny_model):
        viewer = "https://viewer.example"
        settings = ServiceSettings(data=str(tmp_path / "d"), port=0, models=(str(tiny_model),), cors=(viewer,))
        address, end = start(settings)
        try:
            host = address.removeprefix("http://")
            status, headers, _ = call(host, "OPTIONS", "/infer/tiny-mr", headers={"origin": viewer})
            assert (status, headers["access-control-allow-origin"]) == (200, viewer)
            status, headers, _ = call(host, "GET", "/info/", headers={"origin": viewer})
            assert (status, headers["access-control-allow-origin"]) == (200, viewer)
            assert "access-control-allow-origin" not in call(host, "GET", "/info/", headers={"origin": "https://x"})[1]
        finally:
            end()

    def test_every_answer_says_what_a_browser_may_not(self, live):
        for path in ("/", "/info/", "/v1/docs", "/nothing", "/health"):
            _, headers, _ = call(live.host, "GET", path)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert "server" not in headers


PATHS = [
    "research/../../etc/passwd",
    "research/..",
    "research/out",
    "/etc/passwd",
    "../research/b.nii.gz",
    "research//etc/passwd",
    "research/b.nii.gz\0.png",
    "nowhere/b.nii.gz",
    "research/" + "a/" * 450,
    "research/~root",
    "file:///etc/passwd",
    "research\\..\\..\\etc",
]


class TestPaths:
    @pytest.mark.parametrize("path", PATHS)
    def test_nothing_outside_a_root_is_opened(self, live, path):
        if not (live.root / "out").exists():
            (live.root / "out").symlink_to("/etc")
        status, content = call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": path})
        assert status in (403, 404, 422)
        assert "/etc" not in content["found"]
        assert str(live.root) not in json.dumps(content)

    def test_what_is_inside_is(self, live):
        for path in ("research/b.nii.gz", "research/group/../b.nii.gz"):
            status, content = call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": path})
            assert status == 201
            assert str(live.root) not in json.dumps(content)

    @pytest.mark.parametrize("name", ["..%2Fservice.sqlite", "result.json%00", "%2Fetc%2Fpasswd", ".", "seg.nii.gz/.."])
    def test_only_files_of_a_result_are_given(self, live, name):
        _, job = call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": "research/b.nii.gz"})
        wait(live.host, job["id"])
        assert call(live.host, "GET", f"/v1/jobs/{job['id']}/files/{name}")[0] in (404, 422)
        assert call(live.host, "GET", f"/v1/jobs/{job['id']}/files/result.json")[0] == 200

    @pytest.mark.parametrize(
        "name", [r"C:\Users\x\..\..\a.nii.gz", "../../../../tmp/a.nii.gz", "/a/b/a.nii.gz", 'a".nii.gz']
    )
    def test_a_name_of_a_client_leads_nowhere(self, live, name, tmp_path):
        save(phantoms.volume(phantoms.geometry(shape=SHAPE)), tmp_path / "a.nii.gz")
        content = (tmp_path / "a.nii.gz").read_bytes()
        before = sorted(entry.name for entry in live.data.iterdir())
        status, _, body = send_form(live.host, "PUT", "/datastore/", (), [("file", name, content)])
        assert status == 200, body
        assert sorted(entry.name for entry in live.data.iterdir()) == before
        inside = {entry.name for entry in (live.data / "datastore").iterdir()}
        assert all("/" not in entry and ".." not in entry for entry in inside)

    def test_links_out_of_a_root_and_names_of_none(self, tmp_path):
        roots = {"a": tmp_path / "a"}
        roots["a"].mkdir()
        (tmp_path / "secret").write_text("x")
        (roots["a"] / "link").symlink_to(tmp_path / "secret")
        for name in ("a/link", "a/../secret"):
            with pytest.raises(infer.DeniedError):
                infer.path_below(roots, name)
        for name in ("a/none", "a/" + "n" * 300):
            with pytest.raises(NotFoundError):
                infer.path_below(roots, name)
        assert infer.path_below(roots, "a") == roots["a"].resolve()

    @pytest.mark.parametrize(
        "objects",
        [
            {"../../x": {"image": {"ext": ".nii.gz"}}},
            {"..": {"image": {"ext": ""}}},
            {"a": {"image": {"ext": "/../../x"}}},
            {"a": {"image": {"ext": ".nii"}, "labels": {"../..": {"ext": ".nii"}}}},
            {"a": {"image": {"ext": ".nii"}, "labels": {"final": {"ext": "/x"}}}},
        ],
    )
    def test_a_list_of_images_that_leads_out_of_its_folder_is_refused(self, tmp_path, objects):
        (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
        with pytest.raises(FormatError, match="cannot be read"):
            read_index(tmp_path)

    def test_one_as_it_is_written_elsewhere_is_read(self, tmp_path):
        objects = {"case 7 (late)": {"image": {"ext": ".nii.gz"}, "labels": {"final": {"ext": ".seg.nrrd"}}}}
        (tmp_path / "datastore_v2.json").write_text(json.dumps({"objects": objects}))
        assert list(read_index(tmp_path)) == ["case 7 (late)"]

    def test_an_audit_that_cannot_be_written_is_told(self, tmp_path):
        (tmp_path / "audit.log").mkdir()
        with pytest.raises(OutputError, match="a folder of that name"):
            Audit(tmp_path / "audit.log")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of POSIX")
    def test_what_would_be_waited_for_for_ever_is_no_image(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.nii.gz")
        with pytest.raises(NotFoundError):
            infer.path_below({"a": tmp_path}, "a/pipe.nii.gz")


def wait(host, job):
    for _ in range(3000):
        found = call_json(host, "GET", f"/v1/jobs/{job}")[1]
        if found["state"] in ("done", "failed", "set aside", "cancelled"):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


class TestSizes:
    def test_too_large_by_its_own_word_is_refused_before_it_is_sent(self, live):
        connection = http.client.HTTPConnection(live.host, timeout=120)
        connection.putrequest("PUT", "/datastore/?image=x")
        connection.putheader("content-type", "multipart/form-data; boundary=x")
        connection.putheader("content-length", str(10**12))
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert "too large" in json.loads(answer.read())["found"]
        connection.close()

    def test_too_large_in_pieces_is_cut_off_and_leaves_nothing(self, live):
        kind, body = form((), [("file", "a.nii.gz", b"\0" * 4_000_000)])
        status = send_pieces(live.host, "/datastore/?image=large", kind, body)
        assert status == 413
        assert not list((live.data / "uploads").glob(".part-*"))

    def test_too_many_files(self, live):
        files = [("files", f"{n}.dcm", b"x") for n in range(60)]
        status, _, body = send_form(live.host, "POST", "/v1/jobs/upload", {"model": "tiny-mr"}, files)
        assert status == 413
        assert b"50 files" in body

    def test_too_much_json(self, live):
        text = json.dumps({"model": "tiny-mr", "path": "x", "label": "a" * 2_000_000})
        assert call(live.host, "POST", "/v1/jobs", text, {"content-type": "application/json"})[0] == 413

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 20_000, "\xff\xfe", "NaN", "null", '"x"', "1e999"])
    def test_json_that_is_none_of_ours(self, live, text):
        status, _, body = call(live.host, "POST", "/v1/jobs", text, {"content-type": "application/json"})
        assert status in (400, 422), body
        assert json.loads(body)["found"]
        status, _, body = send_form(live.host, "POST", "/infer/tiny-mr?image=research/b", {"params": text})
        assert status in (200, 422)

    def test_an_archive_that_unpacks_to_more_than_it_may_fails_alone(self, live, tmp_path):
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", b"\0" * (200 << 20))
        files = [("files", "bomb.zip", (tmp_path / "bomb.zip").read_bytes())]
        status, _, body = send_form(live.host, "POST", "/v1/jobs/upload", {"model": "tiny-mr"}, files)
        assert status == 201, body
        assert wait(live.host, json.loads(body)["id"])["state"] == "failed"

    def test_a_full_disk_is_told_and_nothing_is_left(self, live, monkeypatch):
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(multipart.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 0))
        status, _, body = send_form(live.host, "PUT", "/datastore/?image=full", (), [("file", "a.nii.gz", b"x")])
        assert status == 507
        assert "free on the disk" in json.loads(body)["found"]
        assert not list((live.data / "uploads").glob(".part-*"))
        assert call(live.host, "GET", "/health")[0] == 503


def send_pieces(host, path, kind, body, piece=1 << 16):
    """Send a body whose length is not told."""
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        pieces = (body[at : at + piece] for at in range(0, len(body), piece))
        connection.request("PUT", path, pieces, {"content-type": kind}, encode_chunked=True)
        return connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        # The service has closed: what it said may still be there.
        return connection.getresponse().status
    finally:
        connection.close()


class TestSlowAndBroken:
    def test_a_body_that_stops_is_not_waited_for(self, live, monkeypatch):
        # Of this test alone: for another one a pause of the machine would be a body that stops.
        monkeypatch.setitem(live.limits.__dict__, "idle_seconds", 0.5)
        kind, body = form((), [("file", "a.nii.gz", b"x" * 1000)])
        with socket.create_connection(live.host.split(":"), timeout=120) as connection:
            head = f"PUT /datastore/?image=slow HTTP/1.1\r\nhost: {live.host}\r\ncontent-type: {kind}\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:300])
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408")
        assert not list((live.data / "uploads").glob(".part-*"))

    def test_headers_that_drip_are_not_waited_for_also_after_a_request(self, live, monkeypatch):
        ask = f"GET /health HTTP/1.1\r\nhost: {live.host}\r\n"
        with socket.create_connection(live.host.split(":"), timeout=120) as connection:
            connection.sendall(f"{ask}\r\n".encode())
            answer = b""
            while not answer.endswith(b"}"):  # the head and the JSON come in pieces of their own
                piece = connection.recv(1 << 16)
                assert piece
                answer += piece
            assert answer.startswith(b"HTTP/1.1 ")
            # From here on: what came before has the time that it takes.
            monkeypatch.setattr(serving, "HEADER_SECONDS", 0.3)
            connection.sendall(ask.encode())
            assert connection.recv(1 << 16) == b""
        with socket.create_connection(live.host.split(":"), timeout=120) as connection:
            left = None
            # On a slow machine its time may be over before the first byte.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(ask.encode())
                left = connection.recv(1 << 16)
            assert not left

    @pytest.mark.skipif(not hasattr(select, "poll"), reason="it looks at a connection as POSIX does")
    def test_an_answer_that_is_not_read_is_given_up(self, live, monkeypatch):
        kind, body = form((), [("file", "a.nii.gz", os.urandom(2_900_000))])
        assert call(live.host, "PUT", "/datastore/?image=unread", body, {"content-type": kind})[0] == 200
        monkeypatch.setitem(live.limits.__dict__, "idle_seconds", 0.5)
        ask = f"GET /datastore/image?image=unread HTTP/1.1\r\nhost: {live.host}\r\n\r\n".encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((live.host.split(":")[0], int(live.host.split(":")[1])))
            # More than the system holds between the two.
            connection.sendall(ask * 8)
            looked = select.poll()
            looked.register(connection, 0)
            assert looked.poll(300_000), "the service still waits"

    @pytest.mark.parametrize("path", ["/v1/jobs/upload", "/infer/tiny-mr"])
    def test_an_upload_of_which_no_job_is_made_leaves_nothing(self, live, monkeypatch, path):
        def refuse(*_, **__):
            raise QueueFullError(found="full", expected="room", fix="wait")

        monkeypatch.setattr(JobQueue, "submit", refuse)
        before = sorted((live.data / "uploads").iterdir())
        fields = {"model": "tiny-mr"} if "upload" in path else {}
        status, _, body = send_form(live.host, "POST", path, fields, [("file", "a.nii.gz", b"x" * 1000)])
        assert status == 429, body
        assert sorted((live.data / "uploads").iterdir()) == before

    def test_an_image_that_is_sent_along_stays_for_as_long_as_its_job(self, live, monkeypatch, tmp_path):
        save(phantoms.volume(phantoms.geometry(shape=SHAPE)), tmp_path / "a.nii.gz")
        seen = []

        async def late(service, job, _seconds):
            seen.append(service.queue.get(job))
            return seen[-1].model_copy(update={"state": "running"})

        monkeypatch.setattr(Service, "over", late)
        sent = [("file", "a.nii.gz", (tmp_path / "a.nii.gz").read_bytes())]
        assert send_form(live.host, "POST", "/infer/tiny-mr", (), sent)[0] == 504
        # The request is over, its job goes on.
        assert wait(live.host, seen[0].id)["state"] == "done"

    def test_a_port_that_is_taken_leaves_no_socket_open(self, monkeypatch, tmp_path):
        made = []

        class Kept(socket.socket):
            def __init__(self, *arguments, **more):
                super().__init__(*arguments, **more)
                made.append(self)

        with socket.create_server(("127.0.0.1", 0)) as taken:
            monkeypatch.setattr(socket, "socket", Kept)
            with pytest.raises(OutputError, match="cannot be listened on"):
                serving._listener(ServiceSettings(data=str(tmp_path), port=taken.getsockname()[1]))
        assert made[0].fileno() == -1

    def test_connections_that_are_left_at_the_end_are_closed(self, monkeypatch):
        async def in_vain(_server, sockets=None):
            pass

        monkeypatch.setattr(uvicorn.Server, "shutdown", in_vain)
        server, left = serving._server(uvicorn, uvicorn.Config(app=None), Mock()), Mock()
        server.server_state.connections.add(left)
        # In a thread of its own: a browser's tests may have left a loop in this one.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(server.shutdown())).result()
        left.transport.abort.assert_called_once()

    def test_a_client_that_goes_away_leaves_nothing(self, live):
        kind, body = form((), [("file", "a.nii.gz", b"x" * 100_000)])
        with socket.create_connection(live.host.split(":"), timeout=120) as connection:
            head = f"PUT /datastore/?image=gone HTTP/1.1\r\nhost: {live.host}\r\ncontent-type: {kind}\r\n"
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:50_000])
        until(lambda: not list((live.data / "uploads").glob(".part-*")))
        assert call(live.host, "GET", "/datastore/image/info?image=gone")[0] == 404

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nonsense",
            b"--x\r\n",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\nabc',
            b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
            b"--x\r\n" + b"a" * 5000 + b"\r\n\r\nabc\r\n--x--\r\n",
        ],
    )
    def test_a_form_that_is_none(self, live, body):
        status, _, text = call(
            live.host, "PUT", "/datastore/?image=x", body, {"content-type": "multipart/form-data; boundary=x"}
        )
        assert status == 422, text
        assert not list((live.data / "uploads").glob(".part-*"))

    def test_a_form_without_a_boundary(self, live):
        assert call(live.host, "PUT", "/datastore/?image=x", b"x", {"content-type": "multipart/form-data"})[0] == 422
