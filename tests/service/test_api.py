"""The service's own interface: each way in, what becomes of a job, files, events and numbers."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

import phantoms
from service_clients import SHAPE, call, call_json, send_form, start
from voxmetry.config import StudySettings
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import ConfigError, FormatError
from voxmetry.io import write_series
from voxmetry.service import run as serving
from voxmetry.service.api import require_order
from voxmetry.service.datastore import Image
from voxmetry.service.infer import JobOptions, source_of_upload
from voxmetry.service.records import Job
from voxmetry.service.service import Service
from voxmetry.service.views import progress_of


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A DICOM series in a folder."""
    folder = tmp_path_factory.mktemp("series") / "ct"
    volume = phantoms.volume(phantoms.geometry(shape=SHAPE, frame_uid="1.2.3.4"))
    write_series(volume, folder, modality="MR")
    return folder


def over(host, job, seconds=300):
    """Wait, by its events, until a job is over."""
    end, last = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        found = call_json(host, "GET", f"/v1/jobs/{job}")[1]
        if found["state"] not in ("waiting", "running"):
            return found
        last = call_json(host, "GET", f"/v1/jobs/{job}/events?after={last}&wait=5")[1]["last"]
    raise AssertionError(found)


def test_by_path_with_options_and_what_is_told_of_it(live):
    content = {
        "model": "tiny-mr",
        "path": "research/b.nii.gz",
        "label": " b\u202e ",
        "options": {"structures": ["front"], "report": "full"},
    }
    status, job = call_json(live.host, "POST", "/v1/jobs", content)
    assert (status, job["state"], job["label"], job["origin"]) == (201, "waiting", "b", "path")
    found = over(live.host, job["id"])
    assert (found["state"], found["progress"]) == ("done", 1.0)
    status, _, body = call(live.host, "GET", f"/v1/jobs/{job['id']}/files/result.json")
    result = json.loads(body)
    assert [row["label"] for row in result["measurements"]] == ["front"]
    assert [flag["code"] for flag in result["flags"]] == [flag["code"] for flag in found["flags"]]
    status, headers, body = call(live.host, "GET", f"/v1/jobs/{job['id']}/report")
    assert status == 200
    assert "sandbox" in headers["content-security-policy"]
    assert b"<html" in body
    status, headers, body = call(live.host, "GET", f"/v1/jobs/{job['id']}/thumbnail")
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    what = [event["what"] for event in call_json(live.host, "GET", f"/v1/jobs/{job['id']}/events")[1]["events"]]
    assert what[:2] == ["waiting", "running"]
    assert what[-1] == "done"
    assert "step" in what


def test_the_files_of_a_dicom_series_and_a_zip_of_them_by_upload(live, series, tmp_path):
    files = [("files", f"C:\\PACS\\IM{n:04}", path.read_bytes()) for n, path in enumerate(sorted(series.iterdir()))]
    assert len(files) == SHAPE[2]
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for path in sorted(series.iterdir()):
            archive.write(path, path.name)
    volumes = []
    for sent in (files, [("files", "s.zip", (tmp_path / "s.zip").read_bytes())]):
        fields = {"model": "tiny-mr", "label": "sent", "options": json.dumps({"report": "none"})}
        status, _, body = send_form(live.host, "POST", "/v1/jobs/upload", fields, sent)
        assert status == 201, body
        found = over(live.host, json.loads(body)["id"])
        assert found["state"] == "done", found
        _, _, text = call(live.host, "GET", f"/v1/jobs/{found['id']}/files/measurements.csv")
        volumes.append(text)
    assert volumes[0] == volumes[1]
    # Deleted with what was sent for it.
    before = len(list((live.data / "uploads").iterdir()))
    assert call(live.host, "DELETE", f"/v1/jobs/{found['id']}")[0] == 204
    assert call(live.host, "GET", f"/v1/jobs/{found['id']}")[0] == 404
    assert len(list((live.data / "uploads").iterdir())) == before - 1


def test_by_a_series_instance_uid_below_a_root(live, series):
    import shutil

    import pydicom

    uid = str(pydicom.dcmread(next(series.iterdir())).SeriesInstanceUID)
    assert call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "uid": uid})[0] == 404
    shutil.copytree(series, live.root / "dicom")
    try:
        # The roots are looked at again after a while; a path is found at once.
        status, job = call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": "research/dicom"})
        assert status == 201
        assert over(live.host, job["id"])["state"] == "done"
    finally:
        shutil.rmtree(live.root / "dicom")


@pytest.mark.parametrize(
    "content",
    [
        {"model": "tiny-mr"},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "image": "x"},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "peer": "pacs"},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "device": "cuda"},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "options": {"overwrite": True}},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "options": {"with_identity": True}},
        {"model": "tiny-mr", "uid": "../1.2"},
        {"model": "tiny-mr", "path": "research/b.nii.gz", "priority": 9},
        {"model": "other", "path": "research/b.nii.gz"},
    ],
)
def test_what_is_not_taken(live, content):
    status, found = call_json(live.host, "POST", "/v1/jobs", content)
    assert status == 422
    assert set(found) == {"error", "found", "expected", "fix"}


def test_folders_of_a_study_are_not_dealt_out_among_inputs_of_one_modality(tmp_path):
    """By their names a T1 would become a FLAIR; a CT that is taken for a PET is told when it is read."""
    folders = [Image("", tmp_path / name) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="2 folders, for inputs of MR, MR"):
        require_order(folders, ["MR", "MR"])
    require_order(folders, ["CT", "PT"])
    require_order(folders[:1], ["MR", "MR"])


def test_a_peer_that_is_not_known_is_told(live):
    assert call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "uid": "1.2", "peer": "pacs"})[0] == 404


def test_a_fast_job_of_a_single_network_says_so(live):
    content = {"model": "tiny-mr", "path": "research/b.nii.gz", "options": {"fast": True, "report": "none"}}
    _, job = call_json(live.host, "POST", "/v1/jobs", content)
    found = over(live.host, job["id"])
    assert found["state"] == "done", found
    _, _, body = call(live.host, "GET", f"/v1/jobs/{job['id']}/files/result.json")
    assert json.loads(body)["provenance"]["fast"]["fewer_windows"] is True


def test_a_structure_that_the_model_does_not_have_fails_that_job_alone(live):
    content = {"model": "tiny-mr", "path": "research/b.nii.gz", "options": {"structures": ["nose"]}}
    _, job = call_json(live.host, "POST", "/v1/jobs", content)
    found = over(live.host, job["id"])
    assert found["state"] == "failed"
    assert "nose" in found["fault"]["found"]
    assert call(live.host, "GET", f"/v1/jobs/{job['id']}/files")[0] == 409
    assert call(live.host, "GET", "/health")[0] == 200


def test_the_list_can_be_narrowed(live):
    for label in ("Narrow-1", "narrow-2"):
        call_json(live.host, "POST", "/v1/jobs", {"model": "tiny-mr", "path": "research/b.nii.gz", "label": label})
    status, found = call_json(live.host, "GET", "/v1/jobs?q=NARROW&limit=1")
    assert status == 200
    assert [job["label"] for job in found["jobs"]] == ["narrow-2"]
    assert [job["label"] for job in call_json(live.host, "GET", "/v1/jobs?q=narrow&offset=1")[1]["jobs"]] == [
        "Narrow-1"
    ]
    assert call_json(live.host, "GET", "/v1/jobs?state=cancelled&q=narrow")[1]["jobs"] == []
    assert call_json(live.host, "GET", "/v1/jobs?q=%25")[1]["jobs"] == []


def test_the_numbers_are_those_of_prometheus(live):
    status, headers, body = call(live.host, "GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = body.decode().splitlines()
    values = {}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["voxmetry_up"] == 1
    assert values['voxmetry_jobs{state="done"}'] >= 1
    assert values["voxmetry_disk_free_bytes"] > 0
    assert any(name.startswith("voxmetry_requests_total{") and 'route="/v1/jobs"' in name for name in values)
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert {name.split("{")[0] for name in values} == named


def test_the_page_of_the_interface_lists_every_operation(live):
    _, spec = call_json(live.host, "GET", "/v1/openapi.json")
    status, headers, body = call(live.host, "GET", "/v1/docs")
    assert status == 200
    assert "script-src 'self'" in headers["content-security-policy"]
    assert all(path.encode() in body for path in spec["paths"])


def test_the_server_itself_loads_no_torch():
    code = "import sys, voxmetry.service.app, voxmetry.cli.serve; sys.exit('torch' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2] / "src"))
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


class TestParts:
    def test_options_win_over_settings_and_only_where_given(self):
        settings = StudySettings(report="full", device="cpu", structures=("a",))
        assert JobOptions().over(settings) == settings
        found = JobOptions(structures=("b",), fast=True).over(settings)
        assert (found.structures, found.fast, found.device, found.report) == (("b",), True, "cpu", "full")

    def test_what_an_upload_is(self):
        a, b, zipped = (
            (Path("/u/000000.nii.gz"), ".nii.gz"),
            (Path("/u/000001.nii.gz"), ".nii.gz"),
            (Path("/u/0.zip"), ".zip"),
        )
        slices = [(Path("/u/000000"), ""), (Path("/u/000001.dcm"), ".dcm")]
        assert source_of_upload([a], 1) == (a[0],)
        assert source_of_upload([a, b], 2) == (a[0], b[0])
        assert source_of_upload([zipped], 2) == (zipped[0],)
        assert source_of_upload(slices, 2) == (Path("/u"),)
        for files in ([], [a, *slices], [(Path("/u/a.json"), ".json")]):
            with pytest.raises(FormatError):
                source_of_upload(files, 1)
        for files, n_inputs in (([a, b], 1), ([a], 2)):
            with pytest.raises(ConfigError):
                source_of_upload(files, n_inputs)

    @pytest.mark.parametrize(
        ("state", "step", "share"),
        [("waiting", "", 0), ("running", "network: 40%", 0.375), ("running", "?", 0), ("done", "", 1)],
    )
    def test_progress(self, state, step, share):
        job = Job(id="0", state=state, model="m", settings=StudySettings(), source=(), step=step)
        assert progress_of(job) == share


def test_the_root_folder_is_not_copied_into_answers(live):
    status, _, body = call(live.host, "GET", "/v1/jobs?limit=500")
    assert status == 200
    assert str(live.root).encode() not in body
    assert str(live.data).encode() not in body


def test_whoever_waits_is_answered_when_the_service_ends(tmp_path, tiny_model, monkeypatch, capfd):
    waits, changes = threading.Event(), Service.changes

    def begun(service):
        waits.set()
        return changes(service)

    monkeypatch.setattr(Service, "changes", begun)
    monkeypatch.setattr(serving, "GRACE_SECONDS", 120)
    address, end = start(
        ServiceSettings(data=str(tmp_path / "data"), port=0, models=(str(tiny_model),), limits={"free_mb": 0})
    )
    host, answers = address.removeprefix("http://"), []

    def ask():
        connection = http.client.HTTPConnection(host, timeout=300)
        connection.request("GET", "/v1/events?after=0&wait=30")
        answer = connection.getresponse()
        answers.append((answer.status, json.loads(answer.read())["events"]))
        connection.close()

    asking = threading.Thread(target=ask)
    asking.start()
    assert waits.wait(300)
    end()
    asking.join(300)
    assert answers == [(200, [])]
    assert "Traceback" not in capfd.readouterr().err
