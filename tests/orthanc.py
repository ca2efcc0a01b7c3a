"""An Orthanc server of our own on loopback: Debian's packages orthanc and orthanc-dicomweb."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

PLUGINS = (Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), Path("/usr/lib/orthanc/libOrthancDicomWeb.so.1.7"))


def free_port() -> int:
    """Return a port that nobody listens at now, below those that the system gives to whoever asks for any."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.SystemRandom().randrange(20_000, 32_000)
            probe.bind(("127.0.0.1", port))
            return port


def why_not() -> str | None:
    """Say what is missing to start one; None where nothing is."""
    if shutil.which("Orthanc") is None:
        return "no Orthanc on this machine: apt-get install orthanc orthanc-dicomweb"
    if not any(path.exists() for path in PLUGINS):
        return "no DICOMweb plugin of Orthanc on this machine: apt-get install orthanc-dicomweb"
    return None


@dataclass
class Orthanc:
    """A running server."""

    http: int
    dicom: int
    folder: Path
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http}"

    def get(self, path: str, **query: Any) -> Any:
        response = self.session.get(f"{self.url}/{path}", params=query, timeout=120)
        response.raise_for_status()
        return response.json()

    def post(self, path: str, body: Any) -> Any:
        response = self.session.post(
            f"{self.url}/{path}", **({"data": body} if isinstance(body, bytes) else {"json": body}), timeout=120
        )
        response.raise_for_status()
        return response.json() if response.content else None

    def upload(self, *paths: Path) -> None:
        """Send files, several in one archive: what comes in parts may be called stable in parts."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for number, path in enumerate(paths):
                archive.write(path, f"{number:06}.dcm")
        self.post("instances", packed.getvalue())

    def knows(self, name: str, title: str, port: int) -> None:
        """Let it call a C-STORE service on loopback by a name."""
        self.session.put(
            f"{self.url}/modalities/{name}", json={"AET": title, "Host": "127.0.0.1", "Port": port}, timeout=120
        ).raise_for_status()

    def clear(self) -> None:
        for patient in self.get("patients"):
            self.session.delete(f"{self.url}/patients/{patient}", timeout=120)

    def settled(self) -> bool:
        """Whether it calls all that it has stable, and will say no more of it."""
        kinds = ("series", "studies", "patients")
        return all(self.get(f"{kind}/{each}")["IsStable"] for kind in kinds for each in self.get(kind))

    def series(self, modality: str | None = None) -> list[dict[str, Any]]:
        found = [self.get(f"series/{each}") for each in self.get("series")]
        return [each for each in found if modality in (None, each["MainDicomTags"].get("Modality"))]


@contextlib.contextmanager
def running(folder: Path, *, title: str = "ORTHANC", stable_seconds: int = 1, **more: Any) -> Iterator[Orthanc]:
    """Start a server with an empty store in a folder, and end it after the block."""
    http, dicom = free_port(), free_port()
    settings = {
        "Name": "voxmetry test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "TemporaryDirectory": str(folder),
        "HttpPort": http,
        "DicomPort": dicom,
        "DicomAet": title,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StableAge": stable_seconds,
        "DicomAssociationCloseDelay": 0,
        "DicomScpTimeout": 120,
        "DicomScuTimeout": 120,
        "DicomAlwaysAllowStore": True,
        "DicomModalitiesInDatabase": True,
        "UnknownSopClassAccepted": True,
        "Plugins": [str(path) for path in PLUGINS if path.exists()][:1],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
        **more,
    }
    (folder / "store").mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    environment = dict(os.environ)
    dictionaries = [Path(p) for p in ("/usr/share/libdcmtk17", "/usr/share/dcmtk") if (Path(p) / "dicom.dic").exists()]
    if dictionaries and "DCMDICTPATH" not in environment:
        environment["DCMDICTPATH"] = ":".join(str(dictionaries[0] / f) for f in ("dicom.dic", "private.dic"))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log, env=environment, cwd=folder
        )
    server = Orthanc(http, dicom, folder)
    try:
        end = time.monotonic() + 300
        while True:
            with contextlib.suppress(requests.RequestException):
                server.get("system")
                break
            if process.poll() is not None:
                raise RuntimeError((folder / "orthanc.log").read_text(errors="replace")[-2000:])
            if time.monotonic() > end:
                raise RuntimeError("Orthanc does not answer")
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
