from __future__ import annotations

import pytest

from voxmetry import Label, LabelTable
from voxmetry.errors import ConfigError, LabelError
from voxmetry.measurement.pairing import Pair, is_placeholder, left_out, pair_labels, same_names

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


def test_what_one_side_does_not_know_is_left_out():
    more = LabelTable.from_names({1: "left kidney", 2: "liver", 3: "spleen"})
    both = (Pair("left kidney", 1, 1), Pair("liver", 2, 2))
    assert pair_labels(ORGANS, more) == pair_labels(more, ORGANS) == both
    assert left_out(ORGANS, more, both) == ((), ("spleen",))
    assert left_out(more, ORGANS, both) == (("spleen",), ())


def test_one_structure_under_two_names_is_not_guessed():
    other = LabelTable.from_names({1: "liver", 2: "kidney L"})
    for tables in [(ORGANS, other), (other, ORGANS)]:
        with pytest.raises(LabelError, match=r"only one of the two label tables: .*kidney.*kidney"):
            pair_labels(*tables)
    with pytest.raises(LabelError, match="only one of the two label tables"):
        pair_labels(ORGANS, LabelTable.from_names({1: "tumour"}))


def test_a_chosen_structure_must_be_known_to_both():
    # Dice 0 for a structure that the reference calls something else was the fault.
    reference = LabelTable.from_names({1: "GTV_Mass_CT"})
    with pytest.raises(LabelError, match=r"only one of the two label tables: tumour[\s\S]*--map THEIRS=OURS"):
        pair_labels(LabelTable.from_names({1: "tumour"}), reference, labels=["tumour"])


class TestMap:
    OURS = LabelTable.from_names({1: "tumour", 2: "lung"})

    @pytest.mark.parametrize("old", ["GTV_Mass_CT", "gtv mass ct", "7"])
    def test_names_of_the_other_side(self, old):
        theirs = LabelTable.from_names({7: "GTV_Mass_CT", 8: "heart"})
        assert pair_labels(self.OURS, theirs, names={old: "tumour"}) == (Pair("tumour", 1, 7),)
        assert pair_labels(theirs, self.OURS, names={old: "tumour"}) == (Pair("tumour", 7, 1),)

    def test_values_of_a_plain_file(self):
        assert pair_labels(self.OURS, plain(3, 4), names={"4": "tumour"}) == (Pair("tumour", 1, 4),)

    def test_a_name_that_nobody_has(self):
        with pytest.raises(LabelError, match="no structure named 'GTV' on either side"):
            pair_labels(self.OURS, plain(3), names={"GTV": "tumour"})

    def test_two_structures_of_one_name(self):
        with pytest.raises(LabelError, match="would both be named"):
            pair_labels(self.OURS, LabelTable.from_names({3: "a", 4: "b"}), names={"a": "tumour", "b": "tumour"})


@pytest.mark.parametrize("names", [None, {"GTV": "tumour"}])
def test_two_time_points_get_one_table_of_names(names):
    first = LabelTable.from_names({1: "GTV" if names else "tumour", 2: "Lymph node"}).with_kind("Lymph node", "lesion")
    second = LabelTable.from_names({5: "lymph_node", 6: "tumour"})
    before, after = same_names(first, second, names)
    assert before.names == ("tumour", "Lymph node")
    assert after.names == ("Lymph node", "tumour")


def test_a_plain_time_point_takes_the_names_of_the_other():
    named = LabelTable.from_names({1: "tumour", 2: "node"}).with_kind("tumour", "lesion")
    for tables in (same_names(named, plain(1)), same_names(plain(1), named)):
        assert [table.names for table in tables] == [("tumour", "node")] * 2
        assert tables[0]["tumour"].kind == tables[1]["tumour"].kind == "lesion"
    with pytest.raises(LabelError, match=r"values \[3\]"):
        same_names(named, plain(1, 3))


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
