"""Every transfer syntax gives the values that were stored."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import UID

import phantoms
from voxmetry import list_series, read_volume
from voxmetry.io import write_series

SHAPE = (40, 36, 3)


@pytest.fixture
def series(tmp_path):
    grid = phantoms.geometry(shape=SHAPE)
    return write_series(phantoms.volume(grid), tmp_path / "series", modality="MR")


def encode(file, syntax, code):
    data = pydicom.dcmread(file)
    data.PixelData = encapsulate([code(data.pixel_array)])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.save_as(file)


@pytest.mark.parametrize(
    ("syntax", "implicit", "little"),
    [("1.2.840.10008.1.2", True, True), ("1.2.840.10008.1.2.2", False, False), ("1.2.840.10008.1.2.1.99", False, True)],
)
def test_native_encodings(series, syntax, implicit, little):
    expected = read_volume(series[0].parent).array.copy()
    for file in series:
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = UID(syntax)
        if not little:
            data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
        pydicom.dcmwrite(file, data, implicit_vr=implicit, little_endian=little)
    assert list_series(series[0].parent)[0].transfer_syntax == UID(syntax).name
    np.testing.assert_array_equal(read_volume(series[0].parent).array, expected)


@pytest.mark.parametrize(
    ("syntax", "code"),
    [
        ("1.2.840.10008.1.2.4.90", lambda x: imagecodecs.jpeg2k_encode(x, level=0, codecformat="j2k", reversible=True)),
        ("1.2.840.10008.1.2.4.201", lambda x: imagecodecs.htj2k_encode(x)),
        ("1.2.840.10008.1.2.4.80", lambda x: imagecodecs.jpegls_encode(x)),
        ("1.2.840.10008.1.2.4.70", lambda x: imagecodecs.jpeg8_encode(x, lossless=True, bitspersample=16)),
    ],
)
def test_lossless_codes(series, syntax, code):
    expected = read_volume(series[0].parent).array.copy()
    for file in series:
        encode(file, syntax, lambda pixels: code(pixels.astype(np.uint16)))
        data = pydicom.dcmread(file)
        data.PixelRepresentation = 0
        data.save_as(file)
    np.testing.assert_array_equal(read_volume(series[0].parent).array, expected)


def test_jpeg_baseline_of_8_bits(series):
    ramp = np.add.outer(np.arange(SHAPE[1]), np.arange(SHAPE[0])).astype(np.uint8)
    for file in series:
        data = pydicom.dcmread(file)
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
        data.PixelData = ramp.tobytes()
        data.save_as(file)
        encode(file, "1.2.840.10008.1.2.4.50", lambda pixels: imagecodecs.jpeg8_encode(pixels, level=98))
    array = read_volume(series[0].parent).array
    assert np.abs(array[:, :, 0].T.astype(int) - ramp).max() <= 3


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("signed", [0, 1])
def test_sizes_and_signs(series, bits, signed):
    kind = np.dtype(f"{'ui'[signed]}{bits // 8}")
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    values = np.linspace(low, high, SHAPE[0] * SHAPE[1]).astype(kind)
    for file in series:
        data = pydicom.dcmread(file)
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, signed
        data.PixelData = values.tobytes()
        data.save_as(file)
    array = read_volume(series[0].parent).array
    np.testing.assert_array_equal(array[:, :, 1].T.ravel(), values.astype(np.float64))
