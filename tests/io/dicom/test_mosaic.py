"""Volumes as tiles of one picture: Siemens' mosaics with damaged private headers, United Imaging's grids."""

from __future__ import annotations

import gzip
import importlib.resources
import io
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dcm2niix_oracle import DCM2NIIX, assert_same_volumes
from voxmetry import list_series, read_volume
from voxmetry.errors import SeriesError


@pytest.fixture
def mosaic(tmp_path):
    """Siemens' CSA header is a private element; a function of its bytes changes it."""
    source = Path(str(importlib.resources.files("nibabel"))) / "nicom" / "tests" / "data" / "siemens_dwi_0.dcm.gz"
    if not source.is_file():
        pytest.skip("this nibabel came without its test data")
    content = gzip.decompress(source.read_bytes())

    def make(change):
        dataset = pydicom.dcmread(io.BytesIO(content))
        element = dataset[0x0029, 0x1010]
        element._value = bytes(change(bytearray(element.value)))
        folder = tmp_path / "mosaic"
        folder.mkdir(exist_ok=True)
        dataset.save_as(folder / "x.dcm")
        return folder

    return make


def flipped(place):
    def change(raw):
        raw[place] ^= 0x40
        return raw

    return change


@pytest.mark.parametrize("place", [*range(0, 16), *range(80, 168, 4)])
def test_a_flipped_bit_in_the_private_header_is_told(mosaic, place):
    for info in list_series(mosaic(flipped(place))):
        assert info.readable or "is a Siemens mosaic, and" in info.reason


def test_a_private_header_that_ends_early(mosaic):
    for length in (0, 3, 4, 8, 15, 100, 1000):
        (info,) = list_series(mosaic(lambda raw, length=length: raw[:length]))
        assert (info.verdict, "its slice normal" in info.reason) == ("unreadable", True)


@pytest.fixture
def grid(files, tmp_path):
    """The eleven slices in one picture of 4 x 3 tiles, as United Imaging stores a volume."""

    def make(change=None, count=11):
        slices = [pydicom.dcmread(file) for file in files]
        dataset = pydicom.dcmread(files[0])
        rows, columns = dataset.Rows, dataset.Columns
        picture = np.zeros((3, 4, rows, columns), "<i2")
        for index, one in enumerate(slices):
            picture[index // 4, index % 4] = one.pixel_array
        dataset.Manufacturer = "UIH"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE", "VFRAME"]
        dataset.Rows, dataset.Columns = rows * 3, columns * 4
        dataset.PixelData = picture.swapaxes(1, 2).tobytes()
        block = dataset.private_block(0x0065, "Image Private Header", create=True)
        block.add_new(0x50, "DS", str(count))
        places = []
        for one in slices:
            places.append(pydicom.Dataset())
            places[-1].ImagePositionPatient = one.ImagePositionPatient
        block.add_new(0x51, "SQ", places)
        if change:
            change(dataset, block)
        folder = tmp_path / "grid"
        folder.mkdir()
        dataset.save_as(folder / "x.dcm")
        return folder

    return make


def test_a_grid_of_united_imaging(files, grid):
    volume, plain = read_volume(grid()), read_volume(files[0].parent)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert volume.geometry.is_same(plain.geometry)


@pytest.mark.skipif(DCM2NIIX is None, reason="dcm2niix is not installed")
def test_a_grid_equals_dcm2niix(grid, tmp_path):
    assert_same_volumes(grid(), tmp_path / "nifti", 1)


@pytest.mark.parametrize(
    ("change", "count", "words"),
    [
        (lambda _, block: block.__delitem__(0x51), 11, "0 of its 11 slices have a position"),
        (None, 10, "11 of its 10 slices have a position"),
        (None, 17, "are not 4 x 5 tiles"),
        (None, 0, "nothing says how many slices it holds"),
        (None, 10**9, "nothing says how many slices it holds"),
    ],
)
def test_a_grid_that_does_not_say_where_its_tiles_are(grid, change, count, words):
    folder = grid(change, count)
    (info,) = list_series(folder)
    assert info.verdict == "unreadable"
    assert words in info.reason
    with pytest.raises(SeriesError):
        read_volume(folder)
