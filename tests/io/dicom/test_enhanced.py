"""Enhanced multi-frame objects: geometry and scaling from the functional groups of each frame."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from frames import enhance
from voxmetry import list_series, read_volume
from voxmetry.errors import SeriesError
from voxmetry.io import read_series


@pytest.mark.parametrize("shared_spacing", [True, False])
def test_equals_the_classic_series(files, tmp_path, shared_spacing):
    path = enhance(files, tmp_path / "e" / "x", shared_spacing=shared_spacing)
    (info,) = list_series(path.parent)
    assert (info.verdict, info.n_files, info.n_slices, info.rows) == ("regular", 1, 11, 17)
    enhanced, classic = read_volume(path.parent), read_volume(files[0].parent)
    np.testing.assert_array_equal(enhanced.array, classic.array)
    np.testing.assert_allclose(enhanced.geometry.affine, classic.geometry.affine, atol=1e-12)
    assert enhanced.geometry.frame_uid == classic.geometry.frame_uid
    np.testing.assert_array_equal(read_volume(path).array, classic.array)


def test_each_frame_has_its_own_scaling(files, tmp_path):
    order = tuple(range(11))
    path = enhance(files, tmp_path / "e" / "x", order=order, slopes=[k + 0.5 for k in order])
    expected = read_volume(files[0].parent).array * (np.arange(11) + 0.5) + 1
    np.testing.assert_array_equal(read_volume(path).array, expected)


def test_a_volume_in_two_files(files, tmp_path):
    first = enhance(files, tmp_path / "e" / "x", order=(4, 3, 2, 1, 0))
    second = enhance(files, tmp_path / "f" / "y", order=(10, 9, 8, 7, 6, 5))
    second.rename(first.with_name("y"))
    np.testing.assert_array_equal(read_volume(first.parent).array, read_volume(files[0].parent).array)


def test_two_echoes_in_one_file(files, tmp_path):
    order = (*range(11), *range(11))
    path = enhance(files, tmp_path / "e" / "x", order=order, notes=[2.5] * 11 + [5.0] * 11)
    first, second = list_series(path.parent)
    assert (first.verdict, first.n_slices, first.differs) == ("regular", 11, {"Echo Time": "2.5"})
    assert (second.key, second.differs, second.files) == ("1.2.3#2", {"Echo Time": "5.0"}, first.files)
    assert {index for _, index in second.frames} == set(range(11, 22))
    with pytest.raises(SeriesError, match="2 series that could be taken"):
        read_volume(path)
    np.testing.assert_array_equal(
        read_volume(path, series="1.2.3#2").array, read_volume(files[0].parent, series="1.2.3").array
    )


def test_a_file_that_lost_frames_since_it_was_listed(files, tmp_path):
    path = enhance(files, tmp_path / "e" / "x")
    (info,) = list_series(path.parent)
    enhance(files, tmp_path / "f" / "y", order=(0, 1, 2, 3)).replace(path)
    with pytest.raises(SeriesError, match="no longer as it was listed: 4 slices in place of 11"):
        read_series(info)


def test_a_missing_frame(files, tmp_path):
    path = enhance(files, tmp_path / "e" / "x", order=(0, 1, 2, 3, 5, 6, 7))
    (info,) = list_series(path.parent)
    assert info.verdict == "missing"
    assert "5.2 mm between frame 4 of x and frame 5 of x" in info.reason


@pytest.mark.parametrize(
    ("sequence", "words"),
    [
        ("PlanePositionSequence", "frame 3 of x has no usable Image Position (Patient)"),
        (None, "x has 11 frames and 10 descriptions of frames"),
    ],
)
def test_a_frame_without_place(files, tmp_path, sequence, words):
    path = enhance(files, tmp_path / "e" / "x")
    dataset = pydicom.dcmread(path)
    if sequence:
        del dataset.PerFrameFunctionalGroupsSequence[2][sequence]
    else:
        del dataset.PerFrameFunctionalGroupsSequence[2]
    dataset.save_as(path)
    (info,) = list_series(path.parent)
    assert info.verdict == "unreadable"
    assert words in info.reason
