"""Flags of a study's measurements."""

from __future__ import annotations

import numpy as np
import pytest

import phantoms
from voxmetry import LabelTable, Segmentation, measure
from voxmetry.config import Range
from voxmetry.flags.study import flag_volumes

NAMES = {value: f"part_{value}" for value in range(1, 9)}


def measured(n_found: int):
    """Eight structures of 1 mL or none."""
    grid = phantoms.geometry(shape=(60, 12, 12), spacing_mm=(1.0, 1.0, 1.0), degrees=(0, 0, 0))
    array = np.zeros(grid.shape, np.uint8)
    for value in range(1, n_found + 1):
        array[6 * value - 4 : 6 * value, 2:10, 2:10] = value
    return measure(Segmentation(array, grid, LabelTable.from_names(NAMES)))


@pytest.mark.parametrize(("n_found", "unlike"), [(0, True), (3, True), (4, False), (8, False)])
def test_where_most_structures_are_missing_the_image_is_of_something_else(n_found, unlike):
    flags = flag_volumes(measured(n_found), {name: Range(low=0.1, high=1) for name in NAMES.values()}, "brain")
    assert (flags[:1] and flags[0].code == "unlike_training") == unlike or (not flags and not unlike)
    if unlike:
        assert flags[0].severity == "reject"
        assert f"{8 - n_found} of 8" in flags[0].message


def test_volumes_that_were_never_seen_count_as_missing_ones_do():
    flags = flag_volumes(measured(8), {name: Range(low=5, high=10) for name in NAMES.values()}, "brain")
    assert flags[0].code == "unlike_training"


def test_few_structures_or_none_with_an_expected_volume_say_nothing_about_the_image():
    few = {name: Range(low=5, high=10) for name in list(NAMES.values())[:5]}
    for expected in (few, {}):
        assert all(flag.code != "unlike_training" for flag in flag_volumes(measured(0), expected, "brain"))


@pytest.mark.parametrize(
    ("continues", "severity"),
    [({}, "review"), ({"part_1": ("I",)}, "note"), ({"part_1": ("S",)}, "review"), ({"part_2": ("I",)}, "review")],
)
def test_what_the_body_continues_is_noted_where_the_image_ends_on_that_side(continues, severity):
    measurements = [row.model_copy(update={"touches_border": True, "border_sides": ("I",)}) for row in measured(1)[:1]]
    (flag,) = flag_volumes(measurements, {}, "brain", continues=continues)
    assert (flag.code, flag.label, flag.severity) == ("truncated", "part_1", severity)


def test_what_is_cut_on_another_side_too_asks_for_a_look():
    measurements = [
        row.model_copy(update={"touches_border": True, "border_sides": ("L", "I")}) for row in measured(1)[:1]
    ]
    (flag,) = flag_volumes(measurements, {}, "brain", continues={"part_1": ("I",)})
    assert flag.severity == "review"
