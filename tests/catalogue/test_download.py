"""Fetching: resumed, guarded, checked. A server on loopback that can break off, refuse ranges and change its files."""

from __future__ import annotations

import errno
import http.server
import threading
import zipfile

import pytest

from voxmetry.errors import DownloadError, FormatError, OutputError
from voxmetry.workflows.model_store import download
from voxmetry.workflows.model_store.download import checksum, fetch
from voxmetry.workflows.model_store.unpack import unpack

CONTENT = bytes(range(256)) * 5000


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends `server.content`; `server.behave` says how."""

    def do_GET(self):
        server = self.server
        server.asked.append(dict(self.headers))
        how = server.behave.pop(0) if server.behave else "well"
        if how.isdigit():
            self.send_error(int(how))
            return
        if how == "moved":
            self.send_response(302)
            self.send_header("Location", server.leads_to)
            self.end_headers()
            return
        start, content = 0, server.content
        wanted = self.headers.get("Range")
        same = self.headers.get("If-Range") == server.tag
        if wanted and same and how != "no ranges":
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = content[start:]
        self.wfile.write(sent[: len(sent) // 2] if how == "break" else sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.tag, made.behave, made.asked, made.leads_to = CONTENT, '"v1"', [], [], ""
    made.url = f"http://127.0.0.1:{made.server_port}/weights.zip"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def get(server, target, **change):
    told = []
    fetch(server.url, target, tell=told.append, pause_s=0.0, **change)
    return told


def test_a_file_arrives_whole_and_leaves_nothing_beside(server, tmp_path):
    told = get(server, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["weights.zip"]
    assert any("1 of 1 MB" in line for line in told)


def test_a_transfer_that_breaks_off_is_continued_where_it_was(server, tmp_path):
    server.behave = ["break", "break"]
    told = get(server, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert any("640000 of 1280000 bytes arrived; once more from 1 MB" in line for line in told)
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=640000-", "bytes=960000-"]


def test_the_next_call_continues_what_the_last_one_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    server.behave = ["break"]
    with pytest.raises(DownloadError, match="cannot be fetched"):
        get(server, tmp_path / "weights.zip")
    assert not (tmp_path / "weights.zip").exists()
    get(server, tmp_path / "weights.zip")
    assert server.asked[1]["Range"] == "bytes=640000-"
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["changed", "no ranges", "no tag"])
def test_what_cannot_be_continued_begins_anew(server, tmp_path, monkeypatch, how):
    monkeypatch.setattr(download, "TRIES", 1)
    server.behave = ["break", *(["no ranges"] if how == "no ranges" else [])]
    if how == "no tag":
        server.tag = ""
    with pytest.raises(DownloadError):
        get(server, tmp_path / "weights.zip")
    if how == "changed":
        server.content, server.tag = CONTENT[::-1], '"v2"'
    get(server, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == server.content


def test_a_whole_part_of_a_killed_run_is_taken(server, tmp_path):
    (tmp_path / "weights.zip.part").write_bytes(CONTENT)
    (tmp_path / "weights.zip.part.json").write_text(f'{{"url": "{server.url}", "validator": "\\"v1\\""}}')
    get(server, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT


def test_a_part_of_another_address_is_not_continued(server, tmp_path):
    (tmp_path / "weights.zip.part").write_bytes(b"x" * 100)
    (tmp_path / "weights.zip.part.json").write_text('{"url": "http://elsewhere/weights.zip", "validator": "\\"v1\\""}')
    get(server, tmp_path / "weights.zip")
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT


@pytest.mark.parametrize(("how", "tries"), [("404", 1), ("403", 1), ("503", 5)])
def test_a_refusal_is_told_and_only_a_servers_own_fault_is_tried_again(server, tmp_path, how, tries):
    server.behave = [how] * 10
    with pytest.raises(DownloadError, match=how):
        get(server, tmp_path / "weights.zip")
    assert len(server.asked) == tries
    assert not list(tmp_path.glob("weights.zip"))


def test_a_server_that_is_not_there_is_told(tmp_path):
    told = []
    with pytest.raises(DownloadError, match="--from"):
        fetch("http://127.0.0.1:9/weights.zip", tmp_path / "weights.zip", tell=told.append, pause_s=0.0)
    assert told
    assert all("refused; once more" in line and "MB" not in line for line in told)


def test_a_file_that_is_too_large_is_refused(server, tmp_path):
    with pytest.raises(DownloadError, match="larger than"):
        get(server, tmp_path / "weights.zip", largest=1000)
    assert not (tmp_path / "weights.zip").exists()


def test_a_disk_that_fills_up_is_told_and_the_part_stays(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    monkeypatch.setattr(download, "write_text", lambda *_: None)
    with pytest.raises(OutputError, match="the disk is full"):
        get(server, tmp_path / "weights.zip")
    assert not (tmp_path / "weights.zip").exists()


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fetch("http://models.invalid/weights.zip", tmp_path / "weights.zip", tell=str, pause_s=0.0)
    assert (tmp_path / "weights.zip").read_bytes() == CONTENT
    assert server.asked[0]["Host"] == "models.invalid"


def test_a_checksum_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a", piece=2) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert checksum(tmp_path / "a", "sha1") == "a9993e364706816aba3e25717850c26c9cd0d89d"


def bad_zip(path, how):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("model/plans.json")
        info.compress_type = zipfile.ZIP_STORED if how == "flipped" else zipfile.ZIP_DEFLATED
        if how == "up":
            info.filename = "../../evil.json"
        elif how == "absolute":
            info.filename = "/tmp/evil.json"
        elif how == "backslash":
            info.filename = "..\\evil.json"
        elif how == "drive":
            info.filename = "C:evil.json"
        elif how == "link":
            info.external_attr = 0o120777 << 16
        archive.writestr(info, b"0" * (30_000_000 if how == "bomb" else 10))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    if how == "flipped":
        data = bytearray(path.read_bytes())
        data[30 + len("model/plans.json") + 3] ^= 255
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["up", "absolute", "backslash", "drive", "link", "bomb", "cut", "flipped"])
def test_an_archive_that_could_do_harm_or_is_damaged_is_not_unpacked(tmp_path, how):
    bad_zip(tmp_path / "a.zip", how)
    (tmp_path / "inside" / "target").mkdir(parents=True)
    with pytest.raises(FormatError):
        unpack(tmp_path / "a.zip", tmp_path / "inside" / "target")
    assert not list(tmp_path.rglob("evil*"))
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_an_archive_that_the_disk_cannot_hold_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    bad_zip(tmp_path / "a.zip", "well")
    (tmp_path / "target").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3})())
    with pytest.raises(OutputError, match="are free"):
        unpack(tmp_path / "a.zip", tmp_path / "target")
    assert not list((tmp_path / "target").iterdir())
