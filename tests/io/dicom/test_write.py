"""The same volume, however it is cut into slices, comes back the same."""

from __future__ import annotations

import random
import secrets

import nibabel as nib
import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Geometry, Volume, list_series, read_volume
from voxmetry.errors import GeometryError, InputError, OutputError, OutputExistsError
from voxmetry.io import write_series

PLANES = ("axial", "coronal", "sagittal")
MIRRORED = np.diag([-1.0, 1.0, 1.0, 1.0])


def canonical(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Array and affine turned to the closest RAS axes by nibabel, which shares no code with the reader."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.array(volume.array), volume.geometry.affine))
    return np.asanyarray(image.dataobj), image.affine


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("degrees", [(0, 0, 0), (7, -11, 19), (-38, 21, 80)])
@pytest.mark.parametrize("handedness", ["right", "left"])
def test_round_trip_in_random_order(tmp_path, plane, degrees, handedness):
    grid = phantoms.geometry(degrees=degrees)
    if handedness == "left":
        grid = Geometry(grid.affine @ MIRRORED, grid.shape)
    volume = phantoms.volume(grid)
    paths = list(write_series(volume, tmp_path / "series", modality="MR", plane=plane))
    random.Random(plane).shuffle(paths)
    for path in paths:
        path.rename(path.with_name(secrets.token_hex(8)))
    again = read_volume(tmp_path / "series")
    (array, affine), (expected, expected_affine) = canonical(again), canonical(volume)
    np.testing.assert_array_equal(array, expected)
    corners = Geometry(affine, array.shape).corners_mm - Geometry(expected_affine, expected.shape).corners_mm
    assert np.abs(corners).max() < 1e-6
    assert again.geometry.voxel_ml == pytest.approx(grid.voxel_ml, rel=1e-9)


@pytest.mark.parametrize(("plane", "axcodes"), [("axial", "LPS"), ("coronal", "LIP"), ("sagittal", "PIR")])
def test_slices_are_shown_the_usual_way(tmp_path, plane, axcodes):
    """Rows run right to left or front to back, columns front to back or top to bottom.

    The third axis is the normal of rows and columns, so coronal slices are read from front to back.
    """
    write_series(phantoms.volume(), tmp_path / "series", modality="MR", plane=plane)
    assert list_series(tmp_path / "series")[0].axcodes == axcodes


def test_headers(tmp_path):
    paths = write_series(
        phantoms.volume(), tmp_path / "a" / "b", modality="CT", description="demo", series_uid="1.2", study_uid="1.3"
    )
    headers = [pydicom.dcmread(path) for path in paths]
    first = headers[0]
    assert (first.SeriesInstanceUID, first.StudyInstanceUID, first.SeriesDescription) == ("1.2", "1.3", "demo")
    assert (first.PatientName, first.PatientID, first.PatientBirthDate) == ("", "", "")
    assert len({header.SOPInstanceUID for header in headers}) == 11
    assert [header.InstanceNumber for header in headers] == list(range(1, 12))
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID
    assert (first.PixelSpacing, first.SpacingBetweenSlices) == ([1.3, 0.9], 2.6)
    # How thick the slices were acquired, a grid does not know: an element of type 2, which is there and empty.
    assert first.SliceThickness is None
    assert all(len(str(x)) <= 16 for x in first.ImagePositionPatient)
    volume = read_volume(tmp_path / "a")
    assert volume.unit == "HU"
    assert volume.geometry.frame_uid == first.FrameOfReferenceUID


def test_whole_numbers_in_floating_point_are_accepted(tmp_path):
    write_series(phantoms.volume(dtype="float32"), tmp_path / "s", modality="CT")
    assert read_volume(tmp_path / "s").array.max() == 1000


@pytest.mark.parametrize("change", [lambda a: a + 0.5, lambda a: a * 100.0, lambda a: a.astype(np.int32) - 40000])
def test_values_that_a_slice_cannot_hold_are_refused(tmp_path, change):
    volume = Volume(change(phantoms.volume().array), phantoms.geometry())
    with pytest.raises(InputError, match=r"expected: whole numbers in -32768\.\.32767"):
        write_series(volume, tmp_path / "s", modality="MR")
    assert not (tmp_path / "s").exists()


def test_a_shear_is_refused(tmp_path):
    affine = phantoms.geometry().affine.copy()
    affine[:3, 2] += 0.1 * affine[:3, 1]
    with pytest.raises(GeometryError, match="not at right angles"):
        write_series(phantoms.volume(Geometry(affine, phantoms.SHAPE)), tmp_path / "s", modality="MR")


def test_a_long_description_is_refused(tmp_path):
    with pytest.raises(InputError, match="a description of 65 characters"):
        write_series(phantoms.volume(), tmp_path / "s", modality="MR", description="x" * 65)


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "other.dcm").touch()
    with pytest.raises(OutputExistsError, match="the folder s is not empty"):
        write_series(phantoms.volume(), tmp_path / "s", modality="MR")


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "s").touch()
    with pytest.raises(OutputError, match="s cannot be written"):
        write_series(phantoms.volume(), tmp_path / "s", modality="MR")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_no_part_of_a_series(tmp_path, monkeypatch, error):
    original = pydicom.Dataset.save_as
    calls = []

    def save_as(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise error
        original(self, *args, **kwargs)

    monkeypatch.setattr(pydicom.Dataset, "save_as", save_as)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        write_series(phantoms.volume(), tmp_path / "s", modality="MR")
    assert not list((tmp_path / "s").iterdir())
