"""One rule for which structure is which, in every verb that holds two label maps against each other."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from voxmetry import Geometry, LabelTable, Segmentation, save
from voxmetry.cli import run

GRID = Geometry(np.diag([1.0, 1.2, 2.0, 1]), (30, 28, 16))


def ball(radius, centre=(15, 14, 8)):
    places = np.indices(GRID.shape).reshape(3, -1).T * GRID.spacing_mm
    inside = np.linalg.norm(places - np.multiply(centre, GRID.spacing_mm), axis=1) <= radius
    return inside.reshape(GRID.shape).astype(np.uint8)


def named(path, array, names, lesion=None):
    table = LabelTable.from_names(names)
    save(Segmentation(array, GRID, table.with_kind(lesion, "lesion") if lesion else table), path)
    return str(path)


def plain(path, array):
    nib.save(nib.Nifti1Image(array, GRID.affine), path)
    return str(path)


def told(capsys, *arguments):
    """Run a verb and return its exit code and what it printed as JSON, or its words."""
    code = run([*arguments, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out.strip() else {}


class TestFollowUp:
    def verb(self, capsys, before, after, *more):
        return told(capsys, "follow-up", before, after, "--registration", "none", *more)

    def test_a_follow_up_without_names_is_no_complete_response(self, tmp_path, capsys):
        before = named(tmp_path / "a.nii.gz", ball(8), {1: "tumour"}, "tumour")
        after = plain(tmp_path / "b.nii.gz", ball(8))
        code, found = self.verb(capsys, before, after)
        assert code in (0, 3)
        assert [(row["status"], row["label"]) for row in found["changes"]] == [("matched", "tumour")]
        assert found["response"]["category"] == "SD"

    def test_a_baseline_without_names_makes_no_new_lesion(self, tmp_path, capsys):
        before = plain(tmp_path / "a.nii.gz", ball(8))
        after = named(tmp_path / "b.nii.gz", ball(8), {1: "tumour"}, "tumour")
        _, found = self.verb(capsys, before, after)
        assert [row["status"] for row in found["changes"]] == ["matched"]
        assert found["response"]["new_lesions"] == []

    def test_an_empty_follow_up_without_names_is_a_complete_response(self, tmp_path, capsys):
        before = named(tmp_path / "a.nii.gz", ball(8), {1: "tumour"}, "tumour")
        _, found = self.verb(capsys, before, plain(tmp_path / "b.nii.gz", ball(8) * 0))
        assert found["response"]["category"] == "CR"

    @pytest.mark.parametrize("lesion", [(), ("--lesion", "tumour")])
    def test_another_name_is_refused_until_it_is_mapped(self, tmp_path, capsys, lesion):
        before = named(tmp_path / "a.nii.gz", ball(8), {1: "tumour"}, "tumour")
        after = named(tmp_path / "b.nii.gz", ball(8), {1: "GTV"})
        code, error = self.verb(capsys, before, after, *lesion)
        assert code == 1
        assert "only one of the two time points knows: tumour" in error["found"]
        assert "--map" in error["fix"]
        _, found = self.verb(capsys, before, after, *lesion, "--map", "GTV=tumour")
        assert [row["status"] for row in found["changes"]] == ["matched"]

    def test_a_lesion_by_its_value(self, tmp_path, capsys):
        before, after = plain(tmp_path / "a.nii.gz", ball(8)), plain(tmp_path / "b.nii.gz", ball(6))
        _, found = self.verb(capsys, before, after, "--lesion", "1")
        assert [(row["status"], row["label"]) for row in found["changes"]] == [("matched", "label_1")]


class TestCompare:
    def verb(self, capsys, ours, theirs, *more):
        return told(capsys, "compare", "--prediction", ours, "--reference", theirs, *more)

    def test_a_structure_that_the_reference_calls_otherwise_is_not_missed(self, tmp_path, capsys):
        ours = named(tmp_path / "a.nii.gz", ball(8), {1: "tumour"})
        theirs = named(tmp_path / "b.nii.gz", ball(7), {1: "GTV_Mass_CT"})
        code, error = self.verb(capsys, ours, theirs, "--label", "tumour")
        assert code == 1
        assert "only one of the two label tables: tumour" in error["found"]
        code, found = self.verb(capsys, ours, theirs, "--label", "tumour", "--map", "GTV_Mass_CT=tumour")
        a, b = (np.count_nonzero(ball(radius)) for radius in (8, 7))
        assert found["comparisons"][0]["dice"] == pytest.approx(2 * b / (a + b))

    def test_what_the_reference_does_not_know_is_named(self, tmp_path, capsys):
        ours = named(tmp_path / "a.nii.gz", ball(8) + ball(3), {1: "tumour", 2: "core"})
        theirs = named(tmp_path / "b.nii.gz", ball(8), {1: "tumour"})
        assert run(["compare", "--prediction", ours, "--reference", theirs]) == 0
        out = capsys.readouterr().out
        assert "not compared, as the reference does not know it: core" in out
        _, found = self.verb(capsys, ours, theirs)
        assert [row["label"] for row in found["comparisons"]] == ["tumour"]

    def test_a_reference_that_is_larger_by_an_empty_row(self, tmp_path, capsys):
        ours = named(tmp_path / "a.nii.gz", ball(8), {1: "tumour"})
        larger = np.pad(ball(8), ((1, 0), (0, 0), (0, 2)))
        affine = GRID.affine.copy()
        affine[0, 3] -= GRID.spacing_mm[0]
        nib.save(nib.Nifti1Image(larger, affine), tmp_path / "b.nii.gz")
        _, found = self.verb(capsys, ours, str(tmp_path / "b.nii.gz"))
        assert found["comparisons"][0]["dice"] == 1.0


class TestMeasure:
    def test_an_image_is_no_label_map(self, tmp_path, capsys):
        rng = np.random.default_rng(0)
        image = plain(tmp_path / "mr.nii.gz", rng.integers(0, 130, GRID.shape).astype(np.int16))
        code, error = told(capsys, "measure", image)
        assert code == 1
        assert "values without a label table, like an image" in error["found"]
        assert told(capsys, "measure", image, "--as-labels")[0] == 0

    def test_what_a_verb_cannot_take_for_a_label_map_convert_makes_one(self, tmp_path, capsys):
        values = np.random.default_rng(0).integers(0, 130, GRID.shape).astype(np.int16)
        ours, labels = plain(tmp_path / "many.nii.gz", values), str(tmp_path / "labels.nii.gz")
        code, error = told(capsys, "compare", ours, ours)
        assert code == 1
        assert error["fix"].startswith("pass the label map, not the image")
        assert error["fix"].endswith("write a file first: voxmetry convert SOURCE TARGET, with --as-labels")
        assert told(capsys, "convert", ours, labels, "--as-labels")[0] == 0
        assert told(capsys, "compare", labels, labels, "--label", "label_5")[0] == 0

    def test_a_smooth_image_is_none_either(self, tmp_path, capsys):
        ramp = np.broadcast_to(np.arange(30)[:, None, None] * 4 + np.arange(16), GRID.shape).astype(np.uint8)
        assert told(capsys, "measure", plain(tmp_path / "mr.nii.gz", ramp))[0] == 1

    def test_many_structures_are_a_label_map(self, tmp_path, capsys):
        parts = np.indices(GRID.shape) // np.array([6, 6, 4]).reshape(3, 1, 1, 1)
        labels = (1 + parts[0] + 5 * parts[1] + 25 * parts[2]).astype(np.uint8)
        code, found = told(capsys, "measure", plain(tmp_path / "labels.nii.gz", labels))
        assert code == 0
        assert len(found["measurements"]) == 100

    def test_names_and_lesions_by_value(self, tmp_path, capsys):
        path = plain(tmp_path / "a.nii.gz", ball(8))
        _, found = told(capsys, "measure", path, "--lesion", "1")
        assert [row["id"] for row in found["lesions"]] == ["label_1-1"]
        _, found = told(capsys, "measure", path, "--map", "1=tumour", "--lesion", "tumour")
        assert [row["id"] for row in found["lesions"]] == ["tumour-1"]

    def test_a_label_map_larger_than_its_image_by_an_empty_row(self, tmp_path, capsys):
        image = plain(tmp_path / "image.nii.gz", np.full(GRID.shape, 7, np.int16))
        larger = plain(tmp_path / "a.nii.gz", np.pad(ball(8), ((0, 1), (0, 0), (0, 0))))
        code, found = told(capsys, "measure", larger, "--image", image)
        assert code == 0
        assert found["measurements"][0]["n_voxels"] == np.count_nonzero(ball(8))
        outside = np.pad(ball(8), ((0, 1), (0, 0), (0, 0)))
        outside[-1, 3, 3] = 1
        code, error = told(capsys, "measure", plain(tmp_path / "b.nii.gz", outside), "--image", image)
        assert code == 1
        assert "1 labelled voxels outside the image" in error["found"]


def test_convert_gives_other_names(tmp_path, capsys):
    from voxmetry import read_segmentation

    source = plain(tmp_path / "a.nii.gz", ball(8))
    assert run(["convert", source, str(tmp_path / "b.nrrd"), "--map", "1=tumour"]) == 0
    assert read_segmentation(tmp_path / "b.nrrd").labels.names == ("tumour",)


@pytest.mark.parametrize("pair", ["tumour", "=tumour", "GTV="])
def test_a_map_that_is_none(tmp_path, capsys, pair):
    code, error = told(capsys, "measure", plain(tmp_path / "a.nii.gz", ball(8)), "--map", pair)
    assert code == 2
    assert "THEIRS=OURS" in error["expected"]
