"""Values that no scanner makes are refused."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

import phantoms
from voxmetry import read_volume
from voxmetry.errors import SeriesError
from voxmetry.io import write_series


def series(tmp_path, change, shape=(40, 36, 4)):
    grid = phantoms.geometry(shape=shape)
    body = np.linspace(-1000, 800, int(np.prod(shape))).reshape(shape, order="F").astype(np.int16)
    files = write_series(phantoms.Volume(change(body).astype(np.int16), grid), tmp_path / "series", modality="CT")
    return files[0].parent


def test_hounsfield_units_pass(tmp_path):
    assert read_volume(series(tmp_path, lambda hu: hu)).unit == "HU"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255), "as of a picture of 8 bits"),
        (lambda hu: np.full_like(hu, 40), "all voxels are 40"),
        (lambda hu: hu // 2 - 2000, "half are below -1100"),
        (lambda hu: np.where(hu > 700, 32600, hu), "CT values up to 32600"),
    ],
)
def test_values_that_are_no_hounsfield_units(tmp_path, change, words):
    with pytest.raises(SeriesError, match=words):
        read_volume(series(tmp_path, change))


def test_a_lost_intercept_in_a_field_that_holds_air(tmp_path):
    folder = series(tmp_path, lambda hu: hu + 1000, shape=(300, 200, 2))
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelSpacing = [1.5, 1.0]
        dataset.save_as(file)
    with pytest.raises(SeriesError, match="none below 0 in a field that holds air"):
        read_volume(folder)


def test_a_small_field_without_a_rescaling_is_not_in_hounsfield_units(tmp_path):
    folder = series(tmp_path, lambda hu: hu + 1024)
    for file in folder.iterdir():
        dataset = pydicom.dcmread(file)
        del dataset.RescaleSlope, dataset.RescaleIntercept
        dataset.save_as(file)
    with pytest.raises(SeriesError, match="CT values from 24 to 1824 without Rescale Slope and Intercept"):
        read_volume(folder)


@pytest.mark.parametrize(("blank", "refused"), [((1,), True), ((0,), False), ((2, 3), False)])
def test_a_slice_of_zeros_within_the_stack(tmp_path, blank, refused):
    def change(hu):
        hu = hu.copy()
        hu[:, :, list(blank)] = 0
        return hu

    folder = series(tmp_path, change)
    if refused:
        with pytest.raises(SeriesError, match="slice 2 of 4 holds zeros alone"):
            read_volume(folder)
    else:
        assert read_volume(folder).array.shape[2] == 4
