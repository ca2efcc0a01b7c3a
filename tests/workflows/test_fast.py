"""A fast run is named wherever its result goes."""

from __future__ import annotations

import json

import pydicom
import pytest

import models
import phantoms
from voxmetry import StudyResult, StudySettings, segment_study
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.core.records import FastRun
from voxmetry.io import write_series
from voxmetry.report import load_language
from voxmetry.report.facts import command, examined
from voxmetry.report.pictures.plan import PicturePlan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.write(tmp_path_factory.mktemp("model") / "tiny-mr")


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    write_series(phantoms.volume(phantoms.geometry(shape=(38, 41, 19), frame_uid="1.2.3")), folder, modality="MR")
    return folder


def test_at_the_shell_in_json_and_in_the_report(model, series, tmp_path, capsys):
    words = ["segment", str(series), "-m", str(model), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert run([*words, "--fast"]) in (0, 3)
    assert "in float32, fast (a quarter of the windows, and those at what these find)," in " ".join(
        capsys.readouterr().out.split()
    )
    text = (tmp_path / "out" / "result.json").read_text()
    assert json.loads(text)["provenance"]["fast"]["fewer_windows"] is True
    assert "--fast" in command(StudyResult.model_validate_json(text))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Fast run" in page
    assert "a quarter of the windows, and those at what these find" in page


def test_a_full_run_is_silent(model, series, tmp_path, capsys):
    settings = StudySettings(device="cpu", report="none")
    assert segment_study(series, tmp_path / "out", model, settings=settings).provenance.fast is None


@pytest.mark.parametrize("deidentify", [False, True])
def test_dicom_objects_say_it_too(model, series, tmp_path, deidentify):
    wanted = DicomOutput(seg=True, sr=True, deidentify=deidentify)
    settings = StudySettings(device="cpu", report="none", fast=True, dicom=wanted)
    segment_study(series, tmp_path / "out", model, settings=settings)
    (segment,) = pydicom.dcmread(tmp_path / "out" / "seg.dcm").SegmentSequence[:1]
    told = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert told == "fast=a quarter of the windows, and those at what these find"


@pytest.mark.parametrize(
    ("code", "fast", "said"),
    [
        ("en", FastRun(coarse="ct-6mm"), "only inside the box that ct-6mm finds"),
        ("en", FastRun(), "as a full run: windows overlap by no more"),
        ("de", FastRun(fewer_windows=True), "ein Viertel der Fenster, und die an dem, was diese finden"),
        ("de", FastRun(overlap=0.25, full_overlap=0.5), "Fenster überlappen um 25 % statt um 50 %"),
        ("es", FastRun(overlap=0.25, full_overlap=0.5), "las ventanas se solapan un 25 % en lugar de un 50 %"),
    ],
)
def test_the_report_says_it_in_its_language(model, series, tmp_path, code, fast, said):
    result = segment_study(series, tmp_path / "out", model, settings=StudySettings(device="cpu", report="none"))
    made = result.model_copy(update={"provenance": result.provenance.model_copy(update={"fast": fast})})
    say = load_language(code)
    plan = PicturePlan(extent_mm=(1.0, 1.0, 1.0), oblique_degrees=0.0, present=(), compared=False, pictures=())
    facts = {fact.term: fact.detail for fact in examined(made, plan, say)}
    assert facts[say("Fast run")] == said
