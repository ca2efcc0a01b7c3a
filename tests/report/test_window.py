"""Which values are black and white."""

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry, Volume
from voxmetry.report.pictures.window import BONE, LUNG, SOFT_TISSUE, display_window


def test_ct_has_the_window_of_what_is_shown():
    ct = Volume(phantoms.volume().array, phantoms.geometry(), "HU")
    assert display_window(ct) == SOFT_TISSUE
    assert display_window(ct, 45.0) == SOFT_TISSUE
    assert display_window(ct, -820.0) == LUNG
    assert display_window(ct, 310.0) == BONE


@pytest.mark.parametrize(("hottest", "white"), [(2.0, 5.0), (9.0, 9.0), (80.0, 15.0)])
def test_pet_starts_at_zero(hottest, white):
    grid = phantoms.geometry()
    assert display_window(Volume(np.full(grid.shape, hottest), grid, "SUVbw")) == (0.0, pytest.approx(white))


def test_mr_ignores_the_empty_surroundings_and_the_rare_extremes():
    grid = Geometry(np.diag([1.0, 1.5, 2.0, 1.0]), (40, 50, 60))
    array = np.zeros(grid.shape)
    array[10:30, 10:40, 10:50] = np.random.default_rng(0).uniform(100, 200, (20, 30, 40))
    array[15, 15, 15] = 1e6
    low, high = display_window(Volume(array, grid))
    assert 100 <= low < 102
    assert 198 < high <= 201


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_image_of_one_value_has_a_window_too(value):
    grid = phantoms.geometry()
    assert display_window(Volume(np.full(grid.shape, value), grid)) == (value - 0.5, value + 0.5)
