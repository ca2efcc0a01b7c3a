"""Nothing in one directory entry, header, name or file stops the others, or writes beside its own folder."""

import os
import sqlite3
import stat

import pytest

import bad_entries
from voxmetry import save
from voxmetry.cli import run
from voxmetry.core.text import inside
from voxmetry.io import write_series
from voxmetry.workflows.cohort import cohort
from voxmetry.workflows.cohort.discover import find_studies
from voxmetry.workflows.cohort.export import export_tables
from voxmetry.workflows.cohort.layout import folders_place
from voxmetry.workflows.cohort.manifest import read_manifest
from voxmetry.workflows.cohort.plan import plan_cohort
from voxmetry.workflows.cohort.records import RunSettings

from .conftest import image

LIGHT = RunSettings.model_validate({"study": {"report": "none", "device": "cpu"}})


def manifest(folder, *rows):
    path = folder / "list.csv"
    path.write_text("\n".join(["study,case", *rows]) + "\n")
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_of_every_kind_of_bad_entry_each_is_a_row_and_the_good_ones_are_done(studies, tiny, tmp_path, threads):
    expected = bad_entries.make_odd(studies)
    outcomes = list(cohort(studies, tmp_path / "out", tiny, settings=LIGHT))
    assert sum(outcome.state == "done" for outcome in outcomes) == 4
    bad_entries.check(tmp_path / "out", 4, expected, 0)


def test_a_folder_that_cannot_be_opened_is_a_row(studies, monkeypatch, tmp_path):
    closed = studies / "closed"
    closed.mkdir()
    real = os.scandir

    def scandir(path):
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(closed))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    rows = {one.case: one.fault for one in find_studies(studies).candidates}
    assert "cannot be opened: Permission denied" in rows["closed"].found
    assert [case for case, fault in rows.items() if fault is None] == ["a", "b", "site_b/c", "site_b/d"]


def test_a_header_reader_that_fails_as_nobody_foresaw_costs_one_study(studies, monkeypatch):
    from voxmetry.io import nifti

    real = nifti.read_nifti_grid

    def read(path):
        if path.name == "b.nii.gz":
            raise ZeroDivisionError("DOE^JANE")
        return real(path)

    monkeypatch.setattr(nifti, "read_nifti_grid", read)
    rows = {one.case: one.fault for one in find_studies(studies).candidates}
    assert "ZeroDivisionError" in rows["b"].found
    assert "DOE" not in rows["b"].found
    assert sum(fault is None for fault in rows.values()) == 3


def test_the_case_of_a_manifest_stays_inside_the_folder(studies, tiny, tmp_path, threads):
    other = tmp_path / "other_project"
    other.mkdir()
    for name in ("report.pdf", "seg.dcm", "lesions.csv", "result.json"):
        (other / name).write_text("mine")
    names = ["../../other_project", "..", "/tmp/x", "a/../../../other_project", ".voxmetry", "seg.nii.gz", "x\\..\\y"]
    path = manifest(studies, *(f"{'a' if n == 0 else f'copy{n}'}.nii.gz,{name}" for n, name in enumerate(names)))
    for n in range(1, len(names)):
        save(image(20 + n), studies / f"copy{n}.nii.gz")
    before = {p: p.read_bytes() for p in other.iterdir()}
    outcomes = list(cohort(path, tmp_path / "results" / "out", tiny, settings=LIGHT))
    assert [outcome.state for outcome in outcomes] == ["done"] * len(names)
    assert {p: p.read_bytes() for p in other.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"in", "results", "other_project"}
    assert [p.name for p in (tmp_path / "results").iterdir()] == ["out"]
    found = sorted((tmp_path / "results").rglob("result.json"))
    assert len(found) == len(names)
    for outcome in outcomes:
        assert (tmp_path / "results" / "out" / outcome.place / "result.json").is_file()


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/..", "/", "", ".", "a//b", "con", "x" * 4000, "a/" * 300, "\x00", "\u202e", "é" * 200, "~"],
)
def test_any_name_is_a_path_inside_that_can_be_made(name, tmp_path):
    place = tmp_path / inside(name)
    assert tmp_path in place.parents
    assert ".." not in place.parts
    place.mkdir(parents=True)


def test_names_that_are_changed_stay_apart():
    names = ["a?", "a*", "a:", "a_", "../a", "/a", "a"]
    assert len({folders_place("m", name) for name in names}) == len(names)
    assert folders_place("m", "site a/case [7]") == "m/site a/case [7]"


def test_a_line_whose_folder_is_gone_is_not_given_the_series_beside_it(tmp_path):
    write_series(image(1), tmp_path / "ct", modality="MR")
    (one,) = read_manifest(manifest(tmp_path, "gone,first"))
    assert one.fault is not None
    assert "gone cannot be read" in one.fault.found


def test_a_line_that_names_one_dicom_file_is_its_series_alone(tmp_path):
    first = write_series(image(1), tmp_path / "in", modality="MR")
    for n, path in enumerate(write_series(image(2), tmp_path / "other", modality="MR")):
        path.rename(tmp_path / "in" / f"other{n}.dcm")
    (one,) = read_manifest(manifest(tmp_path, f"in/{first[3].name},first"))
    assert one.fault is None
    (two,) = read_manifest(manifest(tmp_path, "in/other2.dcm,second"))
    assert {one.series, two.series} == {x.series for x in find_studies(tmp_path / "in").candidates}


def test_label_folders_are_left_out_with_a_word(studies, tiny, tmp_path, capsys):
    for folder in ("images", "labels", "case/segmentations"):
        (studies / folder).mkdir(parents=True)
        save(image(40), studies / folder / "one.nii.gz")
    save(image(41), studies / "case" / "ct.nii.gz")
    plan = plan_cohort(studies, tmp_path / "out", [str(tiny)])
    cases = {study.case for study in plan.studies}
    assert {"images/one", "case/ct"} <= cases
    assert not {"labels/one", "case/segmentations/one"} & cases
    assert [note.split(":")[0] for note in plan.notes] == [
        "1 label map in case/segmentations beside the images",
        "1 label map in labels beside the images",
    ]
    run(["cohort", "plan", str(studies), "-m", str(tiny), "-o", str(tmp_path / "out")])
    assert "not counted as studies" in capsys.readouterr().out


def test_a_folder_of_labels_without_images_is_looked_into(tmp_path, tiny):
    (tmp_path / "labels").mkdir()
    save(image(1), tmp_path / "labels" / "one.nii.gz")
    assert [one.case for one in find_studies(tmp_path).candidates] == ["labels/one"]


def test_the_record_holds_no_path_and_no_description(studies, tiny, tmp_path, threads):
    write_series(image(7), studies / "dicom", modality="MR", description="MRS DOE HEAD")
    out = tmp_path / "out"
    list(cohort(studies, out, tiny, settings=LIGHT))
    with sqlite3.connect(out / "cohort.sqlite") as db:
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = (out / "cohort.sqlite").read_bytes()
    assert b"DOE" not in content
    assert str(studies).encode() not in content
    assert str(studies).encode() not in (out / ".voxmetry" / "headers.sqlite").read_bytes()
    # What the headers said is still known, and the series found where it lies now.
    again = plan_cohort(studies, out, [str(tiny)], settings=LIGHT)
    assert {study.state for study in again.studies} == {"done"}
    assert {study.candidate.path for study in again.studies if study.candidate.format == "DICOM"} == {
        str(studies / "dicom")
    }


def test_a_file_that_changes_while_it_is_read_is_a_row(studies, tiny, tmp_path, threads, monkeypatch):
    from voxmetry.workflows import inputs

    real = inputs.read_input

    def read(path, *rest):
        volume = real(path, *rest)
        if path.name == "b.nii.gz":
            save(image(77), path)
        return volume

    monkeypatch.setattr(inputs, "read_input", read)
    outcomes = {one.case: one for one in cohort(studies, tmp_path / "out", tiny, settings=LIGHT)}
    assert outcomes["b"].state == "failed"
    assert "changed while" in outcomes["b"].fault.found
    assert [one.state for case, one in outcomes.items() if case != "b"] == ["done"] * 3
    assert not list((tmp_path / "out").rglob("b/result.json"))


def test_a_sidecar_that_is_a_pipe_or_nested_without_end_is_the_reason_of_its_image(tmp_path):
    from voxmetry.workflows.cohort.bids import find_bids

    folder = tmp_path / "sub-01" / "anat"
    folder.mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text("{}")
    save(image(1), folder / "sub-01_T1w.nii.gz")
    save(image(2), folder / "sub-01_run-2_T1w.nii.gz")
    (folder / "sub-01_run-2_T1w.json").write_text("[" * 100_000)
    os.mkfifo(folder / "sub-01_run-3_T1w.nii.gz")
    os.mkfifo(folder / "sub-01_T1w.json")
    assert stat.S_ISFIFO((folder / "sub-01_T1w.json").stat().st_mode)
    rows = {one.case.rsplit("/")[-1]: one.fault for one in find_bids(tmp_path)}
    assert "named pipe" in rows["sub-01_run-3_T1w"].found
    assert all(fault is not None for fault in rows.values())


def test_a_model_whose_name_is_a_path_stays_inside(tmp_path):
    assert folders_place("../../x", "a") == "_x/a"


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
@pytest.mark.parametrize("name", [b"a#b?c=%41", b"folder_\xff", b"file:x"])
def test_the_results_may_lie_in_a_folder_of_any_name(studies, tiny, tmp_path, threads, name):
    """The record is opened by a URI, and a table's path was taken for one."""
    out = tmp_path / os.fsdecode(name)
    outcomes = list(cohort(studies, out, tiny, settings=LIGHT))
    assert sum(outcome.state == "done" for outcome in outcomes) == 4
    export_tables(out)
    assert {"cohort.sqlite", "measurements.parquet"} <= {entry.name for entry in out.iterdir()}


def test_a_link_that_leads_nowhere_and_is_no_image_costs_no_study(studies):
    """Beside the slices of a series, `notes.txt` that is gone made the whole series one that cannot be read."""
    write_series(image(7), studies / "series", modality="MR")
    (studies / "series" / "notes.txt").symlink_to("gone")
    rows = {one.case: one.fault for one in find_studies(studies).candidates}
    assert rows["series"] is None
    assert not any("notes" in case for case in rows)


def test_a_worker_that_cannot_be_started_is_told_in_words(studies, tiny, tmp_path, monkeypatch):
    from voxmetry.errors import InferenceError
    from voxmetry.workflows.cohort import local

    def refuse(*_args, **_named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local.subprocess, "Popen", refuse)
    with pytest.raises(InferenceError, match="a worker cannot be started: Permission denied"):
        list(cohort(studies, tmp_path / "out", tiny, settings=LIGHT))
