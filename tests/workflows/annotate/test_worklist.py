"""Which study comes first, and the folder that is laid out for the people who correct it."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, read_segmentation, read_volume, save
from voxmetry.core.records import Flag, PredictedDice
from voxmetry.errors import ConfigError, FormatError, InputError
from voxmetry.io import write_series
from voxmetry.io.annotations.itk_snap import read_itk_snap
from voxmetry.workflows.annotate.plan import plan_annotation
from voxmetry.workflows.annotate.worklist import next_sample, rank, read_worklist


def flag(severity, code="x", label=None):
    return Flag(code=code, severity=severity, message="m", label=label)


def dice(value):
    return (PredictedDice(label="a", expected_dice=value, predicted_dice=value, error=0.1, review_below=0.7),)


@pytest.fixture
def results(make_result):
    volume, found = phantoms.volume(), phantoms.segmentation()
    plain = make_result(volume, found)
    return {
        "sure": plain.model_copy(update={"predicted_dice": dice(0.95)}),
        "unsure": plain.model_copy(update={"predicted_dice": dice(0.75), "flags": (flag("note"),)}),
        "flagged": plain.model_copy(update={"predicted_dice": dice(0.9), "flags": (flag("review", "truncated", "a"),)}),
        "rejected": plain.model_copy(update={"predicted_dice": dice(0.99), "flags": (flag("reject"),)}),
        "unknown": plain,
    }


class TestOrder:
    def test_rejected_then_flagged_then_by_predicted_dice(self, results):
        order = rank(results)
        assert [row.case for row in order] == ["rejected", "flagged", "unsure", "sure", "unknown"]
        assert order[1].why == "truncated of a; lowest predicted Dice 0.90 (a)"
        assert order[2].score == 0.75

    def test_where_models_disagree(self, results):
        order = rank(results, "disagreement", agreement={"sure": {"a": 0.9, "b": 0.3}, "unsure": {"a": 0.8}})
        assert [row.case for row in order][:2] == ["sure", "unsure"]
        assert order[0].why == "models agree least on b: mean Dice 0.30"
        with pytest.raises(InputError, match="--other COHORT"):
            rank(results, "disagreement")

    def test_chance_is_the_same_each_time_and_no_order_of_names(self, results):
        many = {f"case {n:02}": results["unknown"] for n in range(20)}
        order = [row.case for row in rank(many, "random")]
        assert order == [row.case for row in rank(many, "random")]
        assert order != sorted(many)
        assert [row.case for row in rank(many)] == order
        assert [row.case for row in rank(many, "first")] == sorted(many)

    def test_the_next_one_for_a_client(self, results):
        assert next_sample(results).case == "rejected"
        assert next_sample(results, done=["rejected", "flagged"]).case == "unsure"
        assert next_sample(results, done=results) is None
        with pytest.raises(ConfigError, match="one of quality"):
            next_sample(results, "best")


@pytest.fixture
def cohort(tmp_path, make_result):
    """Two runs on NIfTI files and one on a DICOM series, as folders of runs."""
    images = tmp_path / "in"
    images.mkdir()
    for case, seed in (("a", 1), ("b", 2)):
        volume = phantoms.volume(seed=seed)
        save(volume, images / f"{case}.nii.gz")
        flags = (flag("review"),) if case == "b" else ()
        write_run(tmp_path / "out" / case, make_result(volume, phantoms.segmentation(), flags=flags))
    return images, tmp_path / "out"


def write_run(folder, result, found=None):
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(result.model_dump_json(), encoding="utf-8")
    save(found or phantoms.segmentation(), folder / "seg.nii.gz")


class TestFolder:
    def test_what_is_laid_out(self, cohort, tmp_path):
        images, out = cohort
        work = tmp_path / "work"
        found = plan_annotation(out, work, images=images)
        assert [(item.rank, item.case) for item in found.items] == [(1, "b"), (2, "a")]
        assert read_worklist(work) == found
        for case in "ab":
            assert (work / "images" / f"{case}.nii.gz").resolve() == images / f"{case}.nii.gz"
            own = read_segmentation(work / "labels" / "original" / f"{case}.seg.nrrd")
            assert np.array_equal(own.array, phantoms.segmentation().array)
            assert own.labels.names == ("a", "b")
        assert list((work / "labels" / "final").iterdir()) == []
        assert read_itk_snap(work / "labels.txt").values == (1, 4)
        rows = list(csv.DictReader((work / "worklist.csv").read_text().splitlines()))
        assert [row["case"] for row in rows] == ["b", "a"]
        assert rows[0]["save_as"] == "labels/final/b.seg.nrrd"
        assert any("not calibrated" in note for note in found.notes)

    def test_copies_instead_of_links(self, cohort, tmp_path):
        images, out = cohort
        plan_annotation(out, tmp_path / "work", images=images, copy=True, most=1)
        assert not (tmp_path / "work" / "images" / "b.nii.gz").is_symlink()
        assert not (tmp_path / "work" / "images" / "a.nii.gz").exists()

    def test_a_series_is_written_as_a_file_and_its_slices_are_known(self, tmp_path, make_result):
        series = tmp_path / "in" / "s"
        write_series(phantoms.volume(phantoms.geometry(frame_uid="1.2.3.4.5")), series, modality="MR")
        volume = read_volume(series)
        array = np.zeros(volume.geometry.shape, np.uint8)
        array[2:5, 3:7, 4:6] = 1
        found = Segmentation(array, volume.geometry, LabelTable.from_names({1: "a"}))
        made = make_result(volume, found)
        source = made.source.model_copy(
            update={"format": "DICOM", "series_uid": volume.source.series_uid, "frame_uid": "1.2.3.4.5"}
        )
        write_run(tmp_path / "out" / "s", made.model_copy(update={"source": source}), found)
        (item,) = plan_annotation(tmp_path / "out", tmp_path / "work", images=tmp_path / "in").items
        assert len(set(item.sop_uids)) == 11
        assert item.series_uid == volume.source.series_uid
        assert np.array_equal(read_volume(tmp_path / "work" / item.images["image"]).array, volume.array)

    def test_the_other_models_of_a_folder_tell_where_they_disagree(self, cohort, tmp_path, make_result):
        images, out = cohort
        moved = np.roll(phantoms.segmentation().array, 1, axis=0)
        other = Segmentation(moved, phantoms.geometry(), phantoms.segmentation().labels)
        for case, found in (("a", other), ("b", phantoms.segmentation())):
            write_run(tmp_path / "other" / case, make_result(phantoms.volume(), found, model="other"), found)
        found = plan_annotation(
            out, tmp_path / "work", images=images, strategy="disagreement", others=[tmp_path / "other"]
        )
        assert [item.case for item in found.items] == ["a", "b"]
        # 'a' is 3 columns wide and moved by one, 'b' is 2 wide: Dice 2/3 and 1/2.
        assert found.items[0].score == pytest.approx(0.5)
        assert found.items[1].score == 1.0

    def test_corrections_are_never_removed_with_a_list(self, cohort, tmp_path):
        images, out = cohort
        plan_annotation(out, tmp_path / "work", images=images)
        (tmp_path / "work" / "labels" / "final" / "a.nii.gz").write_text("mine")
        with pytest.raises(FormatError, match="1 corrections"):
            plan_annotation(out, tmp_path / "work", images=images, overwrite=True)
        assert (tmp_path / "work" / "labels" / "final" / "a.nii.gz").read_text() == "mine"

    def test_several_models_and_none_named(self, cohort, tmp_path, make_result):
        images, out = cohort
        write_run(out / "c", make_result(phantoms.volume(), phantoms.segmentation(), model="other"))
        with pytest.raises(InputError, match=r"(?s)2 models: hippocampus-mr, other.*--model"):
            plan_annotation(out, tmp_path / "work", images=images)

    def test_a_folder_without_runs(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no finished run in empty"):
            plan_annotation(tmp_path / "empty", tmp_path / "work")


def test_without_images_the_list_says_so(cohort, tmp_path):
    _, out = cohort
    found = plan_annotation(out, tmp_path / "work")
    assert all(item.images == {} for item in found.items)
    assert math.isnan(found.items[0].score)
