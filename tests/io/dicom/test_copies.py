"""What lies in a folder beside good slices: copies, links that lead nowhere, pipes, names that are no text."""

from __future__ import annotations

import os
import shutil
import socket
import sys

import numpy as np
import pydicom
import pytest

from voxmetry import list_series, read_volume
from voxmetry.errors import SeriesError
from voxmetry.flags.study import flag_source
from voxmetry.io import read_series
from voxmetry.workflows.cohort.discover import find_studies

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="no such entries in folders there")


def test_copies_byte_for_byte_are_dropped_with_a_word(files):
    plain = read_volume(files[0].parent)
    (files[0].parent / "again").mkdir()
    for file in files[:4]:
        shutil.copy(file, files[0].parent / "again" / file.name)
    shutil.copy(files[2], files[0].parent / "third")
    (info,) = list_series(files[0].parent)
    assert (info.verdict, info.n_slices, info.n_files) == ("regular", 11, 11)
    (told,) = info.processing
    assert told == "dropped: 5 files that are copies, byte for byte, of others"
    volume = read_series(info)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert (volume.source.processing, flag_source(volume.source)) == ((told,), ())


def test_copies_in_an_archive(files, tmp_path):
    shutil.copytree(files[0].parent, tmp_path / "study" / "a")
    shutil.copytree(files[0].parent, tmp_path / "study" / "b")
    shutil.make_archive(str(tmp_path / "study"), "zip", tmp_path / "study")
    (info,) = list_series(tmp_path / "study.zip")
    assert (info.verdict, info.n_files) == ("regular", 11)


def test_two_files_of_one_identifier_that_differ_are_still_refused(files):
    """Another header or other pixels: which of the two is meant is not known."""
    dataset = pydicom.dcmread(files[3])
    dataset.SeriesDescription = "phantoM"
    dataset.save_as(files[0].parent / "copy.dcm")
    (info,) = list_series(files[0].parent)
    assert info.verdict == "duplicate"
    assert "copies of one another" in info.reason


@POSIX
def test_what_is_no_file_is_passed_over_with_a_word(files):
    plain = read_volume(files[0].parent)
    folder = files[0].parent
    (folder / "null.ima").symlink_to("/dev/null")
    os.mkfifo(folder / "pipe.dcm")
    here = os.getcwd()  # noqa: PTH109  (a socket's path is short)
    os.chdir(folder)
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket.dcm")
            series, *others = list_series(folder)
    finally:
        os.chdir(here)
    assert (series.verdict, series.n_slices) == ("regular", 11)
    assert [(info.verdict, info.reason) for info in others] == [
        ("not an image", "no file, but a pipe, a socket or a device: null.ima, pipe.dcm, socket.dcm"),
    ]
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert volume.source.processing[0] == "passed over: no file, but a pipe, a socket or a device (3 in its folders)"
    assert {flag.code for flag in flag_source(volume.source)} == {"files_passed_over"}


@POSIX
@pytest.mark.parametrize("name", ["0099.dcm", "IM0099", "1.2.840.99"])
def test_a_link_to_a_lost_file_is_a_lost_slice_in_a_folder_and_in_a_cohort_alike(files, name):
    """A first or last slice that is gone leaves no gap: one rule for a damaged file and for one that is not there."""
    folder = files[0].parent
    (folder / name).symlink_to("nowhere")
    (folder / "notes.txt").symlink_to("nowhere")
    (folder / "loop.dcm").symlink_to("loop.dcm")
    series, stray = list_series(folder)
    assert (series.verdict, series.n_slices) == ("regular", 11)
    assert (stray.verdict, stray.n_files) == ("unreadable", 2)
    assert stray.reason == f"a link to a file that is not there: {', '.join(sorted([name, 'loop.dcm']))}"
    with pytest.raises(SeriesError, match="2 damaged files beside 1 series that could be taken"):
        read_volume(folder)
    assert read_volume(folder, series=series.series_uid).array.shape == (13, 17, 11)
    rows = {one.case: one.fault.found for one in find_studies(folder.parent).candidates if one.fault}
    assert any("damaged files beside it" in found for found in rows.values()), rows
    assert not any("notes" in case for case in rows)


@POSIX
def test_a_pipe_in_another_folder_says_nothing_of_the_series(files, tmp_path):
    (files[0].parent / "other").mkdir()
    os.mkfifo(files[0].parent / "other" / "x.dcm")
    assert read_volume(files[0].parent).source.processing == ()


@pytest.mark.skipif(sys.platform != "linux", reason="names are text there")
def test_a_name_that_is_no_text(files):
    os.rename(os.fsencode(files[5]), os.fsencode(files[0].parent) + b"/l\xe4sion.dcm")  # noqa: PTH104
    assert read_volume(files[0].parent).array.shape == (13, 17, 11)
    os.rename(os.fsencode(files[6]), os.fsencode(files[0].parent) + b"/\xff.dcm")  # noqa: PTH104
    with open(os.fsencode(files[0].parent) + b"/\xfe.dcm", "wb") as damaged:  # noqa: PTH123
        damaged.write(b"x")
    for info in list_series(files[0].parent):
        assert info.model_dump_json().isascii() or "\udcff" not in info.reason
        info.reason.encode("utf-8")
    assert "?" in list_series(files[0].parent)[-1].reason or "\ufffd" in list_series(files[0].parent)[-1].reason
