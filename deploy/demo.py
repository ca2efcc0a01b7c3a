"""`make serve-demo`: Orthanc, the service and, where npm is there, OHIF, on loopback, with a study that goes round.

    python deploy/demo.py [--folder serve-demo-out] [--once]

A region of the ICBM 152 brain template is put into Orthanc as a DICOM series; the service finds it there, segments it,
and sends segmentation, structure set and report back. `--once` ends when they are there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pydicom
import requests
import viewer
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
import orthanc
from voxmetry.demo import DESCRIPTION, FOLDER
from voxmetry.io import read_volume, write_series

OHIF = "@ohif/app@3.13.2"
MOST_SECONDS = 240


def main() -> int:
    """Start all, say which pages to open, and wait."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", type=Path, default=Path("serve-demo-out"))
    options.add_argument("--once", action="store_true", help="end when the results are in Orthanc")
    given = options.parse_args()
    if why := orthanc.why_not():
        print(why)
        return 1
    folder = given.folder.resolve()
    shutil.rmtree(folder / "orthanc", ignore_errors=True)
    shutil.rmtree(folder / "data", ignore_errors=True)
    shutil.rmtree(folder / "series", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with orthanc.running(folder / "orthanc", title="ORTHANC") as archive:
        return _run(folder, archive, once=given.once)


def _run(folder: Path, archive: orthanc.Orthanc, *, once: bool) -> int:
    http, dicom = orthanc.free_port(), orthanc.free_port()
    settings = {
        "data": str(folder / "data"),
        "port": http,
        "models": ["hippocampus-mr"],
        "peers": {
            "orthanc": {"kind": "orthanc", "url": archive.url},
            "sender": {"kind": "dicom", "ae_title": "ORTHANC", "addresses": ["127.0.0.1"]},
        },
        "routes": {
            "hippocampus": {
                "model": "hippocampus-mr",
                "ae_title": "VOXMETRY",
                "senders": ["sender"],
                "quiet_seconds": 2,
                "send": ["seg", "rtstruct", "sr"],
                "send_to": ["orthanc"],
            }
        },
        "dicom": {"port": dicom},
        "polls": [{"peer": "orthanc", "route": "hippocampus", "seconds": 1, "from_start": True}],
    }
    (folder / "serve.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    command = [sys.executable, "-m", "voxmetry", "serve", "--settings", str(folder / "serve.yaml")]
    archive.knows("voxmetry", "VOXMETRY", dicom)
    region = read_volume(FOLDER / "icbm152-hippocampus-right.nii.gz")
    archive.upload(*_named(write_series(region, folder / "series", modality="MR", description=DESCRIPTION)))
    with (folder / "serve.log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ))
    try:
        print(f"Orthanc:  {archive.url}/app/explorer.html", flush=True)
        print(f"Jobs:     http://127.0.0.1:{http}", flush=True)
        if (dist := _ohif(folder)) is not None:
            port = orthanc.free_port()
            threading.Thread(target=viewer.serve(dist, archive.url, port).serve_forever, daemon=True).start()
            print(f"OHIF:     http://127.0.0.1:{port}", flush=True)
        else:
            print("OHIF:     not here, as npm is not installed", flush=True)
        if not _wait(service, archive):
            print((folder / "serve.log").read_text(errors="replace")[-2000:])
            return 1
        print(
            "The demonstration's series went round: Orthanc has its SEG, RTSTRUCT and SR. Open OHIF or the jobs.",
            flush=True,
        )
        if not once:
            print("Ctrl-C ends it.", flush=True)
            service.wait()
    except KeyboardInterrupt:
        print()
    finally:
        service.terminate()
        service.wait(60)
    return 0


def _named(files: Sequence[Path]) -> Sequence[Path]:
    """Give a series a patient and a study, so that the lists of Orthanc and OHIF have something to click on."""
    for file in files:
        image = pydicom.dcmread(file)
        image.PatientName, image.PatientID = "Template^ICBM 152", "ICBM152"
        image.StudyDescription, image.StudyDate = "Demonstration of voxmetry serve", f"{date.today():%Y%m%d}"
        image.save_as(file)
    return files


def _wait(service: subprocess.Popen[bytes], archive: orthanc.Orthanc) -> bool:
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end and service.poll() is None:
        try:
            if {"SEG", "RTSTRUCT", "SR"} <= {each["MainDicomTags"].get("Modality") for each in archive.series()}:
                return True
        except requests.RequestException:
            pass
        time.sleep(1)
    return False


def _ohif(folder: Path) -> Path | None:
    """Return the built OHIF of npm, fetched once; None where npm is not there."""
    dist = folder / "ohif" / "package" / "dist"
    if dist.is_dir():
        return dist
    npm = shutil.which("npm")
    if npm is None:
        return None
    (folder / "ohif").mkdir(exist_ok=True)
    try:
        subprocess.run([npm, "pack", "--silent", OHIF], cwd=folder / "ohif", check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        return None
    (archive,) = (folder / "ohif").glob("*.tgz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "ohif", filter="data")
    archive.unlink()
    return dist


if __name__ == "__main__":
    sys.exit(main())
