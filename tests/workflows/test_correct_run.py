"""A run renewed from a person's correction: all that is said of it, or nothing changed."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, StudySettings, read_segmentation, read_volume, save
from voxmetry.cli import run
from voxmetry.config import DicomOutput
from voxmetry.core.labels import Label
from voxmetry.core.records import Flag, PredictedDice, StudyResult
from voxmetry.errors import GeometryError, InputError, LabelError, OutputError
from voxmetry.io import write_series
from voxmetry.report import write_report
from voxmetry.workflows import correct_run as correct_module
from voxmetry.workflows import correction as correction_module
from voxmetry.workflows.cohort.database import CohortRecord, read_progress, reading
from voxmetry.workflows.cohort.progress import mark_of, progress_of
from voxmetry.workflows.cohort.records import Candidate, Outcome, PlannedStudy, RunSettings
from voxmetry.workflows.correct_run import correct_run
from voxmetry.workflows.correction import CorrectionOptions

BY = CorrectionOptions(author="Reader A", made="2026-11-28T09:30:00+00:00")


def boxes(grid, *, last=5):
    """'a' (value 1) of 3 x 4 x 2 voxels up to column `last`, 'b' (value 4) of 2 x 4 x 2; nothing at the border."""
    array = np.zeros(grid.shape, np.uint8)
    array[2:last, 3:7, 4:6] = 1
    array[7:9, 3:7, 4:6] = 4
    return Segmentation(array, grid, LabelTable.from_names({1: "a", 4: "b"}))


@pytest.fixture
def study(tmp_path, make_result):
    """A run on a DICOM series, as far as a correction needs it: an image, a folder, the label map."""
    series = tmp_path / "series"
    write_series(phantoms.volume(phantoms.geometry(frame_uid="1.2.3.4.5.6")), series, modality="MR")
    volume = read_volume(series)
    found = boxes(volume.geometry)
    flags = (
        Flag(code="low_predicted_dice", severity="review", message="a: predicted Dice 0.4.", label="a"),
        Flag(code="spacing_out_of_domain", severity="review", message="The voxel size is outside."),
    )
    settings = StudySettings(dicom=DicomOutput(seg=True, rtstruct=True, sr=True))
    made = make_result(volume, found, flags=flags, settings=settings.model_dump(mode="json"))
    source = made.source.model_copy(
        update={"format": "DICOM", "series_uid": volume.source.series_uid, "frame_uid": volume.geometry.frame_uid}
    )
    predicted = (PredictedDice(label="a", expected_dice=0.5, predicted_dice=0.4, error=0.1, review_below=0.7),)
    made = made.model_copy(update={"source": source, "predicted_dice": predicted})
    out = tmp_path / "out"
    out.mkdir()
    (out / "result.json").write_text(made.model_dump_json(), encoding="utf-8")
    save(found, out / "seg.nii.gz")
    write_report(made, out / "report.html", volume=volume, segmentation=found)
    write_report(made, out / "report.de.html", volume=volume, segmentation=found, language="de")
    return series, out, found


def corrected(tmp_path, found, *, last=6, name="corrected.nii.gz"):
    path = tmp_path / name
    save(boxes(found.geometry, last=last), path)
    return path


def state(folder):
    return {x.name: hashlib.sha256(x.read_bytes()).hexdigest() for x in folder.iterdir() if x.is_file()}


def test_all_that_is_said_of_a_run_is_renewed(study, tmp_path):
    series, out, found = study
    ml = found.geometry.voxel_ml
    correct_run(out, corrected(tmp_path, found), [series], BY)
    result = StudyResult.model_validate_json((out / "result.json").read_text(encoding="utf-8"))
    a, b = result.correction.structures
    assert (a.label, a.status, b.status) == ("a", "changed", "unchanged")
    # 3 x 4 x 2 voxels became 4 x 4 x 2.
    assert (a.volume_before_ml, a.volume_after_ml) == pytest.approx((24 * ml, 32 * ml))
    assert (a.added_ml, a.removed_ml) == pytest.approx((8 * ml, 0.0))
    assert a.dice == pytest.approx(2 * 24 / (24 + 32))
    assert [row.volume_ml for row in result.measurements] == pytest.approx([32 * ml, 16 * ml])
    assert (result.correction.author, result.correction.made) == ("Reader A", "2026-11-28T09:30:00+00:00")
    assert (result.correction.model, result.predicted_dice) == ("hippocampus-mr", ())
    # What was said of the model's map is not said of the corrected one; what was said of the image is.
    assert [flag.code for flag in result.flags] == ["corrected", "spacing_out_of_domain"]
    assert np.array_equal(read_segmentation(out / "model_seg.nii.gz").array, found.array)
    assert int((read_segmentation(out / "seg.nii.gz").array == 1).sum()) == 32
    rows = (out / "correction.csv").read_text().splitlines()
    assert rows[0].startswith("label,value,status,volume_before_ml,volume_after_ml")
    assert rows[1].startswith("a,1,changed,")
    for name, word in (("report.html", "Corrected by"), ("report.de.html", "Korrigiert von")):
        html = (out / name).read_text(encoding="utf-8")
        assert word in html
        assert "Reader A" in html
        assert 'id="correction-table"' in html


def test_the_dicom_objects_name_the_person(study, tmp_path):
    series, out, found = study
    correct_run(out, corrected(tmp_path, found), [series], BY)
    seg, contours, report = (pydicom.dcmread(out / name) for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"))
    assert {x.SegmentAlgorithmType for x in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    assert str(seg.ContentCreatorName).startswith("Reader A")
    assert str(contours.OperatorsName).startswith("Reader A")
    assert {x.ROIGenerationAlgorithm for x in contours.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    names = [str(x.PersonName) for x in report.ContentSequence if "PersonName" in x]
    assert [name.rstrip("^") for name in names] == ["Reader A"]
    volume = read_volume(series)
    back = read_segmentation(out / "seg.dcm", found.labels, image=volume)
    assert np.array_equal(back.array, boxes(found.geometry, last=6).array)


def test_a_second_correction_is_one_of_the_models_map_again(study, tmp_path):
    series, out, found = study
    correct_run(out, corrected(tmp_path, found), [series], BY)
    result = correct_run(out, corrected(tmp_path, found, last=7, name="again.nii.gz"), [series], BY)
    ml = found.geometry.voxel_ml
    assert result.correction.structures[0].volume_before_ml == pytest.approx(24 * ml)
    assert result.correction.structures[0].volume_after_ml == pytest.approx(40 * ml)
    assert np.array_equal(read_segmentation(out / "model_seg.nii.gz").array, found.array)


def test_the_objects_of_a_run_can_be_corrected_and_sent_back(study, tmp_path):
    series, out, found = study
    correct_run(out, corrected(tmp_path, found), [series], BY)
    for name in ("seg.dcm", "rtstruct.dcm"):
        sent = tmp_path / name
        sent.write_bytes((out / name).read_bytes())
        result = correct_run(out, sent, [series], CorrectionOptions())
        assert result.correction.author == "Reader A"
        assert result.correction.structures[0].volume_after_ml == pytest.approx(32 * found.geometry.voxel_ml)


def test_a_failure_leaves_the_run_as_it_was(study, tmp_path, monkeypatch):
    series, out, found = study
    before = state(out)

    def fail(*_, **__):
        raise OutputError(found="the disk is full", expected="room", fix="free some space")

    monkeypatch.setattr(correct_module, "write_outputs", fail)
    with pytest.raises(OutputError):
        correct_run(out, corrected(tmp_path, found), [series], BY)
    assert state(out) == before


class TestRefusals:
    def refuse(self, study, path, error, match, how=BY):
        series, out, _ = study
        before = state(out)
        with pytest.raises(error, match=match):
            correct_run(out, path, [series], how)
        assert state(out) == before

    def test_another_grid(self, study, tmp_path):
        _, _, found = study
        grid = phantoms.geometry(origin_mm=(0.0, 0.0, 0.0), shape=found.geometry.shape)
        save(boxes(grid), tmp_path / "x.nii.gz")
        self.refuse(study, tmp_path / "x.nii.gz", GeometryError, r"x\.nii\.gz and the image lie on different grids")

    def test_another_image_of_the_same_grid(self, study, tmp_path):
        _, out, found = study
        other = tmp_path / "other"
        write_series(
            phantoms.volume(phantoms.geometry(frame_uid="1.2.3.4.5.6"), seed=5),
            other,
            modality="MR",
            series_uid="1.2.9",
        )
        text = (out / "result.json").read_text()
        (out / "result.json").write_text(text.replace(read_volume(study[0]).source.series_uid, "1.2.9"))
        with pytest.raises(InputError, match="another image: a has a mean"):
            correct_run(out, corrected(tmp_path, found), [other], BY)

    def test_an_unknown_structure(self, study, tmp_path):
        _, _, found = study
        table = LabelTable.from_names({1: "a", 4: "c"})
        save(Segmentation(found.array, found.geometry, table), tmp_path / "x.nii.gz")
        self.refuse(study, tmp_path / "x.nii.gz", LabelError, r"(?s)does not know: c.*only a, b.*--map")
        series, out, _ = study
        how = CorrectionOptions(author="A", names={"c": "b"})
        assert correct_run(out, tmp_path / "x.nii.gz", [series], how).correction.is_unchanged

    def test_nothing_in_it(self, study, tmp_path):
        _, _, found = study
        save(Segmentation(np.zeros_like(found.array), found.geometry, found.labels), tmp_path / "x.nii.gz")
        self.refuse(study, tmp_path / "x.nii.gz", InputError, r"(?s)is empty.*--allow-empty")

    def test_nothing_shared(self, study, tmp_path):
        _, _, found = study
        array = np.zeros_like(found.array)
        array[10:12, 12:15, 8:10] = 1
        save(Segmentation(array, found.geometry, found.labels), tmp_path / "x.nii.gz")
        self.refuse(study, tmp_path / "x.nii.gz", GeometryError, r"(?s)shares no voxel.*--allow-elsewhere")

    def test_nobody_who_made_it(self, study, tmp_path):
        self.refuse(study, corrected(tmp_path, study[2]), InputError, "says who made", CorrectionOptions())

    def test_a_file_that_changes(self, study, tmp_path, monkeypatch):
        path = corrected(tmp_path, study[2])
        own = correction_module.read_segmentation

        def saved_meanwhile(*given, **named):
            found = own(*given, **named)
            save(boxes(study[2].geometry, last=7), path)
            return found

        monkeypatch.setattr(correction_module, "read_segmentation", saved_meanwhile)
        self.refuse(study, path, InputError, "changed while it was read")

    def test_a_segmentation_of_another_series(self, study, tmp_path):
        series, out, found = study
        correct_run(out, corrected(tmp_path, found), [series], BY)
        data = pydicom.dcmread(out / "seg.dcm")
        data.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.77"
        data.save_as(tmp_path / "x.dcm")
        self.refuse(study, tmp_path / "x.dcm", InputError, "refers to another series")

    def test_structures_that_overlap(self, study, tmp_path):
        from voxmetry.io.seg_nrrd import write_seg_nrrd

        _, _, found = study
        tables = [LabelTable(labels=(label,)) for label in found.labels]
        one, two = (np.where(found.array == x.labels[0].value, x.labels[0].value, 0).astype(np.uint8) for x in tables)
        two[4, 3:7, 4:6] = 4
        layers = [Segmentation(x, found.geometry, t) for x, t in zip((one, two), tables, strict=True)]
        write_seg_nrrd(layers, tmp_path / "x.seg.nrrd")
        self.refuse(study, tmp_path / "x.seg.nrrd", LabelError, "structures overlap: a and b")


def test_lesions_that_came_back_one_by_one_are_one_structure_again(study, tmp_path):
    _, out, found = study
    table = LabelTable(
        labels=(Label(value=7, name="b 1", colour="#FF0000"), Label(value=8, name="b 2", colour="#00FF00"))
    )
    array = np.zeros_like(found.array)
    array[7] = np.where(found.array[7] == 4, 7, 0)
    array[8] = np.where(found.array[8] == 4, 8, 0)
    save(Segmentation(array, found.geometry, table), tmp_path / "x.nii.gz")
    text = (out / "result.json").read_text()
    content = json.loads(text)
    content["labels"]["labels"][1]["kind"] = "lesion"
    (out / "result.json").write_text(json.dumps(content))
    result = correct_run(out, tmp_path / "x.nii.gz", [study[0]], BY)
    assert [x.status for x in result.correction.structures] == ["removed", "unchanged"]


def test_the_record_of_a_cohort_follows_and_no_run_replaces_a_correction(study, tmp_path):
    series, out, found = study
    root = tmp_path / "cohort"
    (root / "tiny").mkdir(parents=True)
    place = root / "tiny" / "case"
    out.rename(place)
    planned = PlannedStudy(
        case="case", model="tiny", state="waiting", recipe="r", candidate=Candidate(case="case", path=str(series))
    )
    before = StudyResult.model_validate_json((place / "result.json").read_text(encoding="utf-8"))
    marks = {
        "tiny/case/result.json": mark_of(place / "result.json"),
        "tiny/case/seg.nii.gz": mark_of(place / "seg.nii.gz"),
    }
    outcome = Outcome(
        case="case", model="tiny", state="done", place="tiny/case", files=marks, measurements=before.measurements
    )
    with CohortRecord(root) as record:
        record.begin("run", settings="", host="h", pid=1, studies=[planned])
        record.finished(outcome, run="run")
    correct_run(place, corrected(tmp_path, found), [series], BY)
    with reading(root) as db:
        rows = db.execute("SELECT label, volume_ml FROM measurements ORDER BY value").fetchall()
    ml = found.geometry.voxel_ml
    assert [(row["label"], row["volume_ml"]) for row in rows] == [
        ("a", pytest.approx(32 * ml)),
        ("b", pytest.approx(16 * ml)),
    ]
    done = read_progress(root)[("case", "tiny")]
    # The same recipe: it is done, and its files are as the record says.
    assert progress_of(planned, done, root, RunSettings()).state == "done"
    # Another model or a damaged file: it would run, and replace what a person did.
    again = progress_of(planned.model_copy(update={"recipe": "r2"}), done, root, RunSettings())
    assert again.state == "refused"
    assert "corrected by a person" in again.fault.found
    (place / "seg.nii.gz").write_bytes(b"x")
    assert progress_of(planned, done, root, RunSettings()).state == "refused"


def test_instances_are_told_apart_anew(study, tmp_path):
    series, out, found = study
    content = json.loads((out / "result.json").read_text())
    content["instances_by"] = "components"
    (out / "result.json").write_text(json.dumps(content))
    array = found.array.copy()
    array[10:12, 12:15, 2:4] = 1
    save(Segmentation(array, found.geometry, found.labels), tmp_path / "x.nii.gz")
    result = correct_run(out, tmp_path / "x.nii.gz", [series], BY)
    assert sorted(row.n_voxels for row in result.instances if row.label == "a") == [12, 24]
    assert (out / "instances.nii.gz").is_file()


def test_the_command_line(study, tmp_path, capsys):
    series, out, found = study
    path = corrected(tmp_path, found)
    words = ["report", str(out), "--segmentation", str(path), "--image", str(series), "--author", "Reader A"]
    assert run(words) == 3
    shown = capsys.readouterr().out
    assert "mL before" in shown
    assert "by Reader A" in shown
    assert run(words[:4]) == 1
    assert "--image" in capsys.readouterr().err
    assert run(["report", str(out), "--author", "x"]) == 2
