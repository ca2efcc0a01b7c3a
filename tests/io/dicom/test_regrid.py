"""Uneven and leaning stacks, resampled by choice: against a function whose value at each place is known."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import Geometry, Volume, list_series, read_volume
from voxmetry.core.geometry import swap_lps_ras
from voxmetry.core.records import SeriesInfo
from voxmetry.errors import SeriesError
from voxmetry.flags.study import flag_source
from voxmetry.io import write_series

SHAPE = (48, 40, 9)


def linear(points):
    """A function of the place in RAS+ mm that linear interpolation follows exactly."""
    return 5 * points[..., 0] - 3 * points[..., 1] + 4 * points[..., 2]


def points_of(grid):
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return grid.to_mm(indices)


@pytest.fixture
def written(tmp_path):
    """Write slices whose stored values are the function at their own places, moved as asked for."""

    def make(offset):
        grid = phantoms.geometry(shape=SHAPE, spacing_mm=(0.9, 1.3, 2.5), degrees=(12, -7, 5))
        files = write_series(Volume(np.zeros(SHAPE, np.int16), grid), tmp_path / "s", modality="MR")
        for k, file in enumerate(files):
            data = pydicom.dcmread(file)
            row, column = np.reshape(np.array(data.ImageOrientationPatient, float), (2, 3))
            across, down, along = offset(k)
            place = np.array(data.ImagePositionPatient, float)
            place += across * row + down * column + along * np.cross(row, column)
            data.ImagePositionPatient = [f"{x:.8f}" for x in place]
            affine = np.eye(4)
            affine[:3, :3] = np.stack([row * 0.9, column * 1.3, np.cross(row, column)], axis=1)
            affine[:3, 3] = place
            own = Geometry(swap_lps_ras(affine), (data.Columns, data.Rows, 1))
            data.RescaleSlope, data.RescaleIntercept = "0.001", "0"
            values = np.rint(linear(points_of(own))[:, :, 0].T * 1000)
            data.BitsAllocated, data.BitsStored, data.HighBit = 32, 32, 31
            data.PixelData = values.astype("<i4").tobytes()
            data.save_as(file)
        return files

    return make


def assert_follows(volume, margin):
    inner = tuple(slice(m, n - m) for m, n in zip(margin, volume.array.shape, strict=True))
    np.testing.assert_allclose(volume.array[inner], linear(points_of(volume.geometry))[inner], atol=2e-3)
    assert volume.geometry.is_orthogonal


@pytest.mark.parametrize("lean", [(0.0, 0.7), (-0.45, 0.0), (0.31, -0.83)])
def test_a_tilted_stack(written, lean):
    files = written(lambda k: (k * lean[0], k * lean[1], 0))
    (info,) = list_series(files[0].parent)
    assert info.verdict == "tilted"
    with pytest.raises(SeriesError, match="the stack leans"):
        read_volume(files[0].parent)
    volume = read_volume(files[0].parent, resample_tilt=True)
    # The plane grows by the shift of the last slice, and is filled there with the lowest value.
    grown = [int(np.ceil(abs(8 * mm) / size - 1e-9)) for mm, size in zip(lean, (0.9, 1.3), strict=True)]
    assert volume.array.shape == (SHAPE[0] + grown[0], SHAPE[1] + grown[1], SHAPE[2])
    assert_follows(volume, (grown[0] + 1, grown[1] + 1, 0))
    angle = np.degrees(np.arctan(np.hypot(*lean) / 2.5))
    assert volume.source.processing == (f"resampled from a tilt of {angle:.2f} degrees, linear within each slice",)


def test_uneven_steps(written):
    files = written(lambda k: (0, 0, 0.9 * (k % 3)))
    with pytest.raises(SeriesError, match="uneven"):
        read_volume(files[0].parent)
    volume = read_volume(files[0].parent, allow_uneven=True)
    assert_follows(volume, (0, 0, 0))
    assert volume.source.processing[0].startswith("resampled from 9 slices at steps of 0.7 to 3.4 mm onto ")
    (flag,) = flag_source(volume.source)
    assert (flag.code, flag.severity) == ("resampled_source", "review")


def test_a_missing_slice_is_interpolated_by_choice(written):
    files = written(lambda k: (0, 0, 0))
    files[3].unlink()
    volume = read_volume(files[0].parent, allow_uneven=True)
    assert volume.array.shape == SHAPE
    assert_follows(volume, (0, 0, 0))
    assert "from 8 slices at steps of 2.5 to 5 mm onto 9 at 2.5 mm" in volume.source.processing[0]


def test_each_choice_is_its_own(written):
    files = written(lambda k: (0.4 * k, 0, 0))
    with pytest.raises(SeriesError, match="tilted"):
        read_volume(files[0].parent, allow_uneven=True)
    files[3].unlink()
    with pytest.raises(SeriesError, match=r"(?s)leans.*add --resample-tilt"):
        read_volume(files[0].parent, allow_uneven=True)
    with pytest.raises(SeriesError, match="missing"):
        read_volume(files[0].parent, resample_tilt=True)
    assert_follows(read_volume(files[0].parent, allow_uneven=True, resample_tilt=True), (5, 1, 0))


def test_what_was_not_resampled_is_not_flagged():
    plain = SeriesInfo(series_uid="1", n_files=1, n_slices=1, verdict="regular", processing=("SUVbw stored as SUV",))
    assert flag_source(plain) == flag_source(None) == ()
