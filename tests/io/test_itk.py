"""NRRD and MetaImage say the same as NIfTI."""

from __future__ import annotations

import errno
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, Volume, read_segmentation, read_volume, save
from voxmetry.errors import FormatError, GeometryError, InputError, OutputError
from voxmetry.io import itk

SUFFIXES = (".nrrd", ".mha", ".mhd")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equals_nifti(tmp_path, suffix):
    volume = phantoms.volume()
    save(volume, tmp_path / f"a{suffix}")
    save(volume, tmp_path / "a.nii.gz")
    other, nifti = read_volume(tmp_path / f"a{suffix}"), read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(other.array, volume.array)
    np.testing.assert_array_equal(other.array, nifti.array)
    assert other.array.dtype == volume.array.dtype
    np.testing.assert_allclose(other.geometry.affine, volume.geometry.affine, atol=1e-12)
    # NIfTI stores float32.
    np.testing.assert_allclose(nifti.geometry.affine, volume.geometry.affine, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_mark_lies_where_itk_says_in_lps(tmp_path, suffix):
    volume = phantoms.volume()
    save(volume, tmp_path / f"a{suffix}")
    image = sitk.ReadImage(str(tmp_path / f"a{suffix}"))
    assert image[phantoms.MARK] == 1000
    x, y, z = image.TransformIndexToPhysicalPoint(phantoms.MARK)
    np.testing.assert_allclose((-x, -y, z), volume.geometry.to_mm(phantoms.MARK), atol=1e-9)


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior"])
def test_an_nrrd_in_another_space_lands_in_the_same_place(tmp_path, space):
    volume = phantoms.volume()
    save(volume, tmp_path / "a.nrrd")
    content = (tmp_path / "a.nrrd").read_bytes()
    sign = np.array([1, -1, 1]) if space.startswith("left") else np.array([-1, -1, 1])
    affine = volume.geometry.affine * np.array([-1, -1, 1, 1])[:, None]  # in LPS
    vectors = [sign * affine[:3, axis] for axis in range(4)]
    texts = [f"({','.join(f'{x:.17g}' for x in vector)})" for vector in vectors]
    header, voxels = content.split(b"\n\n", 1)
    lines = [line for line in header.decode().splitlines() if not line.startswith("space")]
    lines += [f"space: {space}", f"space directions: {' '.join(texts[:3])}", f"space origin: {texts[3]}"]
    (tmp_path / "b.nrrd").write_bytes("\n".join(lines).encode() + b"\n\n" + voxels)
    np.testing.assert_allclose(read_volume(tmp_path / "b.nrrd").geometry.affine, volume.geometry.affine, atol=1e-9)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_are_inside(tmp_path, suffix):
    segmentation = phantoms.segmentation()
    save(segmentation, tmp_path / f"a{suffix}")
    again = read_segmentation(tmp_path / f"a{suffix}")
    assert again.labels == segmentation.labels
    np.testing.assert_array_equal(again.array, segmentation.array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_hundred_labels_are_inside(tmp_path, suffix):
    table = LabelTable.from_names({value: f"structure of the body number {value}" for value in range(1, 118)})
    array = np.zeros(phantoms.SHAPE, np.uint8)
    array[2, 3, 4] = 117
    save(Segmentation(array, phantoms.geometry(), table), tmp_path / f"a{suffix}")
    assert read_segmentation(tmp_path / f"a{suffix}").labels == table


def test_names_from_3d_slicer(tmp_path):
    save(phantoms.segmentation(), tmp_path / "a.seg.nrrd")
    content = (tmp_path / "a.seg.nrrd").read_bytes()
    (tmp_path / "a.seg.nrrd").write_bytes(content.replace(b"voxmetry_labels", b"xoxmetry_labels"))
    assert read_segmentation(tmp_path / "a.seg.nrrd").labels.names == ("a", "b")


def test_half_precision_is_widened(tmp_path):
    save(Volume(phantoms.volume().array.astype(np.float16), phantoms.geometry()), tmp_path / "a.mha")
    assert read_volume(tmp_path / "a.mha").array.dtype == np.float32


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_shear_survives(tmp_path, suffix):
    affine = phantoms.geometry().affine.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    save(phantoms.volume(Geometry(affine, phantoms.SHAPE)), tmp_path / f"a{suffix}")
    np.testing.assert_allclose(read_volume(tmp_path / f"a{suffix}").geometry.affine, affine, atol=1e-9)


class TestRefusals:
    @pytest.mark.parametrize(
        ("suffix", "field", "words"),
        [
            (".nrrd", b"space directions", "space directions"),
            (".nrrd", b"space origin", "space origin"),
            (".nrrd", b"space:", "space "),
            (".mha", b"TransformMatrix", "TransformMatrix"),
            (".mha", b"Offset", "Offset"),
            (".mha", b"ElementSpacing", "ElementSpacing"),
        ],
    )
    def test_a_header_without_place_is_not_filled_in(self, tmp_path, suffix, field, words):
        save(phantoms.volume(), tmp_path / f"a{suffix}")
        content = (tmp_path / f"a{suffix}").read_bytes()
        line = next(line for line in content.split(b"\n") if line.startswith(field))
        (tmp_path / f"a{suffix}").write_bytes(content.replace(line + b"\n", b"", 1))
        with pytest.raises(GeometryError, match=f"no usable {words}"):
            read_volume(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize(("suffix", "data"), [(".nrrd", ".nrrd"), (".mha", ".mha"), (".mhd", ".zraw")])
    @pytest.mark.parametrize(("damage", "words"), [("cut", "end too early"), ("flip", ""), ("empty", "")])
    def test_damaged_voxels(self, tmp_path, suffix, data, damage, words):
        save(phantoms.volume(), tmp_path / f"a{suffix}")
        content = bytearray((tmp_path / f"a{data}").read_bytes())
        if damage == "flip":
            content[-100] ^= 0x55
        (tmp_path / f"a{data}").write_bytes({"cut": content[:-40], "flip": content, "empty": b""}[damage])
        with pytest.raises(FormatError, match=f"a{suffix} cannot be read: .*{words}"):
            read_volume(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    def test_damaged_uncompressed_voxels(self, tmp_path, suffix, capfd):
        path = tmp_path / f"a{suffix}"
        image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16))
        sitk.WriteImage(image, str(path))
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(FormatError):
            read_volume(path)
        assert "Traceback" not in capfd.readouterr().err

    def test_a_detached_file_that_is_gone(self, tmp_path):
        save(phantoms.volume(), tmp_path / "a.mhd")
        (tmp_path / "a.zraw").unlink()
        with pytest.raises(FormatError, match=r"a\.mhd cannot be read"):
            read_volume(tmp_path / "a.mhd")

    @pytest.mark.parametrize(
        ("array", "vector", "words"),
        [
            (np.zeros((4, 5, 6, 3), np.uint8), True, "3 numbers a voxel"),
            (np.zeros((5, 6), np.int16), False, "2 axes"),
            (np.zeros((2, 4, 5, 6), np.int16), False, r"4 axes \(shape 6 x 5 x 4 x 2\)"),
            (np.zeros((4, 5, 6), np.complex64), False, "numbers a voxel, or complex"),
        ],
    )
    def test_anything_but_one_number_at_each_of_three_axes(self, tmp_path, array, vector, words):
        path = tmp_path / "a.mha"
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=vector), str(path))
        with pytest.raises(InputError, match=words):
            read_volume(path)

    @pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
    def test_another_format_under_this_name(self, tmp_path, suffix):
        (tmp_path / f"a{suffix}").write_bytes(b"\x89PNG" + bytes(100))
        with pytest.raises(FormatError):
            read_volume(tmp_path / f"a{suffix}")

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_a_writer_that_fails_leaves_nothing(self, tmp_path, suffix, monkeypatch):
        def refuse(*args, **kwargs):
            raise RuntimeError("disk full")

        monkeypatch.setattr(itk.sitk, "WriteImage", refuse)
        with pytest.raises(OutputError, match=f"a{suffix} cannot be written"):
            save(phantoms.volume(), tmp_path / f"a{suffix}")
        assert not list(tmp_path.iterdir())

    def test_a_folder_that_cannot_be_made(self, tmp_path, monkeypatch):
        def refuse(**kwargs):
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(itk.tempfile, "mkdtemp", refuse)
        with pytest.raises(OutputError, match="read-only"):
            save(phantoms.volume(), tmp_path / "a.mhd")


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_a_name_that_is_no_text_is_written_to_all_the_same(tmp_path, suffix):
    """ITK ends the process at such a name."""
    folder = tmp_path / os.fsdecode(b"folder_\xff")
    folder.mkdir()
    path = folder / os.fsdecode(b"l\xe4sion" + suffix.encode())
    save(phantoms.volume(), path)
    np.testing.assert_array_equal(read_volume(path).array, phantoms.volume().array)
    assert list(folder.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_header_cannot_name_a_data_file_whose_name_is_no_text(tmp_path):
    with pytest.raises(OutputError, match="that is not UTF-8"):
        save(phantoms.volume(), tmp_path / os.fsdecode(b"l\xe4sion.mhd"))
    assert not list(tmp_path.iterdir())
