from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

import phantoms
from voxmetry import Geometry, LabelTable, Segmentation, clean
from voxmetry.config import CleanStep
from voxmetry.errors import LabelError

TABLE = LabelTable.from_names({1: "a", 2: "b"})


def seg(array: np.ndarray, grid: Geometry | None = None) -> Segmentation:
    array = array.astype(np.uint8)
    return Segmentation(array, grid or phantoms.geometry(shape=array.shape), TABLE)


def run(array: np.ndarray, step: str, **more: object) -> np.ndarray:
    return clean(seg(array), [CleanStep(step=step, **more)]).array


def test_largest_of_each_label():
    array = np.zeros((12, 10, 8))
    array[0:3, 0:3, 0:3] = 1
    array[6:8, 6:8, 6:8] = 1
    array[9, 9, 7] = 2
    array[9, 0:2, 0] = 2
    found = run(array, "largest")
    array[6:8, 6:8, 6:8] = 0
    array[9, 9, 7] = 0
    assert np.array_equal(found, array)


def test_only_the_named_label():
    array = np.zeros((6, 6, 6))
    array[0, 0, 0] = array[3:5, 3, 3] = 1
    array[0, 5, 5] = array[5, 0:3, 0] = 2
    found = run(array, "largest", labels=("b",))
    assert found[0, 0, 0] == 1
    assert found[0, 5, 5] == 0


def test_together_keeps_what_belongs_to_the_largest_of_the_union():
    # 'a' is larger on the far side; the union with 'b' decides for the near side.
    array = np.zeros((20, 5, 5))
    array[1:3, 1:4, 1:4] = 1
    array[3:8, 1:4, 1:4] = 2
    array[12:15, 1:4, 1:4] = 1
    found = run(array, "largest", together=True)
    array[12:15] = 0
    assert np.array_equal(found, array)
    assert run(found, "largest")[2, 2, 2] == 1


def test_components_touch_by_corners():
    array = np.zeros((6, 6, 6))
    array[1, 1, 1] = array[2, 2, 2] = array[3, 3, 3] = 1
    array[5, 0, 0:2] = 1
    assert run(array, "largest").sum() == 3


def test_ties_do_not_depend_on_the_axes():
    grid = phantoms.geometry(shape=(9, 8, 7))
    array = np.zeros(grid.shape, np.uint8)
    array[1, 6, 1] = array[7, 1, 5] = array[7, 6, 1] = 1
    found = clean(seg(array, grid), [CleanStep(step="largest")])
    kept = grid.to_mm(np.argwhere(found.array))
    assert len(kept) == 1
    assert kept[0, 2] == grid.to_mm(np.argwhere(array))[:, 2].min()
    flip = np.array([[0, -1, 0, 8], [0, 0, -1, 7], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = Geometry(grid.affine @ flip, (7, 9, 8))
    other = clean(seg(array[::-1, ::-1].transpose(2, 0, 1), turned), [CleanStep(step="largest")])
    assert np.array_equal(other.array, found.array[::-1, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize("together", [False, True])
def test_drop_small_by_volume(together):
    array = np.zeros((12, 10, 8))
    array[0:3, 0:3, 0:3] = 1
    array[6:8, 6:8, 6:8] = 1
    array[8, 6:8, 6:8] = 2
    # A voxel has 0.9 * 1.3 * 2.6 = 3.042 mm3: 8 voxels 0.0243 mL, 4 voxels 0.0122 mL, 12 voxels 0.0365 mL.
    assert run(array, "drop_small", min_volume_ml=0.0365 if together else 0.012, together=together).sum() == 27 + 8 + 8
    found = run(array, "drop_small", min_volume_ml=0.03, together=together)
    assert found.sum() == (27 + 8 + 8 if together else 27)
    assert run(array, "drop_small", min_volume_ml=1).sum() == 0


def test_holes_are_filled_as_scipy_does_and_others_are_left_alone():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.normal(size=(24, 22, 20)), 1.2) > 0
    expected = ndimage.binary_fill_holes(mask)
    assert expected.sum() > mask.sum()
    assert np.array_equal(run(mask, "fill_holes") > 0, expected)
    array = np.zeros((7, 7, 7))
    array[1:6, 1:6, 1:6] = 1
    array[2:5, 2:5, 2:5] = 0
    array[3, 3, 3] = 2
    found = run(array, "fill_holes", labels=("a",))
    assert found[3, 3, 3] == 2
    assert (found == 1).sum() == 124


def test_a_hole_open_to_the_border_of_the_image_is_none():
    array = np.ones((5, 5, 5))
    array[2, 2, 2:] = 0
    assert np.array_equal(run(array, "fill_holes"), array)


def test_a_hole_between_two_goes_to_the_one_round_it():
    array = np.zeros((9, 7, 7))
    array[1:5, 1:6, 1:6] = 1
    array[5:8, 1:6, 1:6] = 2
    array[3:5, 3, 3] = 0
    assert np.array_equal(run(array, "fill_holes", labels=("a",)), array)
    found = run(array, "fill_holes", together=True)
    assert found[3, 3, 3] == found[4, 3, 3] == 1
    assert (found == 2).sum() == 75


def test_steps_in_their_order_and_the_input_unchanged():
    array = np.zeros((9, 9, 9), np.uint8)
    array[1:6, 1:6, 1:6] = 1
    array[3, 3, 3] = 0
    array[8, 8, 8] = 1
    before = array.copy()
    steps = [CleanStep(step="largest"), CleanStep(step="fill_holes"), CleanStep(step="drop_small", min_volume_ml=0.3)]
    found = clean(seg(array), steps)
    assert (found.array == 1).sum() == 125
    assert np.array_equal(array, before)
    assert not np.shares_memory(found.array, array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_does_not_matter(order):
    rng = np.random.default_rng(2)
    array = rng.integers(0, 3, (9, 8, 7)) * (rng.random((9, 8, 7)) < 0.3)
    steps = [CleanStep(step="fill_holes"), CleanStep(step="largest", together=True), CleanStep(step="largest")]
    grid = phantoms.geometry(shape=array.shape)
    expected = clean(Segmentation(np.ascontiguousarray(array, np.uint8), grid, TABLE), steps)
    found = clean(Segmentation(np.asarray(array, np.uint16, order=order), grid, TABLE), steps)
    assert np.array_equal(found.array, expected.array)
    assert found.array.dtype == np.uint16


def test_empty_structures_and_no_steps():
    array = np.zeros((4, 4, 4))
    assert clean(seg(array), []).array.sum() == 0
    for step in ("largest", "drop_small", "fill_holes"):
        assert run(array, step, together=True).sum() == 0


def test_an_unknown_name():
    with pytest.raises(LabelError, match="'liver'"):
        run(np.zeros((3, 3, 3)), "largest", labels=("liver",))
