"""The MONAI door: the same voxels and places as MONAI's own loader, and the same refusals as `read_volume`."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, LoadImaged, Orientationd, SpatialPadd

import phantoms
from voxmetry import Geometry, save
from voxmetry.errors import GeometryError, InputError, SeriesError
from voxmetry.io import write_series
from voxmetry.nn.monai_reader import LoadVolumed, VoxmetryReader

# MONAI's own constructor warns where NVIDIA's decoder is not installed.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodec:UserWarning")


@pytest.fixture
def study(tmp_path):
    """The phantom as a DICOM folder and as NIfTI."""
    volume = phantoms.volume()
    write_series(volume, tmp_path / "series", modality="MR", plane="sagittal")
    save(volume, tmp_path / "a.nii.gz")
    return tmp_path


def world(image, index):
    """Where a voxel lies, in RAS+ mm."""
    return (image.affine @ torch.tensor([*index, 1.0], dtype=torch.float64))[:3].numpy()


def mark(image):
    return np.unravel_index(int(image[0].argmax()), image.shape[1:])


def test_equals_monais_own_loader(study):
    ours = LoadImage(reader=VoxmetryReader(), ensure_channel_first=True)(study / "a.nii.gz")
    theirs = LoadImage(reader="NibabelReader", ensure_channel_first=True)(study / "a.nii.gz")
    assert isinstance(ours, MetaTensor)
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), rtol=0, atol=0)
    torch.testing.assert_close(ours.affine, theirs.affine, rtol=0, atol=0)
    for key in ("space", "original_channel_dim", "filename_or_obj"):
        np.testing.assert_equal(ours.meta[key], theirs.meta[key])
    np.testing.assert_array_equal(ours.meta["original_affine"], theirs.meta["original_affine"])
    np.testing.assert_array_equal(ours.meta["spatial_shape"], theirs.meta["spatial_shape"])


@pytest.mark.parametrize("path", ["series", "a.nii.gz"])
def test_the_mark_lies_in_the_right_place(study, path):
    image = LoadVolumed("image")({"image": str(study / path)})["image"]
    assert image.shape[0] == 1
    assert image.meta["space"] == "RAS"
    np.testing.assert_allclose(world(image, mark(image)), phantoms.geometry().to_mm(phantoms.MARK), atol=1e-4)


def test_dicom_and_nifti_agree_in_a_pipeline(study):
    pipeline = Compose(
        [
            LoadVolumed(["dicom", "nifti"], modality=("MR", None)),
            Orientationd(["dicom", "nifti"], axcodes="RAS", labels=None),
            SpatialPadd(["dicom", "nifti"], spatial_size=(16, 20, 16)),
        ]
    )
    out = pipeline({"dicom": study / "series", "nifti": study / "a.nii.gz"})
    torch.testing.assert_close(out["dicom"].affine, out["nifti"].affine, rtol=0, atol=1e-5)
    torch.testing.assert_close(out["dicom"].as_tensor(), out["nifti"].as_tensor(), rtol=0, atol=0)
    np.testing.assert_allclose(world(out["dicom"], mark(out["dicom"])), phantoms.geometry().to_mm(phantoms.MARK))


def test_in_load_imaged(study):
    image = LoadImaged("image", reader=VoxmetryReader(modality="MR"))({"image": study / "series"})["image"]
    assert sorted(image.shape) == sorted(phantoms.SHAPE)


def test_the_type_of_the_file_can_be_kept(study):
    image = LoadVolumed("image", dtype=None)({"image": study / "series"})["image"]
    assert image.dtype == torch.int16


def test_a_list_becomes_channels(study):
    save(phantoms.volume(seed=1), study / "b.nii.gz")
    both = LoadVolumed("image")({"image": [study / "a.nii.gz", study / "b.nii.gz"]})["image"]
    assert both.shape == (2, *phantoms.SHAPE)
    np.testing.assert_array_equal(both[1].numpy(), np.asanyarray(nib.load(study / "b.nii.gz").dataobj))
    assert both.meta["original_channel_dim"] == 0


def test_a_missing_key_may_be_allowed(study):
    loaded = LoadVolumed(["image", "label"], allow_missing_keys=True)({"image": study / "a.nii.gz", "age": 3})
    assert set(loaded) == {"image", "age"}


def test_the_tensor_does_not_share_read_only_memory(study):
    image = LoadVolumed("image", dtype=None)({"image": study / "a.nii.gz"})["image"]
    image += 1
    assert int(image.max()) == 1001


class TestRefusals:
    def test_no_other_reader_loads_what_was_refused(self, study):
        """MONAI would go on to its ITK reader, which takes a series with a gap."""
        sorted((study / "series").iterdir())[4].unlink()
        with pytest.raises(SeriesError, match="1 slice is missing"):
            LoadImage(reader=VoxmetryReader())(study / "series")

    def test_in_a_pipeline_the_reason_is_the_cause(self, study):
        with pytest.raises(RuntimeError, match="applying transform") as caught:
            Compose([LoadVolumed("image", modality="CT")])({"image": study / "series"})
        assert isinstance(caught.value.__cause__, SeriesError)

    def test_channels_on_two_grids(self, study):
        save(phantoms.volume(Geometry(np.diag([1.0, 1, 1, 1]), phantoms.SHAPE)), study / "b.nii.gz")
        with pytest.raises(GeometryError, match="the images of one list lie on different grids"):
            LoadVolumed("image")({"image": [study / "a.nii.gz", study / "b.nii.gz"]})

    def test_the_files_of_one_series_as_a_list(self, study):
        files = sorted((study / "series").iterdir())[:2]
        with pytest.raises(InputError, match="several paths of one DICOM series"):
            LoadVolumed("image")({"image": files})

    def test_options_of_other_readers(self, study):
        with pytest.raises(InputError, match="reading options mmap"):
            VoxmetryReader().read(study / "a.nii.gz", mmap=False)


@pytest.mark.parametrize(("name", "known"), [("a.nii.gz", True), ("a.seg.nrrd", True), ("IM1", True), ("a.png", False)])
def test_suffixes(tmp_path, name, known):
    assert VoxmetryReader().verify_suffix(tmp_path / name) is known
    assert VoxmetryReader().verify_suffix([tmp_path, tmp_path / name]) is known
