"""Every series that can be read, against what dcm2niix makes of the same files."""

from __future__ import annotations

import numpy as np
import pytest

from dcm2niix_oracle import DCM2NIIX, assert_same_volumes
from frames import mosaics
from voxmetry import list_series
from voxmetry.io import read_series

pytestmark = pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")

FOLDERS = {
    "dicom-conversion/failing/sliceorientation/001": 2,
    "dicom-conversion/ge/anatomical/001": 1,
    "dicom-conversion/ge/anatomical/001_implicit": 1,
    "dicom-conversion/generic/anatomical/001": 1,
    "dicom-conversion/generic/anatomical/001_implicit": 1,
    "dicom-conversion/generic/anatomical/002_non_isotropic": 1,
    "dicom-conversion/generic/compressed/001": 1,
    "dicom-conversion/generic/compressed_j2k/001": 1,
    "dicom-conversion/generic/compressed_jpeg/001": 1,
    "dicom-conversion/generic/compressed_jpegls/001": 1,
    "dicom-conversion/generic/compressed_rle/001": 1,
    "dicom-conversion/hitachi/anatomical/001": 1,
    "dicom-conversion/hitachi/anatomical/001_implicit": 1,
    "dicom-conversion/philips/anatomical/001": 1,
    "dicom-conversion/siemens/anatomical/001": 1,
    "dicom-conversion/siemens/anatomical/001_implicit": 1,
    "dicom-conversion/siemens_multiframe/anatomical/001": 1,
    "ct-multiorgan/example_ct_dicom": 1,
    "dicom-rtstruct/oriented_data": 1,
    "sarcoma-dicom/STS_001/CT/image": 1,
    "sarcoma-dicom/STS_001/MR_T1/image": 1,
    "sarcoma-dicom/STS_001/PET/image": 1,
    "dicom-seg/data/segmentations/24x38x3/image": 1,
    "dicom-seg/data/segmentations/24x38x3/multiframe": 1,
}


@pytest.mark.real_data
@pytest.mark.parametrize("folder", FOLDERS)
def test_equals_dcm2niix(real_data, tmp_path, folder):
    assert_same_volumes(real_data / folder, tmp_path / "nifti", FOLDERS[folder])


def test_siemens_mosaics_equal_dcm2niix(tmp_path):
    """Two diffusion volumes of 48 slices, each in one picture, which nibabel brings along for its own tests."""
    study = mosaics(tmp_path / "study")
    assert_same_volumes(study, tmp_path / "nifti", 2)
    first, second = list_series(study)
    assert (first.n_slices, first.n_files, first.rows, first.columns) == (48, 1, 128, 128)
    assert (first.differs, second.differs) == ({"Acquisition Number": "1"}, {"Acquisition Number": "2"})
    assert not np.array_equal(read_series(first).array, read_series(second).array)
