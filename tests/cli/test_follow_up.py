from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import models
import phantoms
from follow_ups import boxes, seg
from voxmetry import TimePoint, Volume, follow_up, read_segmentation, save, segment_study
from voxmetry.cli import run
from voxmetry.core.records import FollowUp, FollowUpSettings

A, B, NEW = (4, 18, 4, 12, 4, 9), (30, 42, 6, 13, 5, 9), (40, 55, 30, 44, 25, 32)


@pytest.fixture
def files(tmp_path):
    save(seg(boxes(A, B)), tmp_path / "before.nii.gz")
    save(seg(boxes((4, 16, 4, 12, 4, 9), NEW)), tmp_path / "after.nii.gz")
    return tmp_path / "before.nii.gz", tmp_path / "after.nii.gz"


def call(capsys, *arguments):
    code = run(["follow-up", *map(str, arguments), "--json"])
    out, told = capsys.readouterr()
    return code, json.loads(out), told


def test_json_is_what_python_returns(capsys, files):
    code, content, _ = call(capsys, *files, "--registration", "none")
    assert code == 0
    points = [TimePoint(read_segmentation(path)) for path in files]
    found = follow_up(baseline=points[0], current=points[1], settings=FollowUpSettings(registration="none"))
    assert FollowUp.model_validate(content).changes == found.changes
    assert content["response"]["category"] == "PD"
    assert content["response"]["rule"].startswith("new lesions: tumour-")
    assert {row["status"] for row in content["changes"]} == {"matched", "gone", "new"}
    # Each number of a row is defined in words beside it.
    numbers = {name for name, value in content["changes"][0].items() if isinstance(value, float)}
    plain = {"volume_baseline_ml", "volume_follow_up_ml", "diameter_baseline_mm", "diameter_follow_up_mm"}
    assert numbers - plain <= set(content["definitions"])


def test_tables_and_terminal(capsys, files, tmp_path):
    out = tmp_path / "out"
    arguments = ["follow-up", *map(str, files), "--registration", "none", "--out", str(out)]
    assert run(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "RECIST 1.1: PD, new lesions" in shown
    assert "caveat:" in shown
    assert {path.name for path in out.iterdir()} == {"follow_up.json", "lesion_changes.csv"}
    rows = list(csv.DictReader((out / "lesion_changes.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["matched", "gone", "new"]
    assert rows[2]["volume_change_percent"] == ""
    assert run(arguments) == 2
    assert run([*arguments, "--overwrite"]) == 0


def test_two_studies_of_segment_with_images_are_registered_and_pictured(capsys, tmp_path):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(32, 30, 14)), 2)
    image = Volume((1000 * smooth).astype(np.float32), phantoms.geometry(shape=(32, 30, 14)))
    save(image, tmp_path / "image.nii.gz")
    model = models.write(tmp_path / "model")
    for name in ("one", "two"):
        segment_study(tmp_path / "image.nii.gz", tmp_path / name, model)
    images = ("--baseline-image", tmp_path / "image.nii.gz", "--image", tmp_path / "image.nii.gz")
    out = tmp_path / "out"
    code, content, _ = call(capsys, tmp_path / "one", tmp_path / "two", *images, "--out", out)
    assert content["registration"]["kind"] == "rigid"
    assert np.allclose(content["registration"]["matrix_ras_mm"], np.eye(4), atol=0.05)
    assert {row["status"] for row in content["changes"]} == {"matched"}
    assert code == (3 if any(flag["severity"] == "review" for flag in content["flags"]) else 0)
    assert (out / "registration.png").read_bytes().startswith(b"\x89PNG")
    text = json.dumps(content) + (out / "lesion_changes.csv").read_text()
    assert str(tmp_path) not in text
    # Two studies of one frame of reference need neither image nor registration.
    for name in ("one", "two"):
        path = tmp_path / name / "result.json"
        result = json.loads(path.read_text())
        result["source"]["frame_uid"] = "1.2.826.0.1"
        path.write_text(json.dumps(result))
    _, same, _ = call(capsys, tmp_path / "one", tmp_path / "two")
    assert same["registration"]["kind"] == "none"
    assert "the same frame of reference" in same["registration"]["reason"]
    assert {row["centroid_distance_mm"] for row in same["changes"]} == {0}
    # The transform of one run serves the next.
    _, again, _ = call(capsys, tmp_path / "one", tmp_path / "two", "--transform", out / "transform.tfm")
    assert np.allclose(again["registration"]["matrix_ras_mm"], content["registration"]["matrix_ras_mm"], atol=1e-9)
    assert [row["status"] for row in again["changes"]] == [row["status"] for row in content["changes"]]


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        ([], 1, "no image of one of the time points"),
        (["--registration", "none", "--lesion", "spleen"], 1, "no label named 'spleen'"),
        (["--registration", "none", "--target", "tumour-7"], 1, "tumour-7"),
        (["--registration", "none", "--transform", "NONE"], 1, "cannot be read"),
        (["--registration", "bent"], 2, ""),
    ],
)
def test_wrong_input_is_told(capsys, files, tmp_path, arguments, code, found):
    words = [str(tmp_path / "none.tfm") if word == "NONE" else word for word in arguments]
    assert run(["follow-up", *map(str, files), *words]) == code
    assert found in capsys.readouterr().err


def test_a_folder_without_results_is_refused(capsys, files, tmp_path):
    (tmp_path / "empty").mkdir()
    assert run(["follow-up", str(tmp_path / "empty"), str(files[1])]) == 1
    assert "no result.json in the folder empty" in capsys.readouterr().err
    (tmp_path / "empty" / "result.json").write_text("{}")
    assert run(["follow-up", str(tmp_path / "empty"), str(files[1])]) == 1
    assert "none of this version" in capsys.readouterr().err
