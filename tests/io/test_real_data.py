"""Each NIfTI file of the real data: same voxels and affine as nibabel, same affine after a segmentation is saved."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from voxmetry import Segmentation, read_segmentation, read_volume, save
from voxmetry.core.labels import LabelTable
from voxmetry.errors import InputError

pytestmark = pytest.mark.real_data

IMAGES = [
    "hippocampus-mr/images",
    "sarcoma/STS_001",
    "sarcoma/STS_030",
    "ct-multiorgan",
    "dicom-conversion/hitachi/anatomical",
    "ibsi-phantoms/ibsi_1_digital_phantom/nifti/image",
    "ibsi-phantoms/ibsi_2_digital_phantom/nifti/orientation/image",
]


@pytest.mark.parametrize("folder", IMAGES)
def test_equals_nibabel_and_keeps_its_affine(real_data, tmp_path, folder):
    for path in sorted((real_data / folder).glob("*.nii.gz"))[:5]:
        volume, reference = read_volume(path), nib.load(path)
        np.testing.assert_array_equal(volume.array, np.asanyarray(reference.dataobj))
        assert volume.array.dtype == reference.get_data_dtype()
        np.testing.assert_array_equal(volume.geometry.affine, reference.affine)
        empty = Segmentation(np.zeros(volume.array.shape, np.uint8), volume.geometry, LabelTable(labels=()))
        save(empty, tmp_path / "seg.nii.gz")
        np.testing.assert_array_equal(nib.load(tmp_path / "seg.nii.gz").affine, reference.affine)


def test_names_inside_a_totalsegmentator_file(real_data):
    segmentation = read_segmentation(real_data / "ct-multiorgan/example_seg.nii.gz")
    assert segmentation.labels.by_value(5).name == "liver"
    assert segmentation.labels["spleen"].colour == "#00FF00"


def test_a_hippocampus_label_map(real_data):
    path = sorted((real_data / "hippocampus-mr/labels").glob("*.nii.gz"))[0]
    segmentation = read_segmentation(path, labels=LabelTable.from_names({1: "anterior", 2: "posterior"}))
    reference = np.asanyarray(nib.load(path).dataobj)
    assert segmentation.mask("posterior").sum() == np.count_nonzero(reference == 2)


def test_the_nrrd_truth_of_a_dicom_seg(real_data):
    segmentation = read_segmentation(real_data / "dicom-seg/data/segmentations/liver_seg.nrrd")
    assert int(segmentation.mask("label_1").sum()) == 107098


def test_a_folder_of_nifti_says_how_it_is_given(real_data):
    with pytest.raises(InputError, match="given by their file"):
        read_volume(real_data / "sarcoma/STS_001")
