"""From files to voxels: order, decoding, rescaling, units, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

import phantoms
from voxmetry import list_series, read_volume
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import FormatError, InputError, SeriesError
from voxmetry.io import read_series, write_series


def rescaled(values, slope=1.0, intercept=0.0):
    return np.asarray(values, np.float64) * slope + intercept


@pytest.fixture
def array(files):
    """What the untouched series holds."""
    return read_volume(files[0].parent).array.copy()


def test_slices_are_sorted_by_position(files, volume, tmp_path):
    numbers = list(range(11))
    random.Random(3).shuffle(numbers)
    for number, file in zip(numbers, files, strict=True):
        file.rename(file.with_name(f"{number}"))
    again = read_volume(files[0].parent)
    assert again.array[np.unravel_index(again.array.argmax(), again.array.shape)] == 1000
    mark = again.geometry.to_mm(np.unravel_index(again.array.argmax(), again.array.shape))
    expected = volume.geometry.to_mm(np.unravel_index(volume.array.argmax(), volume.array.shape))
    np.testing.assert_allclose(mark, expected, atol=1e-9)
    assert again.geometry.frame_uid == volume.geometry.frame_uid
    assert again.source.series_uid == "1.2.3"


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression(tmp_path, edit, syntax):
    # JPEG 2000 wants more than the small phantom's 13 x 17 pixels.
    original = phantoms.volume(phantoms.geometry(shape=(72, 64, 3)))
    for file in write_series(original, tmp_path / "series", modality="CT"):
        edit(file, lambda dataset: dataset.compress(syntax, generate_instance_uid=False))
    assert list_series(tmp_path / "series")[0].transfer_syntax == syntax.name
    again = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(again.array[::-1, ::-1], original.array)


def test_slope_and_intercept_of_each_slice(files, edit, array):
    for k, file in enumerate(files):
        edit(file, RescaleSlope=str(0.5 + k), RescaleIntercept="-7")
    again = read_volume(files[0].parent).array
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, rescaled(array, 0.5 + np.arange(11), -7))


@pytest.mark.parametrize(
    ("slope", "kind"), [(1, np.int16), (3, np.int16), (1000, np.int32), (10**6, np.int32), (10**7, np.float64)]
)
def test_whole_numbers_stay_whole(files, edit, array, slope, kind):
    for file in files:
        edit(file, RescaleSlope=str(slope), RescaleIntercept="-1024")
    again = read_volume(files[0].parent).array
    assert again.dtype == kind
    np.testing.assert_array_equal(again, rescaled(array, slope, -1024))


@pytest.mark.parametrize("compressed", [False, True])
def test_whole_numbers_are_rescaled_by_the_numbers_of_their_own_slice(files, edit, array, compressed):
    # Whole numbers have a path of their own, and native files one more, that reads into the result.
    for k, file in enumerate(files):
        if compressed:
            edit(file, lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False))
        edit(file, RescaleSlope=str(1 + k % 3), RescaleIntercept=str(-7 * k))
    again = read_volume(files[0].parent).array
    assert again.dtype == np.int16
    np.testing.assert_array_equal(again, rescaled(array, 1 + np.arange(11) % 3, -7 * np.arange(11)))


def test_unsigned_values_beyond_int16(files, edit):
    def set_high(dataset):
        dataset.PixelRepresentation = 0
        dataset.PixelData = np.linspace(65535, 40000, 17 * 13).astype("<u2").tobytes()

    for file in files:
        edit(file, set_high)
    again = read_volume(files[0].parent).array
    assert again.dtype == np.int32
    assert (again.min(), again.max()) == (40000, 65535)


def test_overlay_bits_above_the_stored_ones_are_ignored(files, edit, array):
    def set_high_bits(dataset):
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        values = np.frombuffer(dataset.PixelData, "<u2") | 0xF000
        dataset.PixelData = values.tobytes()
        dataset.add_new(0x60000102, "US", 12)

    for file in files:
        edit(file, set_high_bits)
    np.testing.assert_array_equal(read_volume(files[0].parent).array, array)


@pytest.mark.parametrize(("signed", "stored", "high_bit", "shift"), [(0, 12, 15, 4), (0, 6, 5, 0), (1, 6, 5, 0)])
def test_values_beyond_the_stored_bits_are_no_values(files, edit, signed, stored, high_bit, shift):
    def widen(dataset):
        values = np.frombuffer(dataset.PixelData, "<i2").astype(np.int32)
        values = values - int(signed) * int(values.max()) // 2
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = signed, stored, high_bit
        dataset.PixelData = (values << shift).astype("<i2").tobytes()

    for file in files:
        edit(file, widen)
    with pytest.raises(FormatError, match=f"has values beyond its {stored} stored bits"):
        read_volume(files[0].parent)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_one_slice_without_the_rescaling_of_the_others(files, edit, modality):
    for file in files:
        edit(file, Modality=modality, RescaleSlope="2", RescaleIntercept="-1024")
    edit(files[4], RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(SeriesError, match=r"1 of 11 slices have no Rescale Slope and Rescale Intercept"):
        read_volume(files[0].parent)


def test_padding_is_rescaled_as_it_is_stored(files, edit, array):
    for file in files:
        edit(file, lambda data: data.add_new("PixelPaddingValue", "SS", 0), RescaleSlope="1", RescaleIntercept="-1024")
    np.testing.assert_array_equal(read_volume(files[0].parent).array, rescaled(array, 1, -1024))


def test_monochrome1_is_a_way_to_show_it_not_another_value(files, edit, array):
    for file in files:
        edit(file, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_volume(files[0].parent).array, array)


@pytest.mark.parametrize(
    ("elements", "unit"),
    [
        ({"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}, "HU"),
        ({"Modality": "CT", "RescaleType": "HU", "RescaleSlope": "1", "RescaleIntercept": "0"}, "HU"),
        ({"Modality": "CT", "RescaleType": "US", "RescaleSlope": "1", "RescaleIntercept": "0"}, "1"),
        ({"Modality": "PT", "Units": "BQML"}, "Bq/mL"),
        ({"Modality": "PT", "Units": "GML"}, "SUVbw"),
        ({"Modality": "PT", "Units": "GML", "SUVType": "BW"}, "SUVbw"),
        ({"Modality": "PT", "Units": "GML", "SUVType": "LBM"}, "1"),
        ({"Modality": "PT", "Units": "CNTS"}, "1"),
        ({"Modality": "MR", "Units": "BQML"}, "1"),
    ],
)
def test_units(files, edit, elements, unit):
    for file in files:
        edit(file, **elements)
    assert read_volume(files[0].parent, suv="none").unit == unit


class TestRefusals:
    def test_a_truncated_file_is_named_without_its_path(self, files):
        files[6].write_bytes(files[6].read_bytes()[:-100])
        with pytest.raises(SeriesError, match=r"unreadable: damaged, .*: 0007\.dcm") as caught:
            read_volume(files[0].parent)
        assert str(files[0].parent) not in str(caught.value)

    def test_a_file_that_is_cut_off_after_it_was_listed(self, files):
        (info,) = list_series(files[0].parent)
        files[6].write_bytes(files[6].read_bytes()[:-100])
        with pytest.raises(FormatError, match=r"^0007\.dcm cannot be parsed as DICOM: it is cut off") as caught:
            read_series(info)
        assert str(files[0].parent) not in str(caught.value)

    def test_a_truncated_compressed_file(self, files, edit):
        for file in files:
            edit(file, lambda dataset: dataset.compress(RLELossless, generate_instance_uid=False))
        files[6].write_bytes(files[6].read_bytes()[:-100])
        with pytest.raises(FormatError, match=r"^0007\.dcm"):
            read_volume(files[0].parent)

    def test_a_file_without_pixels(self, files, edit):
        edit(files[6], PixelData=None)
        with pytest.raises(SeriesError, match=r"unreadable: 0007\.dcm holds no pixel data"):
            read_volume(files[0].parent)

    def test_pixels_of_another_size_than_the_header_says(self, tmp_path, edit):
        original = phantoms.volume(phantoms.geometry(shape=(72, 64, 3)))
        for file in write_series(original, tmp_path / "series", modality="CT"):
            edit(file, lambda dataset: dataset.compress(JPEG2000Lossless, generate_instance_uid=False))
            edit(file, Rows=60)
        with pytest.raises(FormatError, match=r"encoded as \(64, 72\) where the header says \(60, 72\)"):
            read_volume(tmp_path / "series")

    def test_a_decoder_that_returns_another_size(self, tmp_path, edit, monkeypatch):
        import imagecodecs

        original = phantoms.volume(phantoms.geometry(shape=(72, 64, 3)))
        for file in write_series(original, tmp_path / "series", modality="CT"):
            edit(file, lambda dataset: dataset.compress(JPEG2000Lossless, generate_instance_uid=False))
        monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda code: np.zeros((17, 12), np.uint16))
        with pytest.raises(FormatError, match=r"pixels of shape \(17, 12\) and type uint16"):
            read_volume(tmp_path / "series")
        monkeypatch.setattr(imagecodecs, "jpeg2k_decode", lambda code: np.zeros((64, 72), np.uint16))
        with pytest.raises(FormatError, match="bytes of pixels decode to zeros alone"):
            read_volume(tmp_path / "series")

    def test_a_file_that_vanishes(self, files):
        (info,) = list_series(files[0].parent)
        files[6].unlink()
        with pytest.raises(InputError, match=r"0007\.dcm cannot be read: No such file"):
            read_series(info)

    def test_files_that_changed_since_they_were_listed(self, files, edit):
        (info,) = list_series(files[0].parent)
        edit(files[6], ImagePositionPatient=[0, 0, 0])
        with pytest.raises(SeriesError, match="no longer as it was listed: 39 slices are missing"):
            read_series(info)

    def test_a_record_from_json_has_no_files(self, files):
        (info,) = list_series(files[0].parent)
        with pytest.raises(SeriesError, match="listed without its files"):
            read_series(SeriesInfo.model_validate_json(info.model_dump_json()))

    def test_a_series_that_cannot_be_read(self, files):
        files[4].unlink()
        (info,) = list_series(files[0].parent)
        with pytest.raises(SeriesError, match="missing: 1 slice is missing"):
            read_series(info)

    def test_no_patient_in_any_message(self, files, edit, tmp_path):
        for file in files:
            edit(file, PatientName="Doe^Jane", PatientID="4711", PatientBirthDate="19700101")
        folder = files[0].parent.rename(tmp_path / "Doe_Jane")
        (folder / "0005.dcm").unlink()
        with pytest.raises(SeriesError) as incomplete:
            read_volume(folder)
        for file in sorted(folder.iterdir())[1:]:
            file.unlink()
        (folder / "0001.dcm").write_bytes((folder / "0001.dcm").read_bytes()[:-100])
        with pytest.raises(SeriesError) as truncated:
            read_volume(folder)
        for caught in (incomplete, truncated):
            assert not any(word in str(caught.value) for word in ("Doe", "Jane", "4711", "1970"))
