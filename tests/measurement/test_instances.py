from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import phantoms
from measurement.panoptica_cases import RULES, SEEDS, case
from voxmetry import Geometry, LabelTable, Segmentation
from voxmetry.core.labels import Label
from voxmetry.errors import ConfigError, GeometryError, LabelError
from voxmetry.measurement.instances import match_instance_maps, match_instances
from voxmetry.measurement.panoptic import match_panoptic, panoptic_quality

PANOPTICA = json.loads((Path(__file__).parent / "panoptica-2.1.7.json").read_text())
TABLE = LabelTable.from_names({1: "lesion"})


def line(*parts: tuple[int, int], length: int = 60, value: int = 1) -> np.ndarray:
    """Bars from start to stop along the first axis, two by two voxels thick."""
    array = np.zeros((length, 4, 5), np.uint8)
    for start, stop in parts:
        array[start:stop, 1:3, 1:3] = value
    return array


def seg(array: np.ndarray, table: LabelTable = TABLE, grid: Geometry | None = None) -> Segmentation:
    return Segmentation(array, grid or phantoms.geometry(shape=array.shape), table)


def match(ours: np.ndarray, theirs: np.ndarray, **settings: object):
    (row,) = match_instances(prediction=seg(ours), reference=seg(theirs), **settings)
    return row


class TestRules:
    # Reference 0-10, 20-24, 30-40; prediction 1-10 (IoU 0.9), 23-27 (IoU 1 / 7), 30-34 and 36-40 (IoU 0.4), 50-53.
    OURS = line((1, 10), (23, 27), (30, 34), (36, 40), (50, 53))
    THEIRS = line((0, 10), (20, 24), (30, 40))

    def test_iou_above_a_half(self):
        row = match(self.OURS, self.THEIRS)
        assert (row.n_prediction, row.n_reference, row.tp_prediction, row.tp_reference) == (5, 3, 1, 1)
        assert (row.fp, row.fn) == (4, 2)
        assert row.sensitivity == pytest.approx(1 / 3)
        assert row.precision == pytest.approx(1 / 5)
        assert row.f1 == pytest.approx(2 / 8)
        assert (row.sq, row.rq) == (pytest.approx(0.9), pytest.approx(2 / 8))
        assert row.pq == pytest.approx(0.9 * 2 / 8)

    def test_any_overlap_counts_detections_and_no_pairs(self):
        row = match(self.OURS, self.THEIRS, rule="overlap")
        # Four of five of the prediction touch one of the reference, and all three of these are touched.
        assert (row.tp_prediction, row.tp_reference, row.fp, row.fn) == (4, 3, 1, 0)
        assert (row.sensitivity, row.precision, row.f1) == (1.0, 0.8, pytest.approx(8 / 9))
        assert math.isnan(row.pq)
        assert "one to one" in row.reason
        together = next(r for r in row.instances if len(r.prediction_ids) == 2)
        assert together.iou == pytest.approx(0.8)

    def test_hungarian_with_a_low_least_iou(self):
        row = match(self.OURS, self.THEIRS, rule="hungarian", min_iou=0.1)
        assert (row.tp_reference, row.fp, row.fn) == (3, 2, 0)
        assert row.sq == pytest.approx((0.9 + 1 / 7 + 0.4) / 3)

    def test_hungarian_takes_the_best_sum_not_the_best_first(self):
        # IoU: A with x 0.5, A with y 0.4, B with x 0.4, B with y 0. Greedy gives 0.5, the assignment 0.8.
        theirs = np.zeros((40, 4, 5), np.uint8)
        ours = theirs.copy()
        theirs[0:10, 1, 1], theirs[11:21, 1, 1] = 1, 2
        ours[5:15, 1, 1], ours[0:5, 1, 1] = 1, 2
        table = LabelTable.from_names({1: "a", 2: "b"})
        row = match_instance_maps(
            prediction=seg(ours, table), reference=seg(theirs, table), rule="hungarian", min_iou=0.0
        )
        # Reference 1 with prediction 2 (5 / 10) and reference 2 with prediction 1 (4 / 16).
        assert (row.tp_reference, row.iou_sum) == (2, pytest.approx(0.5 + 0.25))

    def test_an_iou_of_exactly_the_least_is_no_match(self):
        # 2 of 4 voxels long: IoU exactly 0.5.
        assert match(line((0, 2)), line((0, 4))).tp_reference == 0
        assert match(line((0, 3)), line((0, 4))).tp_reference == 1

    @pytest.mark.parametrize(("connectivity", "n"), [(6, 3), (18, 2), (26, 1)])
    def test_connectivity(self, connectivity, n):
        array = np.zeros((5, 6, 7), np.uint8)
        # The first two share an edge, the last two a corner.
        array[1, 1, 1] = array[2, 2, 1] = array[3, 3, 2] = 1
        assert match(array, array, connectivity=connectivity).n_reference == n

    @pytest.mark.parametrize("rule", ["overlap", "iou", "hungarian"])
    def test_both_empty_one_empty(self, rule):
        nothing, something = line(), line((3, 6), (10, 11))
        row = match(nothing, nothing, rule=rule)
        assert all(math.isnan(x) for x in (row.sensitivity, row.precision, row.f1, row.pq))
        assert "neither" in row.reason
        missed = match(nothing, something, rule=rule)
        assert (missed.sensitivity, missed.f1, missed.fn) == (0.0, 0.0, 2)
        assert math.isnan(missed.precision)
        extra = match(something, nothing, rule=rule)
        assert (extra.precision, extra.f1, extra.fp) == (0.0, 0.0, 2)
        assert math.isnan(extra.sensitivity)
        if rule != "overlap":
            assert (missed.pq, extra.pq) == (0.0, 0.0)
            assert "no sensitivity" in extra.reason

    @pytest.mark.parametrize(
        "bad", [{"rule": "greedy"}, {"connectivity": 4}, {"min_iou": 0.4}, {"rule": "hungarian", "min_iou": 1.0}]
    )
    def test_settings_out_of_range_are_refused(self, bad):
        with pytest.raises(ConfigError):
            match(line((0, 2)), line((0, 2)), **bad)

    def test_other_grids_are_refused(self):
        array = line((0, 2))
        other = phantoms.geometry(shape=array.shape, origin_mm=(0, 0, 0))
        with pytest.raises(GeometryError):
            match_instances(prediction=seg(array), reference=seg(array, grid=other))
        with pytest.raises(GeometryError):
            match_instance_maps(prediction=seg(array), reference=seg(array, grid=other))


def test_the_table_of_instances_by_hand():
    ours, theirs = line((1, 10), (50, 53)), line((0, 10), (20, 24))
    row = match(ours, theirs)
    grid = phantoms.geometry(shape=ours.shape)
    matched, missed, extra = row.instances
    assert [r.status for r in row.instances] == ["matched", "missed", "extra"]
    assert (matched.prediction_ids, matched.reference_ids) == ((1,), (1,))
    assert matched.volume_prediction_ml == pytest.approx(36 * grid.voxel_ml)
    assert matched.volume_reference_ml == pytest.approx(40 * grid.voxel_ml)
    assert matched.dice == pytest.approx(72 / 76)
    assert matched.centroid_ras_mm == pytest.approx(grid.to_mm([4.5, 1.5, 1.5]))
    assert (missed.prediction_ids, missed.reference_ids, missed.dice) == ((), (2,), 0.0)
    assert (extra.prediction_ids, extra.volume_reference_ml) == ((2,), 0.0)
    assert extra.centroid_ras_mm == pytest.approx(grid.to_mm([51, 1.5, 1.5]))


def test_ids_run_from_large_to_small():
    row = match(line((0, 2), (10, 20), (30, 35)), line((0, 2), (10, 20), (30, 35)))
    volumes = [r.volume_reference_ml for r in row.instances]
    assert volumes == sorted(volumes, reverse=True)
    assert [r.reference_ids for r in row.instances] == [(1,), (2,), (3,)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_equals_panoptica(rule, seed):
    theirs = PANOPTICA[f"{rule}-{seed}"]
    row = match(*case(seed), rule=rule, min_iou=RULES[rule][1])
    assert (row.n_reference, row.n_prediction) == (theirs["n_ref_instances"], theirs["n_pred_instances"])
    assert (row.tp_reference, row.fp, row.fn) == (theirs["tp"], theirs["fp"], theirs["fn"])
    ours = (row.precision, row.sensitivity, row.f1, row.rq, row.pq)
    assert ours == pytest.approx(tuple(theirs[name] for name in ("prec", "rec", "rq", "rq", "pq")), abs=1e-12)
    if theirs["tp"]:
        assert row.sq == pytest.approx(theirs["sq"], abs=1e-12)
        dice = [r.dice for r in row.instances if r.status == "matched"]
        assert np.mean(dice) == pytest.approx(theirs["sq_dsc"], abs=1e-12)
    else:
        # panoptica says 0 where no pair was matched; there is no pair whose quality could be 0.
        assert theirs["sq"] == 0
        assert math.isnan(row.sq)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["overlap", "iou", "hungarian"]))
def test_swapping_the_two_swaps_sensitivity_and_precision(seed, rule):
    rng = np.random.default_rng(seed)
    a, b = (rng.random((7, 6, 5)) < 0.2).astype(np.uint8), (rng.random((7, 6, 5)) < 0.2).astype(np.uint8)
    one, other = match(a, b, rule=rule, connectivity=6), match(b, a, rule=rule, connectivity=6)
    same = pytest.approx
    assert (one.sensitivity, one.precision) == (
        same(other.precision, nan_ok=True),
        same(other.sensitivity, nan_ok=True),
    )
    assert one.f1 == same(other.f1, nan_ok=True)
    assert sum(r.status == "missed" for r in one.instances) == one.fn
    assert sum(r.status == "extra" for r in one.instances) == one.fp


class TestPanoptic:
    TABLE = LabelTable(
        labels=(
            Label(value=1, name="liver", colour="#E69F00"),
            Label(value=2, name="tumour", colour="#56B4E9", kind="lesion"),
        )
    )

    def maps(self) -> tuple[Segmentation, Segmentation]:
        # The liver is one piece in the reference and two in the prediction: stuff does not mind.
        ours, theirs = line((0, 9), (10, 20)), line((0, 20))
        ours[30:34, 1:3, 1:3] = theirs[30:35, 1:3, 1:3] = theirs[40:42, 1:3, 1:3] = 2
        return seg(ours, self.TABLE), seg(theirs, self.TABLE)

    def test_lesions_are_things_and_organs_are_stuff(self):
        ours, theirs = self.maps()
        liver, tumour = match_panoptic(prediction=ours, reference=theirs)
        assert (liver.kind, liver.n_prediction, liver.tp_reference, liver.sq) == ("stuff", 1, 1, 19 / 20)
        assert (tumour.kind, tumour.tp_reference, tumour.fn) == ("thing", 1, 1)
        quality = panoptic_quality([liver, tumour])
        assert quality.pq["stuff"] == pytest.approx(0.95)
        assert quality.pq["things"] == pytest.approx(0.8 * 2 / 3)
        assert quality.pq["all"] == pytest.approx((0.95 + 0.8 * 2 / 3) / 2)
        assert quality.reason == ""

    def test_counts_add_up_over_cases_before_they_are_divided(self):
        ours, theirs = self.maps()
        none = seg(np.zeros_like(ours.array), self.TABLE)
        rows = [*match_panoptic(prediction=ours, reference=theirs), *match_panoptic(prediction=none, reference=theirs)]
        quality = panoptic_quality(rows)
        # Liver: one of two found. Tumours: one of four. A mean of the two cases' PQ would be another number.
        assert quality.pq["stuff"] == pytest.approx(0.95 / (1 + 0.5))
        assert quality.pq["things"] == pytest.approx(0.8 / (1 + 1.5))
        assert [row.label for row in quality.classes] == ["liver", "tumour"]

    def test_stuff_below_a_half_is_missed_and_invented(self):
        ours, theirs = line((0, 10)), line((8, 20))
        (row,) = (
            r
            for r in match_panoptic(prediction=seg(ours, self.TABLE), reference=seg(theirs, self.TABLE))
            if r.label == "liver"
        )
        assert (row.tp_reference, row.fp, row.fn, row.pq) == (0, 1, 1, 0.0)

    def test_things_can_be_named(self):
        ours, theirs = self.maps()
        liver, tumour = match_panoptic(prediction=ours, reference=theirs, things=["liver"])
        assert (liver.kind, liver.n_prediction, tumour.kind) == ("thing", 2, "stuff")
        with pytest.raises(LabelError, match="spleen"):
            match_panoptic(prediction=ours, reference=theirs, things=["spleen"])

    def test_without_a_lesion_things_must_be_named(self):
        with pytest.raises(ConfigError, match="kind 'lesion'"):
            match_panoptic(prediction=seg(line((0, 2))), reference=seg(line((0, 2))))

    def test_rows_of_different_rules_are_refused(self):
        a = match(line((0, 2)), line((0, 2)))
        b = match(line((0, 2)), line((0, 2)), rule="hungarian")
        with pytest.raises(ConfigError, match="different ways"):
            panoptic_quality([a, b])

    def test_nothing_anywhere_is_nan_with_a_reason(self):
        quality = panoptic_quality([match(line(), line())])
        assert math.isnan(quality.pq["all"])
        assert quality.reason
