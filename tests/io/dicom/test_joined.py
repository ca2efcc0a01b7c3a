"""One stack at two steps, as GE scans a head: 4 mm through its base, 7 mm above."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from voxmetry import Geometry, Volume, list_series, read_volume
from voxmetry.errors import SeriesError
from voxmetry.flags.study import flag_source
from voxmetry.io import write_series
from voxmetry.io.dicom.read.regrid import _fine_step

BASE, TOP = 8, 6


@pytest.fixture
def head(tmp_path):
    """Values are the height in mm, so that interpolation along it is exact."""
    heights = np.concatenate([np.arange(BASE) * 4.0, (BASE - 1) * 4.0 + 5.5 + np.arange(TOP) * 7.0])
    array = np.broadcast_to(np.round(heights * 10), (6, 5, len(heights))).astype(np.int16)
    affine = np.diag([-0.5, -0.6, 4.0, 1.0])
    grid = Geometry(affine, array.shape, "1.2.826.0.1.3680043.8.498.9")
    paths = write_series(Volume(array, grid), tmp_path / "ct", modality="MR", series_uid="1.2.5")
    for index, (path, height) in enumerate(zip(paths, heights, strict=True)):
        data = pydicom.dcmread(path)
        data.ImagePositionPatient[2] = float(height)
        data.SliceThickness = 4 if index < BASE else 7
        data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX" if index < BASE else "STEP"]
        if "SpacingBetweenSlices" in data:
            del data.SpacingBetweenSlices
        data.save_as(path)
    return tmp_path / "ct"


def test_the_whole_is_listed_beside_its_parts(head):
    base, top, whole = list_series(head)
    assert [(info.verdict, info.n_slices, info.joins) for info in (base, top)] == [
        ("regular", BASE, ()),
        ("regular", TOP, ()),
    ]
    assert (whole.key, whole.verdict, whole.n_slices, whole.joins) == ("1.2.5#3", "uneven", BASE + TOP, (1, 2))
    assert whole.reason == (
        "8 slices 4 mm apart, then 6 slices 7 mm apart, as one stack; #1 and #2 are its parts, and --allow-uneven "
        "(allow_uneven=True) reads it as a whole"
    )


def test_without_a_choice_it_is_refused_and_says_which_there_are(head):
    with pytest.raises(SeriesError, match="2 series that could be taken") as caught:
        read_volume(head)
    assert "--allow-uneven (allow_uneven=True) reads it as a whole" in caught.value.found
    assert read_volume(head, series="1.2.5#2").array.shape == (6, 5, TOP)


def test_the_head_as_one(head):
    volume = read_volume(head, allow_uneven=True)
    step = 68.5 / 17
    assert volume.array.shape == (6, 5, 18)
    assert volume.geometry.spacing_mm[2] == pytest.approx(step)
    expected = np.broadcast_to(np.arange(18) * step * 10, (6, 5, 18))
    np.testing.assert_allclose(volume.array, expected, atol=0.6)
    assert volume.source.processing[-1].startswith("resampled from 14 slices at steps of 4 to 7 mm onto 18 at 4.029 mm")
    assert [flag.code for flag in flag_source(volume.source)] == ["resampled_source"]
    assert read_volume(head, series="1.2.5#1", allow_uneven=True).array.shape == (6, 5, BASE)


def test_stacks_with_a_hole_between_them_are_not_joined(head):
    for path in sorted(head.iterdir())[BASE : BASE + 2]:
        path.unlink()
    assert [(info.verdict, info.n_slices) for info in list_series(head)] == [("regular", BASE), ("regular", TOP - 2)]


def test_the_step_of_one_slice_that_was_repeated_does_not_count():
    assert _fine_step(np.array([3.0] * 20 + [0.2])) == 3.0
    assert _fine_step(np.array([2.9, 3.0, 3.1, 3.0, 2.95])) == pytest.approx(3.0, abs=0.05)
