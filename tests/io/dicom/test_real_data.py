"""DICOM from scanners against the NIfTI files that other tools made of it."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from voxmetry import Geometry, list_series, read_segmentation, read_volume
from voxmetry.errors import SeriesError

pytestmark = pytest.mark.real_data

CONVERTED = [
    "ge/anatomical/001",
    "ge/anatomical/001_implicit",
    "generic/anatomical/001",
    "generic/anatomical/001_implicit",
    "generic/anatomical/002_non_isotropic",
    "generic/compressed/001",
    "generic/compressed_j2k/001",
    "generic/compressed_jpeg/001",
    "generic/compressed_jpegls/001",
    "generic/compressed_rle/001",
    "hitachi/anatomical/001",
    "hitachi/anatomical/001_implicit",
    "philips/anatomical/001",
    "siemens/anatomical/001",
    "siemens/anatomical/001_implicit",
    "siemens_multiframe/anatomical/001",
]


def canonical(array, affine):
    """Turn to the closest RAS axes by nibabel, which shares no code with the reader."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.array(array), affine))
    array = np.asanyarray(image.dataobj)
    return array, Geometry(image.affine, array.shape)


def assert_twins(volume, nifti_path, *, atol_mm, rtol=0.0):
    nifti = nib.load(nifti_path)
    expected, expected_grid = canonical(np.asanyarray(nifti.dataobj), nifti.affine)
    array, grid = canonical(volume.array, volume.geometry.affine)
    np.testing.assert_allclose(array.astype(np.float64), expected, rtol=rtol, atol=0)
    np.testing.assert_allclose(grid.corners_mm, expected_grid.corners_mm, atol=atol_mm)


@pytest.mark.parametrize("patient", ["STS_001", "STS_002", "STS_003"])
@pytest.mark.parametrize(("series", "unit"), [("CT", "HU"), ("MR_T1", "1"), ("PET", "SUVbw")])
def test_sarcoma_equals_its_nifti_twin(real_data, patient, series, unit):
    """CT and MR to the bit, PET within 1e-5: float32 SUVs, of one slope a slice there and here."""
    volume = read_volume(real_data / "sarcoma-dicom" / patient / series / "image")
    path = real_data / "sarcoma" / patient / f"{series}_image.nii.gz"
    assert_twins(volume, path, atol_mm=5e-5, rtol=1e-5 if series == "PET" else 0.0)
    assert volume.geometry.is_same(read_volume(path).geometry)
    assert volume.unit == unit


def test_sarcoma_study_is_listed(real_data):
    infos = list_series(real_data / "sarcoma-dicom/STS_001")
    images = {info.modality: info for info in infos if info.readable}
    assert {m: (info.n_slices, info.spacing_mm, info.verdict) for m, info in images.items()} == {
        "CT": (59, (0.976562, 0.976562, 3.27), "regular"),
        "MR": (59, (0.976562, 0.976562, 3.269955), "regular"),
        "PT": (59, (4.6875, 4.6875, 3.27), "regular"),
    }
    others = [info for info in infos if not info.readable]
    assert [(info.modality, info.verdict) for info in others] == [("RTSTRUCT", "not an image")] * 3
    assert "sarcoma-dicom" not in json.dumps([info.model_dump(mode="json") for info in infos])


def test_one_modality_of_a_study(real_data):
    assert read_volume(real_data / "sarcoma-dicom/STS_001", modality="PT").array.shape == (41, 43, 59)
    with pytest.raises(SeriesError, match="3 series that could be taken"):
        read_volume(real_data / "sarcoma-dicom/STS_001")


@pytest.mark.parametrize("folder", CONVERTED)
def test_conversion_equals_its_reference(real_data, folder):
    path = real_data / "dicom-conversion" / folder
    volume = read_volume(path)
    references = sorted(path.parent.glob(f"{path.name}_ground_truth*.nii.gz"))
    assert references
    for reference in references:
        # Step from the first two positions in the reference, from all of them here: 1e-4 mm a slice at most.
        assert_twins(volume, reference, atol_mm=5e-4, rtol=1e-7)


def test_every_conversion_folder_is_tested_or_refused(real_data):
    root = real_data / "dicom-conversion"
    folders = {file.parent.relative_to(root).as_posix() for file in root.rglob("*.dcm")}
    refused = {"failing/slicecount/001", "failing/sliceorientation/001", "ge/anatomical/001_single_slice"}
    assert folders == {*CONVERTED, *refused}


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("failing/slicecount/001", "missing: two slices, 1 mm between IM-0001-0002-0001.dcm and IM-0001-0001-0001.dcm"),
        ("failing/sliceorientation/001", r"(?s)2 series that could be taken.*Orientation 1 \(sag.*Orientation 2 \(obl"),
        ("ge/anatomical/001_single_slice", "a single slice without Slice Thickness"),
    ],
)
def test_failing_is_refused_with_the_reason(real_data, folder, words):
    with pytest.raises(SeriesError, match=words):
        read_volume(real_data / "dicom-conversion" / folder)


def test_jpeg2000_without_uids_has_the_geometry_of_its_label_map(real_data):
    volume = read_volume(real_data / "ct-multiorgan/example_ct_dicom", modality="CT")
    segmentation = read_segmentation(real_data / "ct-multiorgan/example_seg_dicom.nii.gz")
    array, grid = canonical(volume.array, volume.geometry.affine)
    _, expected = canonical(segmentation.array, segmentation.geometry.affine)
    np.testing.assert_array_equal(grid.affine, expected.affine)
    assert grid.shape == expected.shape
    assert (volume.array.dtype, volume.unit) == (np.int16, "HU")
    # Soft tissue where the liver is: the slices are neither mirrored nor out of order.
    liver = canonical(segmentation.mask("liver").astype(np.uint8), segmentation.geometry.affine)[0] > 0
    assert liver.sum() > 1000
    assert 0 < np.median(array[liver]) < 200


def test_enhanced_equals_classic(real_data):
    folder = real_data / "dicom-seg/data/segmentations/24x38x3"
    classic, enhanced = read_volume(folder / "image"), read_volume(folder / "multiframe")
    np.testing.assert_array_equal(classic.array, enhanced.array)
    assert classic.geometry.is_same(enhanced.geometry)


def test_an_oblique_ct_with_scaling(real_data):
    volume = read_volume(real_data / "dicom-rtstruct/oriented_data")
    assert volume.geometry.spacing_mm == pytest.approx((2.5, 3.5, 4.5), abs=1e-6)
    np.testing.assert_allclose(volume.geometry.affine[:3, 3], (-123, 432, 30), atol=1e-6)
    # The voxel that docs/reference/dicom.md works out by hand.
    np.testing.assert_allclose(volume.geometry.to_mm((4, 2, 0)), (-134.4918, 427.9199, 29.4603), atol=1e-4)


def test_nothing_but_slices_is_called_an_image(real_data):
    infos = list_series(real_data / "dicom-seg-sr")
    assert [(info.modality, info.verdict) for info in infos if info.readable] == [("CT", "single")]
    assert all(info.reason for info in infos)
