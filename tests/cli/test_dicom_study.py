"""`inspect` and the reading options of `segment` on studies as they arrive: archives, DICOMDIR, several series."""

from __future__ import annotations

import gc
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
import yaml
from pydicom.fileset import FileSet

import models
import phantoms
from voxmetry import read_segmentation
from voxmetry.cli import run
from voxmetry.io import write_series

UIDS = {"T1": "1.2.3.1", "T2": "1.2.3.2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    """The same model, which takes series named T1 alone."""
    folder = models.write(tmp_path_factory.mktemp("ruled"))
    content = yaml.safe_load((folder / "model.yaml").read_text())
    content["inputs"][0]["series"] = {"description": ["^T1$"]}
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def study(tmp_path):
    """A study of two MR series on one grid."""
    volume = phantoms.volume(phantoms.geometry(shape=(21, 27, 11), frame_uid="1.2.3.4"))
    for name, uid in UIDS.items():
        write_series(
            volume, tmp_path / "study" / name, modality="MR", description=name, series_uid=uid, study_uid="1.2.3"
        )
    return tmp_path / "study"


def call(capsys, *arguments: object) -> tuple[int, dict, str]:
    code = run([*map(str, arguments), "--json"])
    out, told = capsys.readouterr()
    return code, json.loads(out) if out.strip() else {}, told


class TestInspect:
    def test_an_archive_is_listed_as_its_folder(self, capsys, study, tmp_path):
        archive = tmp_path / "study.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
            for path in sorted(study.rglob("*.dcm")):
                content.write(path, path.relative_to(study))
        code, content, _ = call(capsys, "inspect", archive)
        _, folder, _ = call(capsys, "inspect", study)
        assert code == 0
        facts = [
            [(s["key"], s["verdict"], s["n_slices"], s["spacing_mm"]) for s in x["series"]] for x in (content, folder)
        ]
        assert facts[0] == facts[1] == [(uid, "regular", 11, [0.9, 1.3, 2.6]) for uid in UIDS.values()]

    def test_a_dicomdir_stands_for_what_it_names(self, capsys, study, tmp_path):
        medium = FileSet()
        for path in sorted((study / "T1").iterdir()):
            dataset = pydicom.dcmread(path)
            dataset.PatientID, dataset.PatientName, dataset.StudyID = "ID-4711", "Doe^Jane", "1"
            dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
            medium.add(dataset)
        medium.write(tmp_path / "medium")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del medium
            gc.collect()
        assert run(["inspect", str(tmp_path / "medium" / "DICOMDIR")]) == 0
        told = capsys.readouterr().out
        assert "regular" in told
        assert "11 slices" in told
        assert "1.2.3.1" in told
        assert "Doe" not in told
        assert "4711" not in told
        lost = next(path for path in (tmp_path / "medium").rglob("*") if path.is_file() and path.name != "DICOMDIR")
        lost.unlink()
        assert run(["inspect", str(tmp_path / "medium" / "DICOMDIR")]) == 1
        assert "missing" in capsys.readouterr().out

    @pytest.mark.parametrize("content", [b"PK\x03\x04 and no more", b"no archive at all"])
    def test_a_broken_archive_says_so(self, capsys, tmp_path, content):
        (tmp_path / "study.zip").write_bytes(content)
        code, said, _ = call(capsys, "inspect", tmp_path / "study.zip")
        assert code == 1
        assert said["found"]


class TestSegment:
    def test_of_two_series_none_is_taken_unasked(self, capsys, study, model, tmp_path):
        assert run(["segment", str(study), "-m", str(model), "-o", str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert "2 series that could be taken" in told
        assert all(f"{uid}  MR '{name}'" in told for name, uid in UIDS.items())
        assert list((tmp_path / "out").iterdir()) == []

    def test_the_named_one_is_taken(self, capsys, study, model, tmp_path):
        code, content, _ = call(
            capsys, "segment", study, "-m", model, "-o", tmp_path / "out", "--series", UIDS["T2"], "--report", "none"
        )
        assert code in (0, 3)
        assert content["source"]["series_uid"] == UIDS["T2"]

    def test_the_models_rules_choose(self, capsys, study, ruled, tmp_path):
        code, content, _ = call(capsys, "segment", study, "-m", ruled, "-o", tmp_path / "out", "--report", "none")
        assert code in (0, 3)
        assert content["source"]["series_uid"] == UIDS["T1"]

    def test_a_tie_under_the_rules_is_shown(self, capsys, study, ruled, tmp_path):
        for path in (study / "T2").iterdir():
            dataset = pydicom.dcmread(path)
            dataset.SeriesDescription = "T1"
            dataset.save_as(path)
        assert run(["segment", str(study), "-m", str(ruled), "-o", str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert all(uid in told for uid in UIDS.values())
        assert "--series" in told

    def test_a_missing_slice_is_read_by_choice_and_flagged(self, capsys, study, model, tmp_path):
        sorted((study / "T1").iterdir())[4].unlink()
        words = ("segment", study / "T1", "-m", model, "-o", tmp_path / "out", "--report", "none")
        code, said, _ = call(capsys, *words)
        assert code == 1
        assert "missing" in said["found"]
        code, content, _ = call(capsys, *words, "--allow-uneven")
        assert code == 3
        assert "resampled_source" in {flag["code"] for flag in content["flags"]}
        assert content["source"]["processing"][0].startswith("resampled")
        assert content["provenance"]["settings"]["allow_uneven"]
        assert read_segmentation(tmp_path / "out" / "seg.nii.gz").array.shape == (21, 27, 11)

    def test_a_stack_that_leans_is_read_by_choice_and_flagged(self, capsys, study, model, tmp_path):
        for k, path in enumerate(sorted((study / "T1").iterdir())):
            dataset = pydicom.dcmread(path)
            row = np.array(dataset.ImageOrientationPatient[:3], float)
            dataset.ImagePositionPatient = (
                (np.array(dataset.ImagePositionPatient, float) + 0.4 * k * row).round(6).tolist()
            )
            dataset.save_as(path)
        words = ("segment", study / "T1", "-m", model, "-o", tmp_path / "out", "--report", "none")
        code, said, _ = call(capsys, *words)
        assert code == 1
        assert "tilted" in said["found"]
        code, content, _ = call(capsys, *words, "--resample-tilt")
        assert code == 3
        assert "resampled_source" in {flag["code"] for flag in content["flags"]}
        assert Path(tmp_path / "out" / "result.json").is_file()
        # Its report can be drawn anew: the study is read as the run read it.
        code, _, _ = call(capsys, "report", tmp_path / "out", "--image", study / "T1")
        assert code == 0
        assert (tmp_path / "out" / "report.html").is_file()

    def test_objects_on_resampled_slices_are_refused_before_any_work(self, capsys, study, model, tmp_path):
        sorted((study / "T1").iterdir())[4].unlink()
        code, said, _ = call(
            capsys, "segment", study / "T1", "-m", model, "-o", tmp_path / "out", "--allow-uneven", "--dicom-seg"
        )
        assert code == 1
        assert "resampled between the slices" in said["found"]
        assert list((tmp_path / "out").iterdir()) == []
