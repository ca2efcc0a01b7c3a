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
