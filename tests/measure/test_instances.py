from __future__ import annotations

import math

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation
from voxmetry.errors import ConfigError, GeometryError, LabelError
from voxmetry.measure import compare_instances

GRID = phantoms.geometry(shape=(30, 8, 8))


def seg(*boxes: tuple[slice, slice, slice], grid=GRID) -> Segmentation:
    array = np.zeros(grid.shape, np.uint8)
    for box in boxes:
        array[box] = 1
    return Segmentation(array, grid, LabelTable.from_names({1: "met"}))


A, B, C = np.s_[1:5, 1:5, 1:5], np.s_[8:10, 1:5, 1:5], np.s_[13:14, 1:3, 1:3]


def test_by_hand():
    # A is found with 48 of 80 voxels, B is found exactly, C is missed, a false one lies far off.
    found = compare_instances(
        prediction=seg(np.s_[2:6, 1:5, 1:5], B, np.s_[20:22, 1:3, 1:3]), reference=seg(A, B, C), label="met"
    )
    assert (found.n_prediction, found.n_reference, found.n_found, found.n_true) == (3, 3, 2, 2)
    assert (found.sensitivity, found.precision, found.f1) == pytest.approx((2 / 3, 2 / 3, 4 / 6))
    assert found.segmentation_quality == pytest.approx((0.6 + 1) / 2)
    assert found.panoptic_quality == pytest.approx(1.6 / (2 + 0.5 + 0.5))
    assert found.recognition_quality == found.f1
    matched = [(x.prediction, x.reference, round(x.iou, 6)) for x in found.matches]
    assert matched == [("met-1", "met-1", 0.6), ("met-2", "met-2", 1.0)]


def test_the_threshold_decides():
    moved = seg(np.s_[2:6, 1:5, 1:5])
    assert compare_instances(prediction=moved, reference=seg(A), label="met", iou_threshold=0.6).f1 == 1
    found = compare_instances(prediction=moved, reference=seg(A), label="met", iou_threshold=0.61)
    assert (found.f1, found.panoptic_quality) == (0, 0)
    assert math.isnan(found.segmentation_quality)
    assert "no pair" in found.reason


def test_one_prediction_over_two_lesions():
    bridge = seg(np.s_[1:10, 1:5, 1:5])
    one = compare_instances(prediction=bridge, reference=seg(A, B), label="met", iou_threshold=0.1)
    assert (one.n_true, one.n_found) == (1, 1)
    assert one.f1 == pytest.approx(2 / 3)
    both = compare_instances(prediction=bridge, reference=seg(A, B), label="met", rule="overlap")
    assert (both.n_true, both.n_found, both.f1) == (1, 2, 1)
    assert math.isnan(both.panoptic_quality)
    assert math.isnan(both.iou_threshold)


def test_the_sum_of_overlaps_is_largest():
    # p1 overlaps both lesions, p2 only the second: taking the best pair first would lose one of two.
    iou = np.array([[0.30, 0.40], [0.0, 0.35]])
    from voxmetry.measure.instances import _assign

    assert _assign(iou, 0.25) == [(0, 0), (1, 1)]


def test_empty_masks():
    none = compare_instances(prediction=seg(), reference=seg(), label="met")
    assert all(math.isnan(x) for x in (none.f1, none.sensitivity, none.precision, none.panoptic_quality))
    missed = compare_instances(prediction=seg(), reference=seg(A), label="met")
    assert (missed.f1, missed.sensitivity, missed.panoptic_quality) == (0, 0, 0)
    assert math.isnan(missed.precision)
    assert "no precision" in missed.reason
    extra = compare_instances(prediction=seg(A), reference=seg(), label="met", rule="overlap")
    assert (extra.f1, extra.precision) == (0, 0)
    assert math.isnan(extra.sensitivity)


def test_small_ones_are_left_out_of_both():
    found = compare_instances(prediction=seg(A), reference=seg(A, C), label="met", min_volume_ml=0.02)
    assert (found.n_reference, found.f1) == (1, 1)


def test_refusals():
    with pytest.raises(ConfigError, match="rule="):
        compare_instances(prediction=seg(A), reference=seg(A), label="met", rule="nearest")
    for wrong in (0, 1.1, math.nan):
        with pytest.raises(ConfigError, match="iou_threshold"):
            compare_instances(prediction=seg(A), reference=seg(A), label="met", iou_threshold=wrong)
    with pytest.raises(LabelError, match="'node'"):
        compare_instances(prediction=seg(A), reference=seg(A), label="node")
    other = phantoms.geometry(shape=(30, 8, 8), degrees=(0, 0, 0))
    with pytest.raises(GeometryError, match="different grids"):
        compare_instances(prediction=seg(A), reference=seg(A, grid=other), label="met")
