"""`voxmetry evaluate` on data sets that tell instances apart."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, Volume, save
from voxmetry.cli import run
from voxmetry.io.instances import read_instances

BLOB = """kind: baseline
name: blob
version: 1.0.0
summary: What is bright
inputs: [{name: image, modality: MR}]
segment: {method: threshold, low: 500}
labels: {labels: [{value: 1, name: body, colour: "#D55E00"}]}
"""
MANIFEST = """name: balls
channels: [{name: image, modality: MR, path: "images/{case}.nii.gz"}]
label: "labels/{case}.nii.gz"
instances_of: body
cases: [case_0, case_1, case_2]
"""
GRID = phantoms.geometry(shape=(48, 40, 20), spacing_mm=(1.0, 1.2, 2.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three cases of two balls that touch and one by itself, each ball with a value of its own."""
    root = tmp_path_factory.mktemp("balls")
    for name in ("images", "labels"):
        (root / name).mkdir()
    for n in range(3):
        truth = phantoms.balls(GRID, ((14, 24, 25), 9), ((29, 24, 25), 8.5 - n / 4), ((39, 8, 10), 7))
        noise = np.random.default_rng(n).normal(0, 20, GRID.shape)
        save(Volume(np.where(truth > 0, 900, 100) + noise.astype(np.float32), GRID), root / f"images/case_{n}.nii.gz")
        # Values in no order, with gaps.
        numbers = np.array([0, 9, 4, 200], np.uint16)[truth]
        table = LabelTable.from_names({9: "a", 4: "b", 200: "c"})
        save(Segmentation(numbers, GRID, table), root / f"labels/case_{n}.nii.gz")
    (root / "balls.yaml").write_text(MANIFEST, encoding="utf-8")
    (root / "blob.yaml").write_text(BLOB, encoding="utf-8")
    return root


def evaluated(data, out, *words):
    code = run(["evaluate", str(data / "balls.yaml"), "-m", str(data / "blob.yaml"), "-o", str(out), *words])
    assert code == 0
    (model,) = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))["models"]
    return model["cohort"]


def test_instances_of_the_data_set_are_matched_without_asking(data, tmp_path, capsys):
    cohort = evaluated(data, tmp_path / "out")
    (row,) = cohort["detection"]
    assert (row["label"], row["n_reference"], row["n_prediction"]) == ("body", 9, 6)
    # The two that touch are one component, which has an IoU above 0.5 with the larger of them at most.
    assert row["pq"]["mean"] < 0.75
    assert "PQ" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "instances.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["model"] for row in rows} == {"blob"}
    page = (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")
    assert 'id="instances"' in page
    assert 'id="found"' in (tmp_path / "out" / "blob.html").read_text(encoding="utf-8")


def test_the_watershed_tells_the_models_structures_apart(data, tmp_path):
    cohort = evaluated(data, tmp_path / "out", "--apart", "watershed")
    (row,) = cohort["detection"]
    assert (row["n_reference"], row["n_prediction"], row["all_found"]) == (9, 9, 1.0)
    assert row["pq"]["mean"] > 0.9
    assert row["average_precision"]["IoU 0.75"]["mean"] > 0.9
    path = tmp_path / "out" / "predictions" / "blob-instances" / "case_1.nii.gz"
    again = read_instances(path)
    assert [x.label for x in again.detections] == ["body"] * 3
    # What was kept is what `compare` takes, with the same numbers.
    code = run(
        ["compare", str(path), str(data / "labels" / "case_1.nii.gz"), "--apart", "maps", "-o", str(tmp_path / "again")]
    )
    assert code == 0
    (same,) = json.loads((tmp_path / "again" / "comparison.json").read_text(encoding="utf-8"))["detection"]
    assert (same["n_reference"], same["n_prediction"], same["sq"]["mean"] > 0.9) == (3, 3, True)


def test_of_a_data_set_without_instances_none_are_matched(data, tmp_path):
    text = MANIFEST.replace("instances_of: body\n", "labels: {1: body}\nmerge: {1: [4, 9, 200]}\n")
    (data / "plain.yaml").write_text(text, encoding="utf-8")
    code = run(
        ["evaluate", str(data / "plain.yaml"), "-m", str(data / "blob.yaml"), "-o", str(tmp_path / "out"), "--json"]
    )
    assert code == 0
    (model,) = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))["models"]
    assert model["cohort"]["detection"] == []
    assert not (tmp_path / "out" / "instances.csv").exists()
