from __future__ import annotations

import pytest

from voxmetry import Label, LabelTable
from voxmetry.errors import ConfigError, LabelError
from voxmetry.measurement.pairing import Pair, is_placeholder, pair_labels

ORGANS = LabelTable.from_names({1: "left kidney", 2: "liver"})


def plain(*values: int) -> LabelTable:
    return LabelTable.from_names({value: f"label_{value}" for value in values})


def test_names_win_over_values():
    assert pair_labels(ORGANS, LabelTable.from_names({1: "Liver", 7: "left_kidney"})) == (
        Pair("left kidney", 1, 7),
        Pair("liver", 2, 1),
    )


def test_a_plain_file_is_matched_by_value():
    expected = (Pair("left kidney", 1, 1), Pair("liver", 2, 2))
    assert pair_labels(ORGANS, plain(1, 2)) == pair_labels(plain(1, 2), ORGANS) == expected


def test_a_plain_file_may_lack_what_the_case_does_not_have():
    assert pair_labels(ORGANS, plain(2)) == (Pair("left kidney", 1, None), Pair("liver", 2, 2))
    assert pair_labels(ORGANS, LabelTable(labels=())) == (Pair("left kidney", 1, None), Pair("liver", 2, None))
    assert pair_labels(plain(1), plain(3)) == (Pair("label_1", 1, None), Pair("label_3", None, 3))


def test_a_plain_file_with_a_value_that_the_names_do_not_know():
    for tables in [(ORGANS, plain(1, 2, 3)), (plain(1, 2, 3), ORGANS)]:
        with pytest.raises(LabelError, match=r"values \[3\]"):
            pair_labels(*tables)
        assert pair_labels(*tables, labels=["liver"]) == (Pair("liver", 2, 2),)


def test_names_without_a_partner():
    more = LabelTable.from_names({1: "left kidney", 2: "liver", 3: "spleen"})
    for tables in [(ORGANS, more), (more, ORGANS)]:
        with pytest.raises(LabelError, match="only one of the two label tables: spleen"):
            pair_labels(*tables)
    assert [pair.name for pair in pair_labels(ORGANS, more, labels=["liver"])] == ["liver"]
    assert pair_labels(ORGANS, more, labels=["spleen"]) == (Pair("spleen", None, 3),)


def test_an_unknown_name_is_refused():
    with pytest.raises(LabelError, match="'pancreas'"):
        pair_labels(ORGANS, ORGANS, labels=["pancreas"])


def test_by_value_refuses_tables_that_contradict_each_other():
    crossed = LabelTable.from_names({1: "liver", 2: "left kidney"})
    with pytest.raises(LabelError, match="contradict"):
        pair_labels(ORGANS, crossed, match="value")
    # One label without a name makes 'auto' go by value; the names that are there are still looked at.
    half = LabelTable.from_names({1: "liver", 5: "5"})
    with pytest.raises(LabelError, match="contradict"):
        pair_labels(LabelTable.from_names({1: "1", 2: "liver", 5: "spleen"}), half)


def test_names_that_only_case_tells_apart():
    twins = LabelTable.from_names({1: "Liver", 2: "liver"})
    with pytest.raises(LabelError, match="differ only in case"):
        pair_labels(twins, ORGANS)


def test_forced_value_uses_the_predictions_name():
    other = LabelTable.from_names({1: "label_1", 2: "Liver"})
    assert pair_labels(ORGANS, other, match="value") == (Pair("left kidney", 1, 1), Pair("liver", 2, 2))


def test_unknown_rule():
    with pytest.raises(ConfigError, match="match="):
        pair_labels(ORGANS, ORGANS, match="order")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("3", 3, True),
        ("label_3", 3, True),
        ("Label 03", 3, True),
        ("Segment_3", 3, True),
        ("label_4", 3, False),
        ("T3", 3, False),
        ("vertebra 3", 3, False),
    ],
)
def test_placeholders(name, value, expected):
    assert is_placeholder(Label(value=value, name=name, colour="#000000")) is expected
