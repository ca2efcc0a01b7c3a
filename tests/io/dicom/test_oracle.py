"""Every series that can be read, against what dcm2niix makes of the same files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from frames import mosaics
from voxmetry import list_series
from voxmetry.io import read_series

DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")

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


def canonical(array, affine):
    """Turn to the closest RAS axes by nibabel, which shares no code with the reader."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.array(array), affine))
    return np.asanyarray(image.dataobj), image.affine


def converted(folder, out):
    """Every volume that dcm2niix makes of a folder, as (array, affine)."""
    out.mkdir()
    command = [DCM2NIIX, "-z", "n", "-b", "n", "-f", "%s_%r_%e", "-o", str(out), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    volumes = []
    for path in sorted(out.glob("*.nii")):
        image = nib.load(path)
        values = np.asanyarray(image.dataobj)
        stack = values[..., None] if values.ndim == 3 else values
        volumes += [canonical(stack[..., index], image.affine) for index in range(stack.shape[3])]
    return volumes


def assert_same_volumes(folder, out, count):
    infos = [info for info in list_series(folder) if info.readable]
    theirs = converted(folder, out)
    assert len(infos) == len(theirs) == count
    for info in infos:
        volume = read_series(info)
        array, affine = canonical(volume.array, volume.geometry.affine)
        # dcm2niix keeps its affine in float32, and takes the step from the first two slices.
        twins = [
            values
            for values, other in theirs
            if values.shape == array.shape
            and np.allclose(affine, other, atol=5e-4)
            and np.allclose(values, array, rtol=3e-7)
        ]
        assert twins, info.differs


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
