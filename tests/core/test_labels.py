"""Names of structures are one name however their accents are stored."""

import unicodedata

import numpy as np
import pytest

from voxmetry import Geometry, Segmentation, compare
from voxmetry.core.labels import LabelTable, plain_name

TOGETHER = "Läsion"
APART = unicodedata.normalize("NFD", TOGETHER)


def test_a_table_has_one_spelling_and_finds_the_other():
    assert APART != TOGETHER
    table = LabelTable.from_names({1: APART})
    assert table.names == (TOGETHER,)
    assert table[APART] == table[TOGETHER] == table.find(APART.upper())
    assert plain_name(APART) == plain_name(TOGETHER)


@pytest.mark.parametrize("name", [APART, TOGETHER])
def test_renaming_and_reading_a_record_give_the_same(name):
    table = LabelTable.from_names({1: "lesion"}).renamed({"lesion": name})
    assert table.names == (TOGETHER,)
    assert LabelTable.model_validate(table.model_dump()) == table


def test_one_structure_of_two_files_is_compared():
    array = np.zeros((4, 4, 4), np.uint8)
    array[1:3, 1:3, 1:3] = 1
    grid = Geometry(np.eye(4), array.shape)
    ours, theirs = (Segmentation(array, grid, LabelTable.from_names({1: name})) for name in (APART, TOGETHER))
    (row,) = compare(prediction=ours, reference=theirs)
    assert (row.label, row.dice) == (TOGETHER, 1.0)
