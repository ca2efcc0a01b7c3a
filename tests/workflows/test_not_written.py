"""One output that cannot be written costs none of the others: it is named, the rest is there, the exit code is 1."""

from __future__ import annotations

import pydicom
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, StudySettings, Volume, read_volume, save, segment_study
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.errors import InputError, OutputError
from voxmetry.io import write_series
from voxmetry.io.dicom.read.headers import lenient
from voxmetry.workflows.run_folder import read_result

OBJECTS = ("--dicom-seg", "--rtstruct", "--sr", "--pdf", "--key-images")
HOME = "voxmetry.workflows"
WRITERS = {
    # Each output of a run, and what writes it.
    "seg.dcm": f"{HOME}.dicom_objects.write_seg",
    "rtstruct.dcm": f"{HOME}.dicom_objects.write_rtstruct",
    "sr.dcm": f"{HOME}.dicom_objects.write_report_sr",
    "report.pdf": f"{HOME}.dicom_objects.write_report",
    "report.dcm": f"{HOME}.dicom_objects.write_encapsulated_pdf",
    "key_image_01.dcm": f"{HOME}.dicom_objects.render_key_images",
    "lesions.csv": f"{HOME}.write_run.records_csv",
    "comparison.csv": f"{HOME}.write_run.records_csv",
    "overview.nii.gz": f"{HOME}.write_run.overview",
    "thumbnail.png": f"{HOME}.write_run.render_thumbnail",
    "report.html": "voxmetry.report.write_report",
}
BLOB = """kind: baseline
name: blob
version: 1.0.0
summary: What is bright
inputs: [{name: image, modality: MR}]
segment: {method: threshold, low: 500}
labels: {labels: [{value: 1, name: blob, colour: "#D55E00", kind: lesion}]}
clean: [{step: largest}]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A series with one bright block, a baseline that finds it, and a reference of it."""
    root = tmp_path_factory.mktemp("study")
    grid = phantoms.geometry(shape=(24, 27, 11), frame_uid="1.2.3")
    volume = phantoms.volume(grid)
    array = volume.array.copy()
    array[8:14, 9:13, 4:7] = 900
    write_series(Volume(array, grid), root / "mr", modality="MR")
    (root / "blob.yaml").write_text(BLOB, encoding="utf-8")
    image = read_volume(root / "mr")
    mask = (image.array > 500).astype("uint8")
    save(Segmentation(mask, image.geometry, LabelTable.from_names({1: "blob"})), root / "reference.nii.gz")
    return root


def broken(error, kind=None):
    """A writer that fails; of a writer of tables only the one of this kind of row."""

    def fail(*given, **named):
        if kind is None or kind in (getattr(x, "__name__", "") for x in given):
            raise error
        return whole(*given, **named)

    from voxmetry.measurement.tables import records_csv as whole

    return fail


def expected_files(folder):
    return {path.name for path in folder.iterdir()}


ALWAYS = {"seg.nii.gz", "preview.png", "measurements.csv", "lesions.csv", "comparison.csv", "result.json"}
CASES = {
    # What fails: what was asked for, what is there beside the tables, and what is lost with it.
    "seg.dcm": (("--dicom-seg", "--sr", "--rtstruct"), {"rtstruct.dcm"}, {"sr.dcm"}),
    "rtstruct.dcm": (("--dicom-seg", "--rtstruct"), {"seg.dcm"}, set()),
    "sr.dcm": (("--sr", "--rtstruct"), {"seg.dcm", "rtstruct.dcm"}, set()),
    "report.pdf": (("--pdf", "--dicom-seg"), {"seg.dcm"}, {"report.dcm"}),
    "report.dcm": (("--pdf",), {"report.pdf"}, set()),
    "key_image_01.dcm": (("--key-images", "--dicom-seg"), {"seg.dcm"}, set()),
    "lesions.csv": (("--dicom-seg",), {"seg.dcm"}, set()),
    "comparison.csv": (("--dicom-seg",), {"seg.dcm"}, set()),
    "overview.nii.gz": (("--dicom-seg", "--report", "full"), {"seg.dcm"}, set()),
    "report.html": (("--dicom-seg", "--report", "full"), {"seg.dcm"}, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_written_and_the_one_is_named(place, tmp_path, monkeypatch, capsys, name):
    kind = {"lesions.csv": "Lesion", "comparison.csv": "Comparison"}.get(name)
    # What nobody foresaw counts like a refusal; its words may repeat a header, so they are not told.
    monkeypatch.setattr(WRITERS[name], broken(ValueError("Doe^Jane"), kind))
    options, there, following = CASES[name]
    report = () if "--report" in options else ("--report", "none")
    words = ["segment", str(place / "mr"), "-m", str(place / "blob.yaml"), "-o", str(tmp_path), *options, *report]
    assert run([*words, "--reference", str(place / "reference.nii.gz")]) == 1
    shown = {"report.html", "overview.nii.gz"} if "--report" in options else set()
    assert expected_files(tmp_path) == (ALWAYS | there | shown) - {name, *following}
    told = capsys.readouterr()
    assert f"not written: {name}: ValueError" in told.err
    assert "Doe" not in told.err + told.out
    result = read_result(tmp_path)
    assert set(result.not_written) == {name, *following}
    assert any(flag.code == "not_written" and name in flag.message for flag in result.flags)
    assert set(result.files.values()) == expected_files(tmp_path)


def test_the_report_names_what_is_missing(place, tmp_path, monkeypatch):
    monkeypatch.setattr(WRITERS["rtstruct.dcm"], broken(ValueError("x")))
    settings = StudySettings(dicom=DicomOutput(rtstruct=True))
    segment_study(place / "mr", tmp_path, place / "blob.yaml", settings=settings)
    assert "rtstruct.dcm was not written" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_thumbnail_that_cannot_be_drawn_costs_no_label_map(place, tmp_path, monkeypatch):
    monkeypatch.setattr(WRITERS["thumbnail.png"], broken(ValueError("x")))
    result = segment_study(place / "mr", tmp_path, place / "blob.yaml", settings=StudySettings(report="brief"))
    assert set(result.not_written) == {"thumbnail.png"}
    assert {"seg.nii.gz", "result.json", "report.html"} <= expected_files(tmp_path)


def test_an_object_that_cannot_lose_its_patient_is_not_left_behind(place, tmp_path, monkeypatch):
    from voxmetry.io.dicom.objects import deidentify

    whole = deidentify.deidentify

    def fail(dataset, uids, *, name="the object"):
        if dataset.Modality == "RTSTRUCT":
            raise InputError(found="a rule that fails", expected="none", fix="none")
        return whole(dataset, uids, name=name)

    monkeypatch.setattr(deidentify, "deidentify", fail)
    wanted = StudySettings(report="none", dicom=DicomOutput(seg=True, rtstruct=True, deidentify=True))
    result = segment_study(place / "mr", tmp_path, place / "blob.yaml", settings=wanted)
    assert result.not_written == {"rtstruct.dcm": "a rule that fails"}
    assert not (tmp_path / "rtstruct.dcm").exists()
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientIdentityRemoved == "YES"
    assert (tmp_path / "images.zip").exists()


def test_a_disk_without_room_for_one_file_keeps_the_others_of_a_first_run(place, tmp_path, monkeypatch):
    full = OutputError(found="rtstruct.dcm cannot be written: the disk is full", expected="room", fix="free some")
    monkeypatch.setattr(WRITERS["rtstruct.dcm"], broken(full))
    wanted = StudySettings(report="none", dicom=DicomOutput(seg=True, rtstruct=True))
    result = segment_study(place / "mr", tmp_path, place / "blob.yaml", settings=wanted)
    assert set(result.not_written) == {"rtstruct.dcm"}
    # Where an earlier run stands, it is kept whole instead.
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = wanted.model_copy(update={"overwrite": True})
    with pytest.raises(OutputError, match="the disk is full"):
        segment_study(place / "mr", tmp_path, place / "blob.yaml", settings=again)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_headers_that_the_standard_does_not_allow_cost_nothing(place, tmp_path):
    """Each value was seen in the field; highdicom refuses them, and a derived object repeats them as they are."""
    series = tmp_path / "mr"
    series.mkdir()
    wrong = {
        "PatientBirthDate": "19500000",
        "PatientSex": "U",
        "StudyDate": "2020.01.02",
        "StudyTime": "25:61",
        "PatientID": "x" * 70,
        "AccessionNumber": "y" * 20,
        "SpecificCharacterSet": "ISO_IR 999",
        "PatientAge": "45",
    }
    for path in (place / "mr").iterdir():
        with lenient():
            dataset = pydicom.dcmread(path)
            for keyword, value in wrong.items():
                setattr(dataset, keyword, value)
            dataset.save_as(series / path.name)
    out = tmp_path / "out"
    words = ["segment", str(series), "-m", str(place / "blob.yaml"), "-o", str(out), *OBJECTS, "--report", "none"]
    assert run(words) in (0, 3)
    for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm", "report.dcm", "key_image_01.dcm"):
        with lenient():
            dataset = pydicom.dcmread(out / name)
            dataset.decode()
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "PatientID", "AccessionNumber"):
            assert str(dataset[keyword].value) == wrong[keyword], (name, keyword)
