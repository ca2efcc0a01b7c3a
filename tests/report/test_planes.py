"""Which way pictures are turned, told by where their voxels lie in the patient."""

import itertools

import numpy as np
import pytest

import phantoms
from voxmetry import Geometry
from voxmetry.ops.layout import sections
from voxmetry.report.pictures.planes import (
    PLANES,
    largest_slice,
    plane_of,
    square_view,
)

SIDES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def every_axis_order(degrees=(7.0, -11.0, 19.0)):
    """The oblique phantom's grid stored in each of the 48 orders and directions of its axes."""
    grid = phantoms.geometry(degrees=degrees)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            affine = grid.affine.copy()
            affine[:3, :3] = grid.affine[:3, list(order)]
            shape = tuple(grid.shape[axis] for axis in order)
            for axis, flip in enumerate(flips):
                if flip:
                    affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
                    affine[:3, axis] *= -1
            yield Geometry(affine, shape), order, flips


def indices(grid):
    """The flat index of each voxel, so that a picture tells where its pixels came from."""
    return np.arange(np.prod(grid.shape)).reshape(grid.shape)


def position_mm(grid, flat):
    return grid.to_mm(np.unravel_index(int(flat), grid.shape))


@pytest.mark.parametrize("name", PLANES)
def test_letters_name_the_direction_in_which_the_picture_runs(name):
    for grid, _, _ in every_axis_order():
        plane = plane_of(grid, name)
        picture = plane.picture(indices(grid), 2)
        assert picture.shape == plane.shape
        corner, right, down = (position_mm(grid, picture[at]) for at in ((0, 0), (0, -1), (-1, 0)))
        left_letter, right_letter, top_letter, bottom_letter = plane.letters
        for step, forwards, backwards in (
            (right - corner, right_letter, left_letter),
            (down - corner, bottom_letter, top_letter),
        ):
            axis, sign = SIDES[forwards]
            assert np.abs(step).argmax() == axis
            assert np.sign(step[axis]) == sign
            assert SIDES[backwards] == (axis, -sign)


def test_patient_right_is_left_and_anterior_is_up_or_left():
    grid = phantoms.geometry()
    assert plane_of(grid, "axial").letters == ("R", "L", "A", "P")
    assert plane_of(grid, "coronal").letters == ("R", "L", "S", "I")
    assert plane_of(grid, "sagittal").letters == ("A", "P", "S", "I")


@pytest.mark.parametrize("name", PLANES)
def test_a_picture_does_not_depend_on_how_the_array_is_stored(name):
    array = phantoms.volume().array
    reference = plane_of(phantoms.geometry(), name)
    middle = array.shape[reference.normal] // 2
    expected = reference.picture(array, middle)
    for grid, order, flips in every_axis_order():
        stored = np.transpose(array, order)
        stored = np.flip(stored, [axis for axis in range(3) if flips[axis]])
        plane = plane_of(grid, name)
        assert order[plane.normal] == reference.normal
        index = array.shape[reference.normal] - 1 - middle if flips[plane.normal] else middle
        np.testing.assert_array_equal(plane.picture(stored, index), expected)
        assert plane.pixel_mm == pytest.approx(reference.pixel_mm)


def test_the_mark_of_the_phantom_is_where_its_position_says():
    grid = phantoms.geometry()
    plane = plane_of(grid, "axial")
    assert (plane.normal, plane.vertical, plane.horizontal) == (2, 1, 0)
    i, j, k = phantoms.MARK
    row, column = np.argwhere(plane.picture(phantoms.volume().array, k) == 1000)[0]
    # i grows to the right, which is the picture's left, and j to the front, which is its top.
    assert (row, column) == (grid.shape[1] - 1 - j, grid.shape[0] - 1 - i)


@pytest.mark.parametrize("name", PLANES)
def test_bounds_hold_the_box_of_a_mask_and_nothing_else(name):
    box = (slice(2, 5), slice(3, 7), slice(4, 9))
    for grid, order, flips in every_axis_order():
        stored = tuple(
            slice(grid.shape[axis] - box[order[axis]].stop, grid.shape[axis] - box[order[axis]].start)
            if flips[axis]
            else box[order[axis]]
            for axis in range(3)
        )
        mask = np.zeros(grid.shape, bool)
        mask[stored] = True
        plane = plane_of(grid, name)
        rows, columns = np.nonzero(plane.picture(mask, stored[plane.normal].start))
        down, across = plane.pixel_mm
        seen = (columns.min() * across, (columns.max() + 1) * across, rows.min() * down, (rows.max() + 1) * down)
        assert plane.bounds_mm(stored) == pytest.approx(seen)


def test_the_slice_of_the_largest_cross_section_is_chosen():
    mask = np.zeros(phantoms.SHAPE, bool)
    mask[2:5, 3:7, 2:8] = True
    mask[2:8, 3:9, 6] = True
    assert largest_slice(sections(mask)[2]) == 6
    assert sections(mask)[0].tolist()[:9] == [0, 0, 26, 26, 26, 6, 6, 6, 0]


def test_the_middle_of_equal_slices_is_chosen():
    assert largest_slice(np.array([0, 3, 3, 3, 3, 3, 0])) == 3
    assert largest_slice(np.array([5, 0, 0, 5])) in (0, 3)
    assert largest_slice(np.zeros(9)) == 4


def test_a_view_is_square_and_inside_where_it_fits():
    plane = plane_of(Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (100, 60, 10)), "axial")
    assert plane.size_mm == (120.0, 100.0)
    left, right, top, bottom = square_view(plane, (0.0, 10.0, 50.0, 70.0), margin_mm=5, least_mm=20)
    assert right - left == bottom - top == 30.0
    assert (left, top) == (0.0, 45.0)


def test_a_view_of_a_thin_stack_is_centred_on_it():
    plane = plane_of(Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (100, 60, 10)), "coronal")
    left, right, top, bottom = square_view(plane, (20.0, 80.0, 0.0, 30.0), margin_mm=10, least_mm=20)
    assert right - left == bottom - top == 80.0
    assert (left, right) == (10.0, 90.0)
    assert (top + bottom) / 2 == 15.0


def test_a_view_is_never_wider_than_the_picture():
    plane = plane_of(Geometry(np.diag([1.0, 2.0, 3.0, 1.0]), (100, 60, 10)), "axial")
    assert square_view(plane, (0.0, 100.0, 0.0, 120.0), margin_mm=50, least_mm=500) == (-10.0, 110.0, 0.0, 120.0)


def test_obliqueness_is_the_largest_angle_to_an_axis():
    assert phantoms.geometry(degrees=(0, 0, 0)).obliqueness_degrees == pytest.approx(0, abs=1e-6)
    assert phantoms.geometry(degrees=(0, 0, 19)).obliqueness_degrees == pytest.approx(19)
