"""A series that is too large to be held has the voxels of one that is held."""

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.errors import FormatError, InputError
from voxmetry.io import memory
from voxmetry.io.dicom import list_series, read_series


def slope_of_each(dataset, number):
    dataset.RescaleSlope, dataset.RescaleIntercept = str(1 + number), str(-10 * number)


def fraction(dataset, number):
    dataset.RescaleSlope, dataset.RescaleIntercept = "0.7310585", "-3.25"


def wide(dataset, number):
    dataset.RescaleSlope, dataset.RescaleIntercept = "1000", "0"


def unsigned(dataset, number):
    values = dataset.pixel_array.astype(np.uint16) + 60000
    dataset.PixelRepresentation, dataset.PixelData = 0, values.tobytes()
    # What a padding value says is not taken for a voxel's value.
    dataset.add_new("PixelPaddingValue", "US", 60000)


def compressed(dataset, number):
    dataset.compress(RLELossless)


def plain(dataset, number):
    pass


def change(files, how):
    for number, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        how(dataset, number)
        dataset.save_as(file)


def read(files, monkeypatch, *, free, **how):
    (info,) = list_series(files[0].parent)
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    return read_series(info, mapped=True, **how)


@pytest.mark.parametrize("how", [plain, slope_of_each, fraction, wide, unsigned, compressed])
def test_voxels_are_those_of_the_held_series(files, monkeypatch, how):
    change(files, how)
    held = read(files, monkeypatch, free=1 << 40)
    large = read(files, monkeypatch, free=1000)
    assert not is_mapped(held.array)
    assert is_mapped(large.array)
    release_pages(large.array)
    assert large.array.dtype == held.array.dtype
    assert large.array.strides == held.array.strides
    assert np.array_equal(large.array, held.array)
    assert np.array_equal(large.geometry.affine, held.geometry.affine)
    assert (large.unit, large.source) == (held.unit, held.source)


def test_a_gap_that_is_filled_is_held(files, monkeypatch):
    files[4].unlink()
    large = read(files, monkeypatch, free=1000, allow_uneven=True)
    assert not is_mapped(large.array)
    assert np.array_equal(large.array, read(files, monkeypatch, free=1 << 40, allow_uneven=True).array)


def test_a_slice_that_ends_early_is_named_as_ever(files, monkeypatch):
    whole = files[5].read_bytes()
    (info,) = list_series(files[0].parent)
    files[5].write_bytes(whole[:-100])
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    with pytest.raises(FormatError):
        read_series(info, mapped=True)


def test_the_limit_for_one_image_holds(files, monkeypatch):
    monkeypatch.setenv("VOXMETRY_IMAGE_GB", "0.000001")
    with pytest.raises(InputError, match="VOXMETRY_IMAGE_GB"):
        read(files, monkeypatch, free=1000)
