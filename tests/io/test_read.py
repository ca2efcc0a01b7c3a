"""Reading and saving by what the path is; each bad input says what was found."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Volume, read_segmentation, read_volume, save
from voxmetry.errors import FormatError, InputError, LabelError, OutputError, OutputExistsError, SeriesError
from voxmetry.io import write_series


def store(path, array):
    save(Volume(array, phantoms.geometry()), path)
    return path


def test_importing_the_room_loads_no_reader():
    """`import voxmetry` must stay quick, and so must the command line's help."""
    script = (
        "import sys, voxmetry.io, voxmetry.io.dicom; "
        "print(sorted({'SimpleITK', 'nibabel', 'pydicom', 'torch', 'monai'} & set(sys.modules)))"
    )
    paths = {"PYTHONPATH": ":".join(sys.path)}
    outcome = subprocess.run([sys.executable, "-c", script], env=paths, capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["voxmetry.io", "voxmetry.io.dicom"])
def test_a_name_that_is_not_there(module):
    room = __import__(module, fromlist=["_"])
    with pytest.raises(AttributeError, match="no attribute 'read_everything'"):
        room.read_everything  # noqa: B018


def test_all_names_are_there():
    import voxmetry.io

    assert all(callable(getattr(voxmetry.io, name)) for name in voxmetry.io.__all__)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".nrrd", ".mha", ".mhd"])
def test_a_volume_by_suffix(tmp_path, suffix):
    volume = phantoms.volume()
    save(volume, tmp_path / f"a.b{suffix}")
    again = read_volume(tmp_path / f"a.b{suffix}", modality="CT")
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.geometry.is_same(volume.geometry)
    assert again.unit == "HU"


def test_a_dicom_folder_and_a_file_of_it(tmp_path):
    paths = write_series(phantoms.volume(), tmp_path / "s", modality="MR")
    folder, file = read_volume(tmp_path / "s"), read_volume(str(paths[3]), modality="MR")
    np.testing.assert_array_equal(folder.array, file.array)
    paths[3].rename(tmp_path / "s" / "IM1")
    assert read_volume(tmp_path / "s" / "IM1").array.shape == folder.array.shape


class TestVolumeRefusals:
    def test_a_missing_path(self, tmp_path):
        with pytest.raises(InputError, match=r"nothing at case\.nii\.gz"):
            read_volume(tmp_path / "case.nii.gz")

    def test_an_empty_folder(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match="no DICOM file in empty"):
            read_volume(tmp_path / "empty")

    def test_a_folder_of_two_series(self, tmp_path):
        write_series(phantoms.volume(), tmp_path / "s" / "a", modality="MR", series_uid="1.2")
        write_series(phantoms.volume(), tmp_path / "s" / "b", modality="MR", series_uid="1.3")
        with pytest.raises(SeriesError, match=r"(?s)2 series that could be taken.*1\.2.*1\.3.*--series"):
            read_volume(tmp_path / "s")
        assert read_volume(tmp_path / "s", series="1.3").source.series_uid == "1.3"

    def test_the_wrong_modality(self, tmp_path):
        write_series(phantoms.volume(), tmp_path / "s", modality="MR")
        with pytest.raises(SeriesError, match="modality MR, not CT"):
            read_volume(tmp_path / "s", modality="CT")

    def test_an_unknown_format(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"\x89PNG" + bytes(500))
        with pytest.raises(FormatError, match=r"a\.png is of no format that can be read"):
            read_volume(tmp_path / "a.png")

    def test_dicom_by_name_alone(self, tmp_path):
        (tmp_path / "a.dcm").write_bytes(b"x" * 500)
        with pytest.raises(SeriesError, match="damaged"):
            read_volume(tmp_path / "a.dcm")

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
    def test_a_file_that_may_not_be_read(self, tmp_path, suffix, monkeypatch):
        path = store(tmp_path / f"a{suffix}", phantoms.volume().array)

        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(path), "open", refuse)
        with pytest.raises(InputError, match=f"a{suffix} cannot be read: Permission denied"):
            read_volume(path)

    def test_nan_in_an_itk_file_is_refused_by_name(self, tmp_path):
        path = store(tmp_path / "a.mha", phantoms.volume(dtype="float32").array)
        import SimpleITK as sitk  # noqa: N813

        image = sitk.ReadImage(str(path))
        image[1, 2, 3] = float("nan")
        sitk.WriteImage(image, str(path))
        with pytest.raises(InputError, match=r"a\.mha: 1 of 2431 voxels are NaN"):
            read_volume(path)


class TestSegmentation:
    def test_a_table_that_is_passed_comes_first(self, tmp_path):
        save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
        table = LabelTable.from_names({1: "x", 4: "y"})
        assert read_segmentation(tmp_path / "seg.nii.gz", labels=table).labels == table

    def test_without_a_table_values_are_named(self, tmp_path):
        path = store(tmp_path / "seg.nii.gz", phantoms.segmentation().array.astype(np.int32))
        segmentation = read_segmentation(path)
        assert segmentation.labels.names == ("label_1", "label_4")
        assert segmentation.array.dtype == np.uint8

    @pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
    def test_whole_numbers_of_any_type(self, tmp_path, dtype):
        path = store(tmp_path / "seg.nii", phantoms.segmentation().array.astype(dtype))
        np.testing.assert_array_equal(read_segmentation(path).array, phantoms.segmentation().array)

    def test_large_values_take_two_bytes(self, tmp_path):
        array = phantoms.segmentation().array.astype(np.float32) * 1000
        assert read_segmentation(store(tmp_path / "a.nii", array)).array.dtype == np.uint16

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda a: a * 0.5, "fractions"),
            (lambda a: a - 1.0, r"negative values \(down to -1\)"),
            (lambda a: a * 20000.0, r"values up to 80000"),
        ],
    )
    @pytest.mark.parametrize("suffix", [".nii", ".mha"])
    def test_what_is_no_label_map(self, tmp_path, change, words, suffix):
        path = store(tmp_path / f"a{suffix}", change(phantoms.segmentation().array.astype(np.float32)))
        with pytest.raises(LabelError, match=rf"a\{suffix} holds {words}"):
            read_segmentation(path)

    def test_nan_is_no_label(self, tmp_path):
        import nibabel as nib

        array = np.full(phantoms.SHAPE, np.nan, np.float32)
        nib.save(nib.Nifti1Image(array, phantoms.geometry().affine), tmp_path / "a.nii")
        with pytest.raises(LabelError, match="NaN"):
            read_segmentation(tmp_path / "a.nii")

    def test_a_table_that_does_not_name_all_values(self, tmp_path):
        save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
        with pytest.raises(LabelError, match=r"seg\.nii\.gz: values \[4\] in the label map"):
            read_segmentation(tmp_path / "seg.nii.gz", labels=LabelTable.from_names({1: "x"}))

    def test_an_unknown_format(self, tmp_path):
        (tmp_path / "a.png").touch()
        with pytest.raises(FormatError, match=r"a\.png is no label map that can be read"):
            read_segmentation(tmp_path / "a.png")


class TestSave:
    def test_an_unknown_suffix(self, tmp_path):
        with pytest.raises(OutputError, match=r"no format to write a\.png in"):
            save(phantoms.volume(), tmp_path / "a.png")

    def test_overwriting_can_be_refused(self, tmp_path):
        save(phantoms.volume(), tmp_path / "a.nii")
        save(phantoms.volume(), tmp_path / "a.nii")
        with pytest.raises(OutputExistsError, match=r"a\.nii is there already"):
            save(phantoms.volume(), tmp_path / "a.nii", overwrite=False)

    @pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mhd"])
    def test_a_missing_folder(self, tmp_path, suffix):
        with pytest.raises(OutputError, match="its folder is missing"):
            save(phantoms.volume(), tmp_path / "no" / f"a{suffix}")

    def test_a_full_disk_leaves_the_earlier_file(self, tmp_path, monkeypatch):
        from voxmetry.io import nifti

        save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
        before = (tmp_path / "seg.nii.gz").read_bytes()

        class Full(nifti.gzip.GzipFile):
            def close(self):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(nifti.gzip, "GzipFile", Full)
        with pytest.raises(OutputError, match="the disk is full"):
            save(phantoms.segmentation(), tmp_path / "seg.nii.gz")
        assert [entry.name for entry in tmp_path.iterdir()] == ["seg.nii.gz"]
        assert (tmp_path / "seg.nii.gz").read_bytes() == before
