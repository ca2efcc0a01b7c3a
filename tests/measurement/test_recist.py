"""Categories by hand, from lesions whose sizes are given."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voxmetry import Geometry, Lesion
from voxmetry.core.records.follow_up import LesionChange
from voxmetry.errors import ConfigError
from voxmetry.measurement.recist import choose_targets, is_measurable, require_targets, respond

GRID = Geometry(np.diag([1.0, 1.0, 3.0, 1.0]), (100, 100, 50))
THICK = Geometry(np.diag([1.0, 1.0, 7.0, 1.0]), (100, 100, 50))


def lesion(name: str, long: float, short: float | None = None, location: str | None = None) -> Lesion:
    return Lesion(
        id=name,
        label=name.rsplit("-", 1)[0],
        value=1,
        n_voxels=10,
        volume_ml=long**3 / 1000,
        centroid_ras_mm=(0, 0, 0),
        long_axis_mm=long,
        long_axis_ends_ras_mm=((0, 0, 0), (long, 0, 0)),
        short_axis_mm=long if short is None else short,
        short_axis_ends_ras_mm=((0, 0, 0), (0, long, 0)),
        slice_axis=2,
        slice_index=0,
        touches_border=False,
        location=location,
    )


def change(before: list[Lesion], after: list[Lesion], targets: list[str], nodes=(), status: str = "") -> LesionChange:
    def size(rows):
        return sum(x.short_axis_mm if x.label in nodes else x.long_axis_mm for x in rows)

    kinds = {(True, False): "gone", (False, True): "new"}
    d0, d1 = size(before), size(after)
    lost = status == "not covered"
    return LesionChange(
        label=(before or after)[0].label,
        status=status or kinds.get((bool(before), bool(after)), "matched"),
        rule="overlap" if before and after else "",
        baseline_ids=tuple(x.id for x in before),
        follow_up_ids=tuple(x.id for x in after),
        overlap=1,
        centroid_distance_mm=0,
        volume_baseline_ml=sum(x.volume_ml for x in before),
        volume_follow_up_ml=math.nan if lost else sum(x.volume_ml for x in after),
        volume_change_ml=0,
        volume_change_percent=0,
        diameter_baseline_mm=d0,
        diameter_follow_up_mm=math.nan if lost else d1,
        diameter_change_mm=d1 - d0,
        diameter_change_percent=0,
        trend="",
        target=any(x.id in targets for x in before),
    )


def answer(pairs, targets, *, nodes=(), nadir_mm=None, grids=(GRID, GRID)):
    """Pairs of (name, size before or None, size now or None); a size is mm or (long, short)."""
    rows, first, second = [], {}, {}
    for name, before, now, *status in pairs:
        a = [lesion(name, *np.atleast_1d(before))] if before is not None else []
        b = [lesion(f"{name}0", *np.atleast_1d(now))] if now is not None else []
        first |= {x.id: x for x in a}
        second |= {x.id: x for x in b}
        rows.append(change(a, b, targets, nodes, *status))
    return respond(rows, baseline=first, follow_up=second, grids=grids, targets=targets, nodes=nodes, nadir_mm=nadir_mm)


@pytest.mark.parametrize(
    ("pairs", "nadir", "category", "words"),
    [
        ([("t-1", 50, 35)], None, "PR", "fell by 30 %"),
        ([("t-1", 50, 35.1)], None, "SD", "neither"),
        ([("t-1", 50, 60)], None, "PD", "10.0 mm (20 %)"),
        ([("t-1", 50, 59.9)], None, "SD", "neither"),
        # 20 % of a small sum is not progression below 5 mm.
        ([("t-1", 15, 19.9)], None, "SD", "neither"),
        ([("t-1", 15, 20)], None, "PD", "5.0 mm (33 %)"),
        # Against the smallest sum, not the baseline: 40 % less than the baseline and yet progression.
        ([("t-1", 100, 60)], 40, "PD", "20.0 mm (50 %)"),
        ([("t-1", 100, 60)], 56, "PR", "fell by 40 %"),
        ([("t-1", 20, None)], None, "CR", "all target lesions are gone"),
        ([("t-1", 20, 6)], 0, "PD", "from 0"),
    ],
)
def test_thresholds_of_the_sum(pairs, nadir, category, words):
    found = answer(pairs, ["t-1"], nadir_mm=nadir)
    assert (found.category, found.target_response) == (category, category)
    assert words in found.rule


def test_the_baseline_counts_as_the_smallest_sum_where_later_ones_were_larger():
    found = answer([("t-1", 50, 62)], ["t-1"], nadir_mm=80)
    assert (found.sum_nadir_mm, found.category) == (50, "PD")
    assert found.change_from_nadir_mm == pytest.approx(12)
    # From 80 mm the same sum would be a fall.
    assert answer([("t-1", 50, 59)], ["t-1"], nadir_mm=80).category == "SD"
    assert answer([("t-1", 50, 59)], ["t-1"], nadir_mm=40).category == "PD"


def test_sums_are_of_the_targets_alone():
    found = answer([("t-1", 40, 20), ("t-2", 30, 30), ("t-3", 20, 90)], ["t-1", "t-2"])
    assert (found.sum_baseline_mm, found.sum_nadir_mm, found.sum_follow_up_mm) == (70, 70, 50)
    assert found.change_from_baseline_percent == pytest.approx(-200 / 7)
    assert found.category == "SD"
    assert any("no targets" in text for text in found.caveats)


def test_a_new_lesion_is_progression_where_it_can_be_measured():
    found = answer([("t-1", 50, 20), ("t-9", None, 10)], ["t-1"])
    assert (found.category, found.target_response, found.new_lesions) == ("PD", "PR", ("t-90",))
    assert found.rule == "new lesions: t-90"
    small = answer([("t-1", 50, 20), ("t-9", None, 9.9)], ["t-1"])
    assert (small.category, small.new_lesions) == ("PR", ())
    assert any("too small to count" in text and "t-90" in text for text in small.caveats)
    assert answer([("t-9", None, 12)], []).category == "PD"
    # With slices 7 mm apart a lesion of 12 mm cannot be measured.
    assert answer([("t-1", 50, 20), ("t-9", None, 12)], ["t-1"], grids=(GRID, THICK)).category == "PR"


@pytest.mark.parametrize(
    ("other", "category", "non_target"),
    [
        (("t-2", 8, None), "CR", "CR"),
        (("t-2", 8, 4), "PR", "non-CR/non-PD"),
        (("t-2", 8, None, "not covered"), "PR", "NE"),
    ],
)
def test_other_lesions_stand_between_partial_and_complete(other, category, non_target):
    found = answer([("t-1", 20, None), other], ["t-1"])
    assert (found.category, found.non_target_response) == (category, non_target)


@pytest.mark.parametrize(
    ("pairs", "category"),
    [
        ([("t-2", 8, None)], "CR"),
        ([("t-2", 8, 7)], "non-CR/non-PD"),
        ([("t-2", 8, None, "not covered")], "NE"),
        ([], "NE"),
    ],
)
def test_without_target_lesions(pairs, category):
    found = answer(pairs, [])
    assert found.category == category
    assert found.target_response is None
    assert math.isnan(found.sum_baseline_mm)
    assert found.reason == "no target lesion"


def test_a_target_that_is_not_covered_is_not_evaluable_unless_the_rest_progresses():
    lost = ("t-1", 20, None, "not covered")
    found = answer([lost, ("t-2", 30, 20)], ["t-1", "t-2"])
    assert found.category == "NE"
    assert math.isnan(found.sum_follow_up_mm)
    assert "1 target lesions are not covered" in found.reason
    assert answer([lost, ("t-2", 30, 61)], ["t-1", "t-2"]).category == "PD"


def test_lymph_nodes_count_with_the_short_axis():
    assert not is_measurable(lesion("node-1", 30, 14.9), GRID, ["node"])
    assert is_measurable(lesion("node-1", 30, 15), GRID, ["node"])
    found = answer([("node-1", (30, 20), (25, 9.9))], ["node-1"], nodes=["node"])
    assert (found.category, found.sum_baseline_mm, found.sum_follow_up_mm) == ("CR", 20, 9.9)
    assert answer([("node-1", (30, 20), (25, 10))], ["node-1"], nodes=["node"]).category == "PR"


def test_targets_are_the_largest_five_and_two_in_an_organ():
    rows = [lesion(f"t-{n}", 40 - n, location="liver" if n < 4 else "lung") for n in range(8)]
    assert choose_targets(rows, GRID) == ("t-0", "t-1", "t-4", "t-5")
    nowhere = [lesion(f"t-{n}", 40 - n) for n in range(8)]
    assert choose_targets(nowhere, GRID) == ("t-0", "t-1", "t-2", "t-3", "t-4")
    small = [lesion("t-1", 9.9), lesion("t-2", 10), lesion("t-3", 13.9)]
    assert choose_targets(small, GRID) == ("t-3", "t-2")
    assert choose_targets(small, THICK) == ()


@pytest.mark.parametrize(
    ("names", "rows", "found"),
    [
        (["t-0", "t-1", "t-2"], [("t-0", "liver"), ("t-1", "liver"), ("t-2", "liver")], "more than two in liver"),
        ([f"t-{n}" for n in range(6)], [(f"t-{n}", None) for n in range(6)], "6 target lesions"),
    ],
)
def test_targets_that_break_the_rules_are_refused(names, rows, found):
    with pytest.raises(ConfigError, match=found):
        require_targets(names, [lesion(name, 20, location=place) for name, place in rows], GRID)


def test_targets_too_small_are_refused():
    with pytest.raises(ConfigError, match="too small: t-0"):
        require_targets(["t-0"], [lesion("t-0", 9)], GRID)


def test_volume_and_diameter_that_disagree_are_told():
    long_thin = lesion("t-10", 30).model_copy(update={"volume_ml": 1.0})
    before = lesion("t-1", 20)
    rows = [change([before], [long_thin], ["t-1"])]
    found = respond(rows, baseline={"t-1": before}, follow_up={"t-10": long_thin}, grids=(GRID, THICK), targets=["t-1"])
    assert found.category == "PD"
    assert any("went the other way" in text for text in found.caveats)
    assert any("7.0 mm apart" in text for text in found.caveats)
