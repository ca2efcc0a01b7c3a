"""Listing: what is found, grouped and judged, from headers alone."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, SecondaryCaptureImageStorage

from voxmetry import list_series, read_volume
from voxmetry.errors import InputError, SeriesError
from voxmetry.io.dicom.read.elements import parse
from voxmetry.io.dicom.read.encoding import DamagedError


def only(path):
    (info,) = list_series(path)
    return info


def test_a_series_is_described(files):
    info = only(files[0].parent)
    assert (info.series_uid, info.modality, info.description, info.verdict) == ("1.2.3", "MR", "phantom", "regular")
    assert (info.n_files, info.n_slices, info.rows, info.columns) == (11, 11, 17, 13)
    assert info.spacing_mm == (0.9, 1.3, 2.6)
    assert (info.axcodes, info.sop_class, info.transfer_syntax) == (
        "LPS",
        "MR Image Storage",
        "Explicit VR Little Endian",
    )
    assert info.files == tuple(map(str, files))


def test_pixels_are_not_read(files, edit, monkeypatch):
    from voxmetry.io.dicom.read import headers, opened

    for file in files:
        edit(file, Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2))
    seen = []
    original = opened._OnDisk.read_at
    monkeypatch.setattr(opened._OnDisk, "read_at", lambda self, *place: seen.append(place) or original(self, *place))
    assert only(files[0].parent).verdict == "regular"
    assert seen == [(0, headers._FIRST_BYTES)] * 11


def test_json_holds_no_paths_and_no_patient(files, edit):
    edit(files[0], PatientName="Doe^Jane", PatientID="4711")
    text = json.dumps([info.model_dump(mode="json") for info in list_series(files[0].parent)])
    assert "Doe" not in text
    assert "4711" not in text
    assert "series/" not in text


def test_names_and_folders_do_not_matter(files, tmp_path):
    for index, file in enumerate(files):
        folder = tmp_path / "study" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / f"IM{(index * 7) % 11}")
    (tmp_path / "study" / "notes.txt").write_text("08")
    (tmp_path / "study" / "empty").write_bytes(b"")
    info = only(tmp_path / "study")
    assert (info.verdict, info.n_slices) == ("regular", 11)
    order = [pydicom.dcmread(file).InstanceNumber for file in info.files]
    assert order == sorted(order)


def test_a_file_stands_for_its_series_in_its_folder(files, tmp_path, volume):
    from voxmetry.io import write_series

    for file in write_series(volume, tmp_path / "other", modality="CT", series_uid="1.2.4"):
        shutil.copy(file, files[0].parent / f"other-{file.name}")
    assert len(list_series(files[0].parent)) == 2
    info = only(files[5])
    assert (info.series_uid, info.n_slices) == ("1.2.3", 11)


def test_hidden_files_are_passed_over(files):
    (files[0].parent / "._0001.dcm").write_bytes(b"Mac OS X")
    assert only(files[0].parent).verdict == "regular"


def test_linked_folders_are_followed_once(files, tmp_path):
    (files[0].parent / "again").symlink_to(files[0].parent)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "link").symlink_to(files[0].parent)
    assert only(tmp_path / "study").n_files == 11


def test_a_folder_that_may_not_be_opened_is_not_passed_over(files, monkeypatch):
    original = os.scandir
    locked = files[0].parent / "locked"
    locked.mkdir()

    def scandir(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match="locked cannot be read: Permission denied"):
        list_series(files[0].parent)


def test_a_file_that_may_not_be_read_is_not_passed_over(files, monkeypatch):
    original = os.open

    def refuse(path, flags, *more, **options):
        if str(path).endswith("0001.dcm"):
            raise PermissionError(13, "Permission denied")
        return original(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match=r"0001\.dcm cannot be read: Permission denied"):
        list_series(files[0].parent)


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(InputError, match="nothing at gone"):
        list_series(tmp_path / "gone")


def test_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM file in empty"):
        list_series(tmp_path / "empty")


def test_a_file_that_is_not_dicom(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"no DICOM file in a\.txt"):
        list_series(tmp_path / "a.txt")


@pytest.mark.parametrize("content", [b"", b"not DICOM", bytes(128) + b"DICM" + b"\xff" * 40])
def test_a_damaged_file_is_reported_and_not_guessed_at(files, content):
    """It may have been the last slice, where no gap shows the loss."""
    files[-1].write_bytes(content)
    infos = list_series(files[0].parent)
    assert [info.verdict for info in infos] == ["regular", "unreadable"]
    assert "0011.dcm" in infos[1].reason
    with pytest.raises(SeriesError, match="1 damaged files beside 1 series"):
        read_volume(files[0].parent)
    assert read_volume(files[0].parent, series="1.2.3").array.shape == (13, 17, 10)


def test_a_blank_series_uid_groups_by_folder_and_study(files, edit):
    for file in files:
        edit(file, SeriesInstanceUID="", SOPClassUID="")
    info = only(files[0].parent)
    assert (info.series_uid, info.verdict, info.n_slices) == ("", "regular", 11)
    assert read_volume(files[0].parent).source == info


def test_a_file_without_series_and_modality_belongs_nowhere(files, edit):
    edit(files[0], SeriesInstanceUID=None, Modality=None)
    assert list_series(files[0].parent)[-1].reason.endswith("nor Modality: 0001.dcm")


def test_a_directory_file_is_no_image(files):
    dataset = pydicom.dcmread(files[0])
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.SOPClassUID = "1.2.840.10008.1.3.10"
    dataset.save_as(files[0].parent / "DICOMDIR")
    assert only(files[0].parent).n_files == 11


def test_a_file_without_preamble_and_meta_header(files):
    for file in files[::2]:
        dataset = pydicom.dcmread(file)
        del dataset.file_meta, dataset.preamble
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    assert not files[0].read_bytes()[128:].startswith(b"DICM")
    info = only(files[0].parent)
    assert (info.verdict, info.n_slices) == ("regular", 11)
    assert read_volume(files[0].parent).array.max() == 1000


@pytest.mark.parametrize(
    ("elements", "verdict", "words"),
    [
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "not an image", "a secondary capture"),
        ({"SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.481.3")}, "not an image", "RT Structure Set Storage"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "not an image", "a localizer"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "unreadable", "Siemens mosaic"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "unreadable", "colour picture"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "unreadable", "colour picture"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "unreadable", "Modality LUT"),
        ({"ImagePositionPatient": None}, "unreadable", "0001.dcm has no usable Image Position (Patient)"),
        ({"ImageOrientationPatient": None}, "unreadable", "no usable Image Orientation (Patient)"),
        ({"PixelSpacing": None}, "unreadable", "no usable Pixel Spacing"),
        ({"Rows": None}, "unreadable", "no usable Rows or Columns"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "unreadable", "the slope is 0"),
        ({"RescaleSlope": "2"}, "unreadable", "are not two numbers"),
        ({"NumberOfFrames": 3}, "unreadable", "3 frames without a position for each"),
    ],
)
def test_verdicts_on_what_the_files_are(files, edit, elements, verdict, words):
    for file in files:
        edit(file, **elements)
    info = only(files[0].parent)
    assert info.verdict == verdict
    assert words in info.reason
    assert not info.readable
    with pytest.raises(SeriesError, match="no series that could be taken"):
        read_volume(files[0].parent)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "a secondary capture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
    ],
)
@pytest.mark.parametrize(("which", "verdict"), [(0, "regular"), (3, "missing")])
def test_something_else_in_the_series_is_set_apart(files, edit, elements, words, which, verdict):
    edit(files[which], **elements)
    slices, other = list_series(files[0].parent)
    assert (slices.verdict, slices.n_slices, slices.key) == (verdict, 10, "1.2.3")
    assert (other.verdict, other.n_files) == ("not an image", 1)
    assert words in other.reason


def test_an_encoding_without_decoder(files, edit):
    def encode(dataset):
        dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.100")  # MPEG-2
        dataset.PixelData = pydicom.encaps.encapsulate([b"\0\0"])
        dataset["PixelData"].is_undefined_length = True

    for file in files:
        edit(file, encode)
    info = only(files[0].parent)
    assert info.verdict == "unreadable"
    assert "there is no decoder" in info.reason


def test_a_missing_slice_names_the_files_around_the_gap(files):
    files[4].unlink()
    info = only(files[0].parent)
    assert info.verdict == "missing"
    assert "5.2 mm between 0004.dcm and 0006.dcm" in info.reason


def test_copies_in_two_folders(files, tmp_path):
    shutil.copytree(files[0].parent, tmp_path / "study" / "a")
    shutil.copytree(files[0].parent, tmp_path / "study" / "b")
    for file in (tmp_path / "study" / "b").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.SeriesDescription = "exported again"
        dataset.save_as(file)
    info = only(tmp_path / "study")
    assert (info.verdict, info.n_slices, info.n_files) == ("duplicate", 11, 22)
    assert "22 slices at 11 places: a/0001.dcm, b/0001.dcm" in info.reason
    assert "copies of one another" in info.reason
    assert "study" not in info.reason


def test_two_sizes(files, edit):
    def halve(dataset):
        dataset.Rows, dataset.PixelData = 16, dataset.PixelData[: 16 * 13 * 2]

    edit(files[2], halve)
    large, small = list_series(files[0].parent)
    assert (large.verdict, large.differs, large.n_slices) == ("missing", {"Size": "13 x 17"}, 10)
    assert (small.verdict, small.differs, small.key) == ("single", {"Size": "13 x 16"}, "1.2.3#2")
    with pytest.raises(SeriesError, match=r"one of the 2 volumes that series 1\.2\.3 mixes; others cannot be read"):
        read_volume(files[0].parent)
    assert read_volume(files[0].parent, series="1.2.3#2").array.shape == (13, 16, 1)


def test_slices_around_an_axis_are_no_volume(files, edit):
    for index, file in enumerate(files):
        angle = np.radians(10 * index)
        edit(file, ImageOrientationPatient=[np.cos(angle), np.sin(angle), 0, 0, 0, -1])
    info = only(files[0].parent)
    assert info.verdict == "mixed"
    assert "11 orientations in one series" in info.reason


def test_series_come_by_number(files, tmp_path, volume, edit):
    from voxmetry.io import write_series

    for file in write_series(volume, files[0].parent / "x", modality="CT", series_uid="1.2.4"):
        edit(file, SeriesNumber=0)
    assert [info.modality for info in list_series(files[0].parent)] == ["CT", "MR"]


def test_malformed_text_elements_do_not_stop_the_listing(files):
    for file in files:
        content = file.read_bytes()
        at = content.index(b"\x20\x00\x11\x00IS") + 8
        file.write_bytes(content[:at] + b"1x" + content[at + 2 :])
    assert only(files[0].parent).number is None


def test_a_nul_inside_a_number_is_damage_and_not_padding(files):
    data = files[0].read_bytes()
    assert parse(data, whole=True).get("ImagePositionPatient")
    position = pydicom.dcmread(files[0])["ImagePositionPatient"].value
    written = "\\".join(x.original_string for x in position).encode()
    assert data.count(written) == written.count(b"\\-") == 1
    # Stripped, the number would be there without its sign.
    damaged = data.replace(written, written.replace(b"\\-", b"\\\0"))
    with pytest.raises(DamagedError, match="NUL"):
        parse(damaged, whole=True).get("ImagePositionPatient")


def test_a_character_set_that_swallows_what_follows_is_damage(files, edit):
    edit(files[3], SpecificCharacterSet="ISO_IR 100")
    data = files[3].read_bytes()
    at = data.index(b"\x08\x00\x05\x00CS") + 6
    length = int.from_bytes(data[at : at + 2], "little")
    following = at + 2 + length
    swallowed = 8 + int.from_bytes(data[following + 6 : following + 8], "little")
    lying = data[:at] + (length + swallowed).to_bytes(2, "little") + data[at + 2 :]
    with pytest.raises(DamagedError, match="NUL inside Specific Character Set"):
        parse(lying, whole=True)
    files[3].write_bytes(lying)
    verdicts = {info.verdict: info for info in list_series(files[0].parent)}
    assert "unreadable" in verdicts
    assert "0004.dcm" in verdicts["unreadable"].reason
