"""The service in a process, and clients of it: a plain one, and one that sends what 3D Slicer's module sends."""

from __future__ import annotations

import contextlib
import http.client
import json
import mimetypes
import os
import signal
import subprocess
import sys
import threading
import time
from email.parser import BytesParser
from email.policy import HTTP
from pathlib import Path
from urllib.parse import quote_plus

from voxmetry.errors import VoxmetryError

SHAPE = (17, 25, 9)
LIMIT = "----------lImIt_of_THE_fIle_eW_$"


def until(true, seconds=300):
    """Wait until something holds; a machine may stand still for seconds in between."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def call(host, method, path, body=None, headers=None, timeout=120):
    """Return status, headers and body of one request."""
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def call_json(host, method, path, content=None, **more):
    """Return status and JSON of one request."""
    headers = {"content-type": "application/json"} if content is not None else {}
    body = json.dumps(content) if content is not None else None
    status, _, text = call(host, method, path, body, headers | more.pop("headers", {}), **more)
    return status, json.loads(text) if text else None


def form(fields=(), files=(), limit=LIMIT):
    """Return content type and body of a form as Slicer's module writes it.

    The file's name is its full path on the client's machine; an empty line follows the last boundary.
    """
    lines: list[bytes] = []
    for name, value in dict(fields).items():
        lines += [f"--{limit}".encode(), f'Content-Disposition: form-data; name="{name}"'.encode(), b"", value.encode()]
    for name, path, content in files:
        kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
        head = f'Content-Disposition: form-data; name="{name}"; filename="{path}"'
        lines += [f"--{limit}".encode(), head.encode(), f"Content-Type: {kind}".encode(), b"", content]
    lines += [f"--{limit}--".encode(), b""]
    return f"multipart/form-data; boundary={limit}", b"".join(line + b"\r\n" for line in lines)


def send_form(host, method, path, fields=(), files=(), headers=None):
    """Send a form as Slicer does, with lower-case names of headers."""
    kind, body = form(fields, files)
    return call(host, method, path, body, {"content-type": kind, "content-length": str(len(body))} | (headers or {}))


def parts_of(headers, body):
    """Return the parts of a multipart answer by their names: (file name, content type, content)."""
    # Slicer reads the stream itself, as long as this header says.
    assert headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in headers
    message = BytesParser(policy=HTTP).parsebytes(
        b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
    )
    found = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        found[name] = (part.get_filename(), part.get_content_type(), part.get_payload(decode=True))
    return found


class Slicer:
    """The calls of 3D Slicer's MONAILabel module."""

    def __init__(self, host: str, folder: Path) -> None:
        self.host, self.folder = host, folder

    def info(self):
        assert call(self.host, "GET", "/auth/")[0] == 404
        status, found = call_json(self.host, "GET", "/info/")
        assert status == 200
        return found

    def upload(self, name: str, path: Path):
        where = f"/datastore/?image={quote_plus(name)}"
        params = json.dumps({"client_id": "user-1"})
        status, _, body = send_form(self.host, "PUT", where, {"params": params}, [("file", path, path.read_bytes())])
        assert status == 200, body
        return json.loads(body)

    def begin_session(self, path: Path):
        # Here the module uses the library requests: the name alone, and fields as they are.
        where, files = "/session/", [("files", path.name, path.read_bytes())]
        status, _, body = send_form(self.host, "PUT", where, {"client_id": "user-1"}, files)
        assert status == 200, body
        return json.loads(body)["session_id"]

    def infer(self, model: str, image: str, session: str | None = None, **params):
        where = f"/infer/{quote_plus(model)}?image={quote_plus(image)}"
        where += f"&session_id={quote_plus(session)}" if session else ""
        sent = {"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "user-1"} | params
        status, headers, body = send_form(self.host, "POST", where, {"params": json.dumps(sent)})
        assert status == 200, body
        parts = parts_of(headers, body)
        file_name, _, content = parts["image"]
        assert parts["params"][0] is None
        path = self.folder / file_name
        path.write_bytes(content)
        return path, json.loads(parts["params"][2])

    def save_label(self, image: str, path: Path, info, tag: str = ""):
        where = f"/datastore/label?image={quote_plus(image)}" + (f"&tag={tag}" if tag else "")
        params = json.dumps({"label_info": info, "client_id": "user-1"})
        status, _, body = send_form(self.host, "PUT", where, {"params": params}, [("label", path, path.read_bytes())])
        assert status == 200, body
        return json.loads(body)

    def next_sample(self, strategy: str):
        status, found = call_json(self.host, "POST", f"/activelearning/{strategy}", {"client_id": "user-1"})
        assert status == 200
        return found

    def training_runs(self) -> bool:
        return call(self.host, "GET", "/train/?check_if_running=true")[0] == 200


class ServerProcess:
    """`voxmetry serve` in a process of its own, from a file of settings whose port is 0."""

    def __init__(self, settings: Path, **environment: str) -> None:
        command = [sys.executable, "-m", "voxmetry", "serve", "--settings", str(settings)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
        line = ""
        while "http://" not in line:
            line = self.process.stderr.readline()
            assert line, "the service did not start"
        self.host = line.split("http://")[1].split()[0]

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send the process a signal, and wait for its end."""
        self.process.send_signal(how)
        self.process.wait()
        self.process.stderr.close()

    def workers(self) -> list[int]:
        """Ids of its worker processes."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rsplit(")", 1)[1].split()
                if int(fields[1]) == self.process.pid:
                    found.append(int(entry.parent.name))
        return found


def start(settings, **more):
    """Serve in a thread; returns the address, and what ends it."""
    from voxmetry.service.run import serve

    up, known, failed = threading.Event(), {}, []

    def ready(address):
        known["address"] = address
        up.set()

    def run():
        try:
            serve(settings, ready=ready, stop=lambda server: known.update(server=server), **more)
        except VoxmetryError as error:
            failed.append(error)
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(300)
    if failed:
        raise failed[0]

    def end():
        known["server"].should_exit = True
        thread.join(300)
        assert not thread.is_alive()

    return known["address"], end
