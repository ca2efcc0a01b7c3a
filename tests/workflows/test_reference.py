"""A reference is read with the names and values of the result; what it does not know is not missed."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, save
from voxmetry.config import StudySettings
from voxmetry.errors import LabelError
from voxmetry.workflows.reference import read_reference
from voxmetry.workflows.study_measurements import compare_with

GRID = phantoms.geometry()
MODEL = LabelTable.from_names({2: "tumour", 7: "lung"})


def box(value, start=2):
    array = np.zeros(GRID.shape, np.uint8)
    array[start : start + 5, 3:9, 2:7] = value
    return array


def result():
    return Segmentation(box(2) + box(7, 7), GRID, MODEL)


def compared(path, **more):
    truth, words = read_reference(path, MODEL, GRID, **more)
    return {row.label: row.dice for row in compare_with(truth, result(), StudySettings())}, words


def named(path, array, names):
    save(Segmentation(array, GRID, LabelTable.from_names(names)), path)
    return path


def test_names_decide_where_both_have_them(tmp_path):
    path = named(tmp_path / "r.nrrd", box(7) + box(2, 7), {2: "lung", 7: "Tumour"})
    assert compared(path) == ({"tumour": 1.0, "lung": 1.0}, ())


def test_values_decide_where_the_reference_has_no_names(tmp_path):
    nib.save(nib.Nifti1Image(box(2), GRID.affine), tmp_path / "r.nii.gz")
    # A plain file knows every value: what it does not hold is not there.
    assert compared(tmp_path / "r.nii.gz") == ({"tumour": 1.0, "lung": 0.0}, ())


def test_what_a_label_map_does_not_know_is_left_out(tmp_path):
    path = named(tmp_path / "r.nii.gz", box(1), {1: "tumour"})
    assert compared(path) == ({"tumour": 1.0}, ("not compared, as the reference does not know it: lung",))


def test_what_separate_structures_do_not_know_is_left_out(tmp_path):
    for name in ("GTV_1", "heart"):
        nib.save(nib.Nifti1Image(box(1), GRID.affine), tmp_path / f"{name}.nii.gz")
    with pytest.raises(LabelError, match=r"GTV_1, heart[\s\S]*--map THEIRS=OURS"):
        read_reference(tmp_path, MODEL, GRID)
    dice, words = compared(tmp_path, names={"GTV_1": "tumour"})
    assert dice == {"tumour": 1.0}
    assert words == ("not compared, as the reference does not know it: lung",)


def test_a_known_structure_without_a_voxel_is_missed(tmp_path):
    path = named(tmp_path / "r.nii.gz", box(1), {1: "tumour", 2: "lung"})
    assert compared(path) == ({"tumour": 1.0, "lung": 0.0}, ())


def test_another_name_is_refused_until_it_is_mapped(tmp_path):
    path = named(tmp_path / "r.nii.gz", box(1), {1: "GTV"})
    with pytest.raises(LabelError, match="only one of the two label tables"):
        read_reference(path, MODEL, GRID)
    assert compared(path, names={"GTV": "tumour"})[0] == {"tumour": 1.0}
    assert compared(path, names={"1": "tumour"})[0] == {"tumour": 1.0}
