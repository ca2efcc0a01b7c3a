"""The table of Dice over clicks: how much more than without a click, case by case."""

import math
from pathlib import Path

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_each_number_of_clicks_is_held_against_none_of_the_same_case(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_clicks

    rows = {0: [[0.5, 0.7], [0.9, math.nan], [0.7, 0.8]], 3: [[0.6, 0.7], [0.9, math.nan], [0.9, 0.9]]}
    table = bench_clicks.summary(rows, ["a", "b", "c"])
    assert [x[0] for x in table[3]["dice"]] == pytest.approx([0.8, 0.8])
    mean, low, high = table[3]["more"][0]
    assert mean == pytest.approx((0.05 + 0 + 0.15) / 3)
    # As wide as the cases differ, and not as the Dice does.
    assert 0 <= low < mean < high < 0.151
    assert table[0]["more"][0][0] == 0
    bench_clicks.print_table(table, ["front", "back"])
    head, _, none, three = capsys.readouterr().out.splitlines()
    assert head == "| clicks | front | back | mean of all, more than with none |"
    assert none.startswith("| 0 | 0.700 (")
    assert none.endswith("|  |")
    assert "| +0.067 (" in three


def test_overlap_by_name_pairs_other_values(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from overlap_by_name import overlap_by_name

    grid = phantoms.geometry(shape=(4, 1, 1))
    ours = Segmentation(
        np.array([1, 1, 2, 0], np.uint8).reshape(4, 1, 1), grid, LabelTable.from_names({1: "a", 2: "b"})
    )
    theirs = Segmentation(
        np.array([7, 7, 7, 5], np.uint8).reshape(4, 1, 1), grid, LabelTable.from_names({5: "b", 7: "a"})
    )
    found = overlap_by_name(ours, theirs, ["a", "b"])
    assert found["a"].dice == pytest.approx(4 / 5)
    assert found["b"].dice == 0
