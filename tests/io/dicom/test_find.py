"""Finding files: trees, zip archives, DICOMDIR, and what must not be trusted in them."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import sys
import threading
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet
from pydicom.uid import DeflatedExplicitVRLittleEndian

from voxmetry import list_series, read_volume
from voxmetry.errors import InputError, SeriesError
from voxmetry.io import read_series
from voxmetry.io.dicom.read import find, opened


def zipped(files, path, **names):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
        for name, content in names.items():
            archive.writestr(name, content)
    return path


class TestZip:
    def test_equals_the_folder(self, files, tmp_path):
        archive = zipped(files, tmp_path / "study.zip", **{"__MACOSX/._0001.dcm": b"x", "notes.txt": b"x"})
        (info,) = list_series(archive)
        assert (info.verdict, info.n_slices) == ("regular", 11)
        np.testing.assert_array_equal(read_volume(archive).array, read_volume(files[0].parent).array)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["series", "study.zip"]

    def test_a_name_that_leads_out_of_the_archive_is_only_a_name(self, files, tmp_path):
        archive = tmp_path / "study.zip"
        with zipfile.ZipFile(archive, "w") as content:
            for file in files:
                content.write(file, f"../../{file.name}")
        assert read_volume(archive).array.shape == (13, 17, 11)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["series", "study.zip"]

    def test_a_bomb(self, files, tmp_path):
        archive = zipped(files, tmp_path / "study.zip", **{"bomb.dcm": bytes(40 << 20)})
        with pytest.raises(InputError, match="unpacks to far more than it holds"):
            list_series(archive)

    @pytest.mark.parametrize(
        ("limit", "value", "words"),
        [("MOST_MEMBERS", 5, "an archive of 11 files"), ("MOST_UNPACKED", 99, "unpacks to")],
    )
    def test_limits(self, files, tmp_path, monkeypatch, limit, value, words):
        monkeypatch.setattr(opened, limit, value)
        with pytest.raises(InputError, match=words):
            list_series(zipped(files, tmp_path / "study.zip"))

    def test_two_files_of_one_name(self, files, tmp_path):
        archive = tmp_path / "study.zip"
        with zipfile.ZipFile(archive, "w") as content:
            content.write(files[0], "a/1")
            content.write(files[1], "../a/1")
        with pytest.raises(InputError, match="two files of one name"):
            list_series(archive)

    def test_an_encrypted_archive(self, files, tmp_path):
        archive = zipped(files, tmp_path / "study.zip")
        content = bytearray(archive.read_bytes())
        place = content.rindex(b"PK\x01\x02")
        content[place + 8] |= 1
        archive.write_bytes(content)
        with pytest.raises(InputError, match="an encrypted archive"):
            list_series(archive)

    def test_a_damaged_member(self, files, tmp_path):
        archive = zipped(files, tmp_path / "study.zip")
        content = bytearray(archive.read_bytes())
        content[200:260] = bytes(60)
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"0001\.dcm cannot be read"):
            list_series(archive)

    def test_an_archive_that_ends_early(self, files, tmp_path):
        archive = zipped(files, tmp_path / "study.zip")
        archive.write_bytes(archive.read_bytes()[:-300])
        with pytest.raises(InputError):
            list_series(archive)


@pytest.fixture
def media(files, tmp_path, edit):
    """The series on a medium with a DICOMDIR."""
    for file in files:
        edit(file, PatientID="1", PatientName="A", StudyDate="20200101", StudyTime="120000", StudyID="1")
    medium = FileSet()
    for file in files:
        medium.add(file)
    medium.write(tmp_path / "medium")
    # A FileSet refers to itself: its staging folder goes, with a warning, when the collector comes by. Here, not later.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del medium
        gc.collect()
    return tmp_path / "medium"


class TestDicomdir:
    def test_stands_for_its_files(self, media, files):
        shutil.copy(files[0], media / "stray")
        (info,) = list_series(media / "DICOMDIR")
        assert (info.verdict, info.n_slices) == ("regular", 11)
        assert read_volume(media / "DICOMDIR").array.shape == (13, 17, 11)

    def test_a_lost_last_slice_leaves_no_gap_but_is_named(self, media):
        (info,) = list_series(media)
        assert info.verdict == "regular"
        os.remove(info.files[-1])  # noqa: PTH107
        for source in (media, media / "DICOMDIR"):
            (info,) = list_series(source)
            assert (info.verdict, info.n_slices) == ("missing", 10)
            assert "the DICOMDIR names 1 more files of this series that are not there: PT000000/" in info.reason
        with pytest.raises(SeriesError, match="the DICOMDIR names"):
            read_volume(media)
        assert read_volume(media, allow_uneven=True).array.shape == (13, 17, 10)

    def test_names_in_another_case(self, media):
        moved = [file for file in media.rglob("*") if file.is_file() and file.name != "DICOMDIR"]
        for file in moved:
            file.rename(file.with_name(file.name.lower()))
        (info,) = list_series(media)
        assert (info.verdict, info.n_slices) == ("regular", 11)


def test_progress_counts_every_file(files):
    for index in range(100):
        (files[0].parent / f"note{index}.txt").write_text("x")
    seen = []
    list_series(files[0].parent, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 111), (111, 111)]
    told = []
    (info,) = list_series(files[0].parent)
    read_series(info, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 11) for done in range(1, 12)]


def test_ten_thousand_unrelated_files(files):
    for index in range(10_000):
        (files[0].parent / f"note{index}").touch()
    (info,) = list_series(files[0].parent)
    assert (info.verdict, info.n_slices) == ("regular", 11)


def test_a_file_that_vanishes_while_the_folder_is_listed(files, monkeypatch):
    original = os.open

    def late(path, *rest, **options):
        if str(path).endswith("0007.dcm"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return original(path, *rest, **options)

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(InputError, match=r"0007\.dcm cannot be read: No such file or directory") as caught:
        list_series(files[0].parent)
    assert str(files[0].parent) not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes in folders there")
def test_a_named_pipe_does_not_stop_the_listing(files):
    os.mkfifo(files[0].parent / "pipe")
    (info,) = list_series(files[0].parent)
    assert info.verdict == "regular"


def test_a_dose_page_and_a_localizer_are_told_apart(files, edit):
    edit(files[0], ImageType=["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"], ImagePositionPatient=None)
    edit(files[10], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    slices, page, localizer = list_series(files[0].parent)
    assert (slices.verdict, slices.n_slices) == ("regular", 9)
    assert "a page that the scanner made" in page.reason
    assert "a localizer" in localizer.reason
    dose = pydicom.dcmread(files[1])
    dose.SOPClassUID, dose.SeriesDescription = "1.2.840.10008.5.1.4.1.1.7", "Dose Report"
    dose.SeriesInstanceUID = "1.2.9"
    dose.save_as(files[0].parent / "dose")
    assert "a dose report" in list_series(files[0].parent)[-1].reason


@pytest.mark.parametrize(("worked", "threads"), [(1.0, False), (0.1, True)], ids=["at hand", "waiting"])
def test_threads_read_headers_where_files_make_one_wait(files, monkeypatch, worked, threads):
    """Of a second that the first chunk takes, the share spent working decides; what is found is the same."""
    for index in range(150):
        (files[0].parent / f"note{index}.txt").write_text("x")
    seconds, work, used = itertools.count(), itertools.count(step=worked), set()
    monkeypatch.setattr(find.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(find.time, "thread_time", lambda: next(work))
    header = find._header
    monkeypatch.setattr(find, "_header", lambda *of: (used.add(threading.get_ident()), header(*of))[1])
    (info,) = list_series(files[0].parent)
    assert (info.verdict, info.n_slices) == ("regular", 11)
    assert (used != {threading.get_ident()}) == threads


class TestDirfile:
    """Philips' exports: a DIRFILE in each folder, whose names count from the root of the medium."""

    @pytest.fixture
    def export(self, files, tmp_path):
        folder = tmp_path / "export" / "S1" / "S10"
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder / f"IM_{file.stem}")
        _directory(folder / "DIRFILE", [("IMAGE", ["S1", "S10", f"IM_{file.stem}"]) for file in files])
        _directory(folder.parent / "DIRFILE", [("SERIES", ["S1", "S10", "DIRFILE"])])
        return tmp_path / "export"

    @pytest.mark.parametrize("part", ["", "S1", "S1/S10", "S1/DIRFILE", "S1/S10/DIRFILE"])
    def test_every_way_in(self, export, part):
        (info,) = list_series(export / part)
        assert (info.verdict, info.n_slices, info.reason) == ("regular", 11, "")

    def test_a_file_that_is_named_and_is_not_there(self, export):
        _directory(
            export / "S1" / "S10" / "DIRFILE",
            [("SERIES", ["S1", "S10", "DIRFILE"]), *(("IMAGE", ["S1", "S10", f"IM_{i:04}"]) for i in range(1, 13))],
        )
        (info,) = list_series(export)
        assert info.verdict == "missing"
        assert info.reason.endswith("that are not there: S1/S10/IM_0012")

    def test_names_below_the_directory_itself_come_first(self, export):
        """A copy of the whole medium lies above it; the files beside it are meant."""
        other = export / "S1" / "S10" / "S1" / "S10"
        other.mkdir(parents=True)
        shutil.copy(export / "S1" / "S10" / "IM_0001", other / "IM_0001")
        found = find.find(export / "S1" / "S10" / "DIRFILE")
        assert len(found.headers) == 11


def _directory(path, records):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.9"
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    dataset.DirectoryRecordSequence = []
    for kind, name in records:
        record = pydicom.Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = kind, name
        record.SeriesInstanceUID = "1.2.3"
        dataset.DirectoryRecordSequence.append(record)
    dataset.save_as(path, enforce_file_format=True)


class TestDeflated:
    """Two megabytes of deflated DICOM took 4.3 GB to look at."""

    @pytest.fixture
    def bomb(self, files):
        dataset = pydicom.dcmread(files[3])
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.add_new(0x00091010, "LO", "X")
        dataset.add_new(0x00091011, "OB", bytes(120_000_000))
        dataset.save_as(files[3], enforce_file_format=True)
        assert files[3].stat().st_size < 200_000
        return files

    def test_far_more_than_images_pack_to_is_not_inflated(self, bomb):
        series, stray = list_series(bomb[0].parent)
        assert series.n_slices == len(bomb) - 1
        assert (stray.verdict, stray.n_files) == ("unreadable", 1)

    def test_the_limit_that_is_set_holds(self, files, monkeypatch):
        dataset = pydicom.dcmread(files[3])
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        dataset.save_as(files[3], enforce_file_format=True)
        assert [info.verdict for info in list_series(files[0].parent)] == ["regular"]
        monkeypatch.setenv("VOXMETRY_IMAGE_GB", "0.000001")
        assert list_series(files[0].parent)[-1].verdict == "unreadable"
