import gzip

import nibabel
import numpy as np
import pytest

from voxmetry import Geometry, LabelTable, Segmentation, Volume, read_volume, save
from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.errors import InputError, OutputError
from voxmetry.io import memory
from voxmetry.io.mapped_array import zeros_on_disk

SHAPE = (7, 6, 5)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    """As if there were room for 200 bytes: an image of int16 takes 420."""
    monkeypatch.setattr(memory, "free_bytes", lambda: 400)


def values(dtype=np.int16):
    return np.random.default_rng(0).integers(0, 90, SHAPE).astype(dtype)


def nrrd(tmp_path, array, *, detached, line="", skip=""):
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nencoding: raw\nendian: little\n{skip}"
        "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    )
    data = line.encode() + array.astype("<i2").tobytes(order="F")
    if not detached:
        path = tmp_path / "image.nrrd"
        path.write_bytes(header.encode() + b"\n" + data)
        return path
    (tmp_path / "image.raw").write_bytes(data)
    path = tmp_path / "image.nhdr"
    path.write_text(header + "data file: image.raw\n\n")
    return path


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_a_nifti_that_does_not_fit_is_read_where_it_lies(dtype, tmp_path):
    array = values(dtype)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii", mapped=True)
    assert is_mapped(volume.array)
    assert volume.array.dtype == dtype
    assert np.array_equal(volume.array, array)
    # Also after its pages were given back, and as the source of another file.
    release_pages(volume.array)
    save(volume, tmp_path / "again.nii")
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "again.nii").dataobj), array)


def test_it_is_refused_where_nobody_asked(tmp_path):
    # What is done with an image often takes a copy of it: the caller must know that it does not.
    save(Volume(values(), Geometry(np.eye(4), SHAPE)), tmp_path / "image.nii")
    with pytest.raises(InputError, match="mapped=True"):
        read_volume(tmp_path / "image.nii")


def test_raw_metaimage_that_does_not_fit_is_read_where_it_lies(tmp_path):
    header = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n"
    header += "Offset = 0 0 0\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = image.raw\n"
    (tmp_path / "image.mhd").write_text(header)
    (tmp_path / "image.raw").write_bytes(values().astype("<i2").tobytes(order="F"))
    volume = read_volume(tmp_path / "image.mhd", mapped=True)
    assert is_mapped(volume.array)
    assert np.array_equal(volume.array, values())


def test_what_fits_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    save(Volume(values(), Geometry(np.eye(4), SHAPE)), tmp_path / "image.nii")
    assert not is_mapped(read_volume(tmp_path / "image.nii", mapped=True).array)


@pytest.mark.parametrize("kind", ["packed", "scaled", "packed and scaled", "other order of bytes"])
def test_what_cannot_be_mapped_goes_into_a_temporary_file(kind, tmp_path, monkeypatch):
    header = nibabel.Nifti1Header(endianness=">" if kind.startswith("other") else "<")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(values(), np.eye(4), header)
    if "scaled" in kind:
        image.header.set_slope_inter(2.5, 1.0)
    path = tmp_path / "image.nii"
    nibabel.save(image, path)
    if "packed" in kind:
        path = tmp_path / "image.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "image.nii").read_bytes()))
    volume = read_volume(path, mapped=True)
    assert is_mapped(volume.array)
    with pytest.raises(InputError, match="mapped=True"):
        read_volume(path)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10_000)
    held = read_volume(path)
    assert not is_mapped(held.array)
    assert held.array.dtype == volume.array.dtype
    assert np.array_equal(held.array, volume.array)


@pytest.mark.parametrize("encoding", ["gzip", "ascii"])
def test_a_packed_nrrd_goes_into_a_temporary_file(encoding, tmp_path, monkeypatch):
    path = nrrd(tmp_path, values(), detached=True)
    path.write_text(path.read_text().replace("encoding: raw", f"encoding: {encoding}"))
    data = values().astype("<i2").tobytes(order="F")
    words = " ".join(map(str, values().ravel(order="F").tolist())).encode()
    (tmp_path / "image.raw").write_bytes(gzip.compress(data) if encoding == "gzip" else words)
    if encoding == "ascii":
        # Its words are read as a whole.
        monkeypatch.setattr(memory, "free_bytes", lambda: 800)
        with pytest.raises(InputError, match="memory are free"):
            read_volume(path, mapped=True)
        return
    volume = read_volume(path, mapped=True)
    assert is_mapped(volume.array)
    assert np.array_equal(volume.array, values())


def test_a_disk_without_room_for_the_voxels_is_said(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    nibabel.save(nibabel.Nifti1Image(values(), np.eye(4)), tmp_path / "image.nii.gz")
    monkeypatch.setattr("voxmetry.io.mapped_array.reserve", full)
    with pytest.raises(OutputError, match="No space left"):
        read_volume(tmp_path / "image.nii.gz", mapped=True)


def test_a_limit_for_one_image_holds_all_the_same(tmp_path, monkeypatch):
    save(Volume(values(), Geometry(np.eye(4), SHAPE)), tmp_path / "image.nii")
    monkeypatch.setenv("VOXMETRY_IMAGE_GB", "0.0000003")
    with pytest.raises(InputError, match="VOXMETRY_IMAGE_GB"):
        read_volume(tmp_path / "image.nii", mapped=True)


def test_a_voxel_that_is_no_number_is_found(tmp_path):
    array = values(np.float32)
    array[3, 2, 4] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii")
    with pytest.raises(InputError, match="1 of 210 voxels"):
        read_volume(tmp_path / "image.nii", mapped=True)


@pytest.mark.parametrize(
    ("detached", "line", "skip"),
    [
        (False, "", ""),
        (True, "", ""),
        (True, "a line\nxyz", "line skip: 1\nbyte skip: 3\n"),
        (True, "whatever", "byte skip: -1\n"),
    ],
)
def test_raw_nrrd_that_does_not_fit_is_read_where_it_lies(detached, line, skip, tmp_path):
    volume = read_volume(nrrd(tmp_path, values(), detached=detached, line=line, skip=skip), mapped=True)
    assert is_mapped(volume.array)
    assert np.array_equal(volume.array, values())


def test_a_nrrd_that_ends_too_early_is_refused_as_ever(tmp_path):
    path = nrrd(tmp_path, values(), detached=True)
    (tmp_path / "image.raw").write_bytes((tmp_path / "image.raw").read_bytes()[:-9])
    with pytest.raises(InputError, match="too few"):
        read_volume(path, mapped=True)


def test_labels_on_the_disk_are_those_that_were_written(tmp_path):
    array = zeros_on_disk(SHAPE, np.uint8)
    array[2:4] = 3
    release_pages(array)
    found = Segmentation(array, Geometry(np.eye(4), SHAPE), LabelTable.from_names({3: "liver"}))
    assert is_mapped(found.array)
    assert int((found.array == 3).sum()) == 60
    save(found, tmp_path / "seg.nii.gz")
    assert int((np.asarray(nibabel.load(tmp_path / "seg.nii.gz").dataobj) == 3).sum()) == 60


def test_what_was_changed_in_a_private_mapping_is_not_lost(tmp_path):
    np.zeros(9, np.int16).tofile(tmp_path / "x")
    private = np.memmap(tmp_path / "x", np.int16, "c")
    private[4] = 5
    assert not is_mapped(private)
    release_pages(private)
    assert private.tolist() == [0, 0, 0, 0, 5, 0, 0, 0, 0]
    release_pages(np.zeros(3))
