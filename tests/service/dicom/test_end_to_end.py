"""A study goes round on loopback: Orthanc, `voxmetry serve` with a network, and back to Orthanc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml

import voxmetry
from dicom_callers import eventually
from orthanc import free_port
from voxmetry.io import read_volume, write_series

MODEL = "hippocampus-mr"


def settings_of(folder: Path, server, dicom: int, http: int) -> Path:
    settings = {
        "data": str(folder / "data"),
        "port": http,
        "models": [MODEL],
        "settings": {"device": "cpu", "report": "none"},
        "peers": {
            "archive": {
                "kind": "dicom",
                "ae_title": "ORTHANC",
                "addresses": ["127.0.0.1"],
                "host": "127.0.0.1",
                "port": server.dicom,
            },
            "web": {"kind": "orthanc", "url": server.url},
        },
        "routes": {
            "send": {
                "model": MODEL,
                "ae_title": "VOXHIPPO",
                "senders": ["archive"],
                # The archive sends all in one, and a pause of the machine is none of its own.
                "quiet_seconds": 600,
                "on_release": True,
                "send": ["seg", "sr"],
                "send_to": ["archive"],
            },
            "poll": {"model": MODEL, "send": ["rtstruct"], "send_to": ["web"]},
        },
        "dicom": {"port": dicom},
        "polls": [{"peer": "web", "route": "poll", "seconds": 0.5, "from_start": True}],
    }
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
@pytest.mark.real_data
def test_a_real_series_is_sent_polled_and_fetched_and_its_results_come_back(orthanc, real_data, tmp_path) -> None:
    orthanc.clear()
    image = sorted((real_data / "hippocampus-mr" / "images").iterdir())[0]
    files = write_series(read_volume(image), tmp_path / "series", modality="MR", description="T1 hippocampus")
    orthanc.upload(*files)
    dicom, http = free_port(), free_port()
    # The sources that are tested, also where another copy is installed.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(voxmetry.__file__).parents[1])}
    command = [
        sys.executable,
        "-m",
        "voxmetry",
        "serve",
        "--settings",
        str(settings_of(tmp_path, orthanc, dicom, http)),
    ]
    checked = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=600, env=environment)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("answers") == 2
    with (tmp_path / "log").open("wb") as log:
        service = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        base = f"http://127.0.0.1:{http}"

        def answers() -> bool:
            try:
                return requests.get(f"{base}/health", timeout=120).ok
            except requests.RequestException:
                assert service.poll() is None, (tmp_path / "log").read_text()
                return False

        eventually(answers, 300)
        orthanc.knows("voxmetry", "VOXHIPPO", dicom)
        orthanc.post("modalities/voxmetry/store", orthanc.get("studies"))
        study = orthanc.get(f"studies/{orthanc.get('studies')[0]}")["MainDicomTags"]["StudyInstanceUID"]
        body = {"model": MODEL, "peer": "web", "uid": study}
        asked = requests.post(f"{base}/v1/jobs", json=body, timeout=120)
        assert asked.status_code == 201, asked.text

        def jobs() -> list[dict[str, str]]:
            return requests.get(f"{base}/v1/jobs", timeout=120).json()["jobs"]

        eventually(lambda: len([j for j in jobs() if j["state"] == "done" and j["delivery"] != "waiting"]) >= 3, 600)
        by_delivery = sorted(job["delivery"] for job in jobs())
        assert by_delivery == ["delivered", "delivered", "none"], jobs()
        kinds = sorted(each["MainDicomTags"]["Modality"] for each in orthanc.series())
        assert kinds == ["MR", "RTSTRUCT", "SEG", "SR"]
        # All lie in the study that they are of, and nothing of it makes a second round.
        assert len(orthanc.get("studies")) == 1
        time.sleep(3)
        assert len(jobs()) == 3
        numbers = requests.get(f"{base}/metrics", timeout=120).text
        assert f'voxmetry_dicom{{what="objects taken"}} {len(files)}' in numbers
    finally:
        service.terminate()
        service.wait(300)
    words = (tmp_path / "log").read_text()
    assert study not in words
