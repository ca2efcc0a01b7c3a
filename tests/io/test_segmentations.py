"""Folders of masks, and structures found by a label table."""

from __future__ import annotations

import numpy as np
import pytest

import phantoms
from voxmetry import Label, LabelTable, Segmentation, read_segmentation, save
from voxmetry.errors import GeometryError, InputError, LabelError
from voxmetry.io import read_layers


@pytest.fixture
def masks(tmp_path):
    both = phantoms.segmentation()
    for name in both.labels.names:
        one = both.mask(name).astype(np.uint8)
        save(Segmentation(one, both.geometry, LabelTable.from_names({1: name})), tmp_path / f"{name}.nii.gz")
    return tmp_path


def test_a_folder_of_masks_is_one_segmentation(masks):
    found, truth = read_segmentation(masks), phantoms.segmentation()
    assert found.labels.names == ("a", "b")
    assert found.geometry.is_same(truth.geometry)
    assert np.array_equal(found.mask("a"), truth.mask("a"))
    assert np.array_equal(found.mask("b"), truth.mask("b"))


def test_a_label_table_chooses_structures_by_name_and_gives_its_values(masks):
    table = LabelTable(labels=(Label(value=9, name="B", colour="#112233"), Label(value=2, name="c", colour="#445566")))
    found = read_segmentation(masks, table)
    assert found.labels == table
    assert np.array_equal(found.array == 9, phantoms.segmentation().mask("b"))
    with pytest.raises(LabelError, match=r"holds a, b"):
        read_segmentation(masks, LabelTable.from_names({1: "spleen"}))


def test_masks_that_overlap_are_layers(masks):
    truth = phantoms.segmentation()
    save(
        Segmentation((truth.array > 0).astype(np.uint8), truth.geometry, LabelTable.from_names({1: "all"})),
        masks / "whole.nii.gz",
    )
    assert [layer.labels.names for layer in read_layers(masks)] == [("a", "b"), ("whole",)]
    with pytest.raises(LabelError, match="a and whole, b and whole"):
        read_segmentation(masks)


def test_masks_of_two_grids_and_label_maps_are_refused(masks):
    save(phantoms.segmentation(), masks / "both.nii.gz")
    with pytest.raises(LabelError, match=r"both.nii.gz holds the values \[1, 4\]"):
        read_segmentation(masks)
    other = phantoms.geometry(origin_mm=(0, 0, 0))
    one = (phantoms.segmentation().array == 1).astype(np.uint8)
    save(Segmentation(one, other, LabelTable.from_names({1: "a"})), masks / "both.nii.gz")
    with pytest.raises(GeometryError, match=r"a.nii.gz and both.nii.gz"):
        read_segmentation(masks)


def test_a_folder_without_structures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="0 NIfTI files"):
        read_segmentation(tmp_path)


def test_a_label_map_is_turned_to_its_image(tmp_path):
    truth = phantoms.segmentation()
    path = tmp_path / "seg.nrrd"
    save(truth, path)
    affine = np.array(truth.geometry.affine)
    affine[:3, 3] += affine[:3, 0] * (truth.geometry.shape[0] - 1)
    affine[:3, 0] *= -1
    found = read_segmentation(path, image=type(truth.geometry)(affine, truth.geometry.shape))
    assert np.array_equal(found.array, truth.array[::-1])
