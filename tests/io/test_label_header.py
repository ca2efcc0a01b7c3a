"""Label tables inside image files."""

from __future__ import annotations

import json

import pytest

from voxmetry.core.labels import Code, Label, LabelTable
from voxmetry.errors import LabelError
from voxmetry.io.label_header import from_caret, from_json, to_json
from voxmetry.io.segment_header import table_in
from voxmetry.io.slicer_header import to_slicer

TABLE = LabelTable(
    labels=(
        Label(value=2, name="Left kidney ", colour="#56B4E9", laterality="left", code=Code(value="1", meaning="Niere")),
        Label(value=7, name="lésion", colour="#E69F00", kind="lesion"),
    )
)
CARET = (
    '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
    '<Label Key="0" Red="0" Green="0" Blue="0" Alpha="0"><![CDATA[???]]></Label>'
    '<Label Key="1" Red="0.0" Green="1.0" Blue="0.5" Alpha="1"><![CDATA[spleen]]></Label>'
    '<Label Key="3"><![CDATA[liver]]></Label>'
    "</LabelTable></VolumeInformation></CaretExtension>"
)


def test_json_keeps_everything_in_ascii():
    text = to_json(TABLE)
    assert text.isascii()
    assert from_json(text, "a") == TABLE


def test_an_empty_table_stays_a_table():
    assert from_json(to_json(LabelTable(labels=())), "a") == LabelTable(labels=())


@pytest.mark.parametrize("text", ["", "FSL 6.0", "[1]", '{"labels": []}'])
def test_other_comments_are_no_table(text):
    assert from_json(text, "a") is None
    assert from_caret(text, "a") is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"schema": 9, "labels": []}, "not of schema 1"),
        ([], "not of schema 1"),
        ({"schema": 1, "labels": [{"value": 0, "name": "x", "colour": "#000000"}]}, "value"),
        ({"schema": 1, "labels": None}, "labels"),
    ],
)
def test_a_damaged_table_is_refused(body, words):
    with pytest.raises(LabelError, match=r"inside seg\.nii.*" + words):
        from_json(json.dumps({"voxmetry": body}), "seg.nii")


def test_caret_without_background():
    table = from_caret(CARET + "\0\0", "a")
    assert table.names == ("spleen", "liver")
    assert table["spleen"].colour == "#00FF80"


@pytest.mark.parametrize("damage", [("</LabelTable>", ""), ('Key="3"', 'Key="x"'), ("liver", "spleen")])
def test_a_damaged_caret_table_is_refused(damage):
    with pytest.raises(LabelError, match="label table inside a cannot be used"):
        from_caret(CARET.replace(*damage), "a")


def test_a_caret_text_with_entities_is_left_alone():
    assert from_caret(CARET.replace("<CaretExtension>", "<!DOCTYPE x []><CaretExtension>"), "a") is None


def test_slicer_keeps_values_names_and_colours():
    table = table_in(to_slicer([TABLE]), "a")
    assert [(label.value, label.name, label.colour) for label in table] == [
        (label.value, label.name, label.colour) for label in TABLE
    ]


def test_no_slicer_segments_are_no_table():
    assert table_in({"space": "x"}, "a") is None


@pytest.mark.parametrize(
    "change", [{"Segment1_LabelValue": "x"}, {"Segment1_LabelValue": "2"}, {"Segment1_Color": "red"}]
)
def test_damaged_slicer_segments_are_refused(change):
    with pytest.raises(LabelError):
        table_in(to_slicer([TABLE]) | change, "a")
