"""Instances of several windows: what is one becomes one, what touches stays two."""

import numpy as np
import pytest

from voxmetry.nn.instance_merging import WindowInstance, clusters, joint_score, merge, shared_iou

WINDOWS = np.array([[0, 0, 0, 10, 10, 10], [6, 0, 0, 16, 10, 10], [12, 0, 0, 22, 10, 10]], float)
FLAT = np.ones((10, 10, 10), np.float32)


def found(box, window, *, score=0.9, thing=0, value=255):
    box = np.array(box, float)
    low, high = np.floor(box[:3]).astype(int), np.ceil(box[3:]).astype(int)
    place = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return WindowInstance(box, score, thing, window, place, np.full(high - low, value, np.uint8))


def test_parts_that_windows_cut_off_become_one_with_its_whole_mask():
    left, right = found([3, 2, 2, 10, 8, 8], 0), found([6, 2, 2, 14, 8, 8], 1)
    (one,) = merge([left, right], WINDOWS, FLAT, min_iou=0.5)
    assert one.place == (slice(3, 14), slice(2, 8), slice(2, 8))
    assert one.mask.min() == pytest.approx(1.0)


def test_an_instance_that_reaches_through_three_windows_is_one():
    parts = [found([3, 2, 2, 10, 8, 8], 0), found([6, 2, 2, 16, 8, 8], 1), found([12, 2, 2, 19, 8, 8], 2)]
    (one,) = merge(parts, WINDOWS, FLAT, min_iou=0.5)
    assert one.place[0] == slice(3, 19)


def test_neighbours_that_touch_in_the_overlap_stay_two():
    rows = [
        found([1, 1, 1, 8, 9, 9], 0),
        found([8, 1, 1, 10, 9, 9], 0),
        found([6, 1, 1, 8, 9, 9], 1),
        found([8, 1, 1, 15, 9, 9], 1),
    ]
    merged = merge(rows, WINDOWS, FLAT, min_iou=0.5)
    assert sorted(instance.place[0].indices(99)[:2] for instance in merged) == [(1, 8), (8, 15)]


def test_two_of_one_window_are_never_one_and_neither_are_two_structures():
    same = [found([2, 2, 2, 8, 8, 8], 0), found([2, 2, 2, 8, 8, 7], 0, score=0.8)]
    assert len(clusters(same, WINDOWS, min_iou=0.3)) == 2
    kinds = [found([6, 2, 2, 9, 8, 8], 0), found([6, 2, 2, 9, 8, 8], 1, thing=1)]
    assert len(clusters(kinds, WINDOWS, min_iou=0.3)) == 2


def test_a_window_gives_each_instance_one_part_and_the_better_one_first():
    rows = [
        found([6, 2, 2, 10, 8, 8], 0),
        found([6, 2, 2, 10, 8, 7], 1, score=0.8),
        found([6, 2, 2, 10, 8, 8], 1, score=0.7),
    ]
    assert clusters(rows, WINDOWS, min_iou=0.3) == [[0, 2], [1]]


def test_a_window_that_sees_an_instance_and_misses_it_lowers_the_score():
    row = found([6.5, 2, 2, 9.5, 8, 8], 0)
    alone = joint_score([row], WINDOWS[:1], row.box)
    missed = joint_score([row], WINDOWS[:2], row.box)
    assert (alone, missed) == (pytest.approx(0.9), pytest.approx(0.45))
    # The third window sees none of it.
    assert joint_score([row], WINDOWS, row.box) == pytest.approx(0.45)


def test_a_mask_is_the_mean_over_the_windows_that_see_a_voxel():
    rows = [found([4, 2, 2, 10, 8, 8], 0), found([6, 2, 2, 10, 8, 8], 1, value=51)]
    (one,) = merge(rows, WINDOWS, FLAT, min_iou=0.3)
    np.testing.assert_allclose(one.mask[:2], 1.0)  # the second window does not reach there
    np.testing.assert_allclose(one.mask[2:], 0.6, atol=1e-6)


def test_boxes_are_compared_where_both_windows_see():
    part, whole = np.array([3.0, 2, 2, 10, 8, 8]), np.array([[6.0, 2, 2, 14, 8, 8]])
    assert shared_iou(part, WINDOWS[0], whole, WINDOWS[1:2]).tolist() == [1.0]
    assert shared_iou(part, WINDOWS[0], np.array([[12.0, 2, 2, 15, 8, 8]]), WINDOWS[2:]).tolist() == [0.0]


def test_nothing_found_is_nothing_merged():
    assert merge([], WINDOWS, FLAT, min_iou=0.5) == []
