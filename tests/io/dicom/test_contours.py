"""Contours and masks, by themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.draw import polygon2mask

from voxmetry.io.dicom.segmentations.contours import area, fill, fill_structure, keyhole, trace


def box(low, high):
    return np.array([[low, low], [high, low], [high, high], [low, high]], float)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), smooth=st.floats(0.3, 3.0))
def test_every_mask_comes_back_from_its_contours(seed, smooth):
    rng = np.random.default_rng(seed)
    mask = gaussian_filter(rng.normal(size=(31, 23)), smooth) > 0
    parts = trace(mask)
    rings = [ring for outline, holes in parts for ring in (outline, *holes)]
    assert min(len(ring) for ring in rings) >= 3
    assert min(abs(area(ring)) for ring in rings) > 0.4
    assert np.array_equal(fill(rings, mask.shape), mask)
    assert np.array_equal(fill_structure(rings, mask.shape), mask)
    joined = [keyhole(outline, holes) for outline, holes in parts]
    assert np.array_equal(fill_structure(joined, mask.shape), mask)


def test_a_polygon_is_filled_as_scikit_image_fills_it():
    angles = np.linspace(0, 2 * np.pi, 37)[:-1]
    polygon = np.stack([20.2 + 11.7 * np.cos(angles), 17.4 + 9.1 * np.sin(3 * angles)], axis=1)
    assert np.array_equal(fill([polygon], (45, 40)), polygon2mask((45, 40), polygon))


def test_filling_is_exact_below_a_voxel():
    # Both edges move past a row of centres by a hundredth.
    assert fill([box(1.01, 5.99)], (8, 8)).sum() == 16
    assert fill([box(0.99, 6.01)], (8, 8)).sum() == 36


def test_neighbours_share_no_voxel_and_leave_none_out():
    left = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 7.0], [0.0, 7.0]])
    right = np.array([[3.0, 0.0], [7.0, 0.0], [7.0, 7.0], [3.0, 7.0]])
    a, b = fill([left], (8, 8)), fill([right], (8, 8))
    assert not (a & b).any()
    assert (a | b).sum() == 49


def test_holes_islands_crossings_and_copies():
    shape = (20, 20)
    full, hole, island = box(1.5, 17.5), box(4.5, 14.5), box(7.5, 11.5)
    assert fill_structure([island, full, hole], shape).sum() == 256 - 100 + 16
    assert fill_structure([full, full], shape).sum() == 256
    assert fill_structure([box(1.5, 9.5), box(5.5, 13.5)], shape).sum() == 64 + 64 - 16
    assert fill([box(1.5, 9.5), box(5.5, 13.5)], shape).sum() == 64 + 64 - 2 * 16


def test_a_contour_outside_of_the_picture_marks_nothing():
    assert not fill([box(-9, -3), box(30, 40)], (8, 8)).any()
    assert fill([box(-9, 40)], (8, 8)).all()


@pytest.mark.parametrize("direction", [1, -1])
def test_the_direction_of_a_contour_does_not_matter(direction):
    assert fill([box(1.5, 4.5)[::direction]], (8, 8)).sum() == 9
