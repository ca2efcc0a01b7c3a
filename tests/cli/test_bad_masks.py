"""What is no usable label map gives an error in words or the right number, from each verb, and never a wrong one."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, Segmentation, save
from voxmetry.cli import run

VERBS = ("measure", "compare", "follow-up")


@pytest.fixture
def good(tmp_path):
    made = phantoms.segmentation()
    table = made.labels.with_kind("b", "lesion")
    path = tmp_path / "good.nii.gz"
    save(Segmentation(made.array, made.geometry, table), path)
    return path


def plain(path, array, affine=None):
    """A NIfTI file of another tool: no label table inside."""
    image = nib.Nifti1Image(array, phantoms.geometry().affine if affine is None else affine)
    image.set_qform(None, code=0)
    image.set_sform(image.affine, code=1)
    nib.save(image, path)
    return path


def arguments(verb, bad, good):
    if verb == "measure":
        return [verb, str(bad)]
    if verb == "compare":
        return [verb, "--prediction", str(bad), "--reference", str(good)]
    return [verb, str(good), str(bad), "--registration", "none"]


def refused(capsys, verb, bad, good):
    assert run([*arguments(verb, bad, good), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {"error", "found", "expected", "fix"} <= set(told)
    return told["found"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "fractions"), (np.nan, "NaN"), (np.inf, "infinite"), (-1, "negative"), (70000, "70000")]
)
def test_values_that_are_no_labels(capsys, tmp_path, good, verb, value, words):
    array = phantoms.segmentation().array.astype(np.float32)
    array[2, 3, 4] = value
    found = refused(capsys, verb, plain(tmp_path / "bad.nii.gz", array), good)
    assert words in found
    assert "bad.nii.gz" in found


def test_a_mask_on_another_grid(capsys, tmp_path, good):
    made = phantoms.segmentation()
    shifted = Geometry(made.geometry.affine.copy(), made.geometry.shape)
    affine = shifted.affine.copy()
    affine[0, 3] += 0.4
    save(Segmentation(made.array, Geometry(affine, made.geometry.shape), made.labels), tmp_path / "bad.nii.gz")
    assert "grid" in refused(capsys, "compare", tmp_path / "bad.nii.gz", good)
    # An image on another grid is refused beside a mask as well.
    assert run(["measure", str(good), "--image", str(tmp_path / "bad.nii.gz"), "--json"]) == 1
    assert "different grids" in json.loads(capsys.readouterr().out)["found"]


def test_values_that_no_table_names(capsys, tmp_path, good):
    array = phantoms.segmentation().array.copy()
    array[2, 3, 4] = 9
    found = refused(capsys, "compare", plain(tmp_path / "bad.nii.gz", array), good)
    assert "values [9]" in found
    # Measured by itself the value is a structure of its own, under its number.
    assert run(["measure", str(tmp_path / "bad.nii.gz"), "--json"]) == 0
    rows = {row["label"]: row["n_voxels"] for row in json.loads(capsys.readouterr().out)["measurements"]}
    assert rows["label_9"] == 1


def test_whole_numbers_in_floating_point_are_the_same_labels(capsys, tmp_path, good):
    array = phantoms.segmentation().array.astype(np.float64)
    assert run([*arguments("compare", plain(tmp_path / "float.nii.gz", array), good), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["comparisons"]
    assert [(row["dice"], row["hausdorff_mm"], row["status"]) for row in rows] == [(1, 0, "both")] * len(rows)


def test_an_empty_mask_is_missed_and_not_a_number(capsys, tmp_path, good):
    made = phantoms.segmentation()
    empty = Segmentation(np.zeros_like(made.array), made.geometry, made.labels.with_kind("b", "lesion"))
    save(empty, tmp_path / "empty.nii.gz")
    assert run([*arguments("compare", tmp_path / "empty.nii.gz", good), "--json"]) == 0
    for row in json.loads(capsys.readouterr().out)["comparisons"]:
        assert (row["status"], row["dice"], row["surface_dice"], row["hd95_mm"]) == ("missed", 0, 0, None)
        assert row["reason"] == "the structure is in the reference only"
    assert run([*arguments("measure", tmp_path / "empty.nii.gz", good), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["volume_ml"] for row in content["measurements"]} == {0}
    assert {row["max_diameter_mm"] for row in content["measurements"]} == {None}
    assert content["lesions"] == []
    assert run([*arguments("follow-up", tmp_path / "empty.nii.gz", good), "--json"]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)["changes"]} == {"gone"}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_mask_larger_than_half_of_the_free_memory(capsys, tmp_path, good, verb, suffix, monkeypatch):
    made = phantoms.segmentation()
    bad = tmp_path / f"bad{suffix}"
    save(Segmentation(made.array.astype(np.uint16), made.geometry, made.labels), bad)
    needed = made.array.size * 2
    monkeypatch.setattr("voxmetry.io.memory.free_bytes", lambda: 2 * needed - 1)
    found = refused(capsys, verb, bad, bad if verb == "compare" else good)
    assert found.startswith(f"bad{suffix} unpacks to")
    assert "of memory are free" in found
    monkeypatch.setattr("voxmetry.io.memory.free_bytes", lambda: 2 * needed)
    assert run(["measure", str(bad)]) == 0
    capsys.readouterr()
