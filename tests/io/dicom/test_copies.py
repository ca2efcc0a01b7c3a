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
from voxmetry.flags.study import flag_source
from voxmetry.io import read_series

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
    (folder / "0099.dcm").symlink_to("nowhere")
    (folder / "loop.dcm").symlink_to("loop.dcm")
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
        ("not an image", "a link that leads nowhere: 0099.dcm, loop.dcm"),
        ("not an image", "no file, but a pipe, a socket or a device: null.ima, pipe.dcm, socket.dcm"),
    ]
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array, plain.array)
    assert volume.source.processing[0] == "passed over: a link that leads nowhere (2 in its folders)"
    assert {flag.code for flag in flag_source(volume.source)} == {"files_passed_over"}


@POSIX
def test_a_link_in_another_folder_says_nothing_of_the_series(files, tmp_path):
    (files[0].parent / "other").mkdir()
    (files[0].parent / "other" / "x.dcm").symlink_to("nowhere")
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
