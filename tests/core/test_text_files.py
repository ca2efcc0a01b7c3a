"""Texts and tables as people's programs write them: read as they are meant, or refused in words."""

import csv

import pytest

from voxmetry.config import load_yaml
from voxmetry.config.study import StudySettings
from voxmetry.core.text_files import parse_table, read_table, read_text, why_unreadable
from voxmetry.errors import ConfigError, FormatError
from voxmetry.io.instances import _rows
from voxmetry.measurement.patients import read_patients
from voxmetry.models.structures import read_structures
from voxmetry.train.layouts import _patients, _read_json
from voxmetry.train.manifests import read_csv
from voxmetry.workflows.cohort.manifest import read_manifest

CODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
BIG = {"utf-16-be": b"\xfe\xff", "utf-32-be": b"\x00\x00\xfe\xff"}


def as_saved(text, coding="utf-8", separator=",", ends="\n"):
    """Bytes as a spreadsheet program writes them."""
    return text.replace(",", separator).replace("\n", ends).encode(coding)


@pytest.mark.parametrize("coding", [*CODINGS, *BIG])
def test_any_unicode_is_read(coding, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(BIG.get(coding, b"") + "Größe\r\nŁódź\r".encode(coding))
    assert read_text(path) == "Größe\nŁódź\n"


def patients(path):
    return read_patients(path)


def patients_of_data(path):
    return _patients(path, ["Jörg", "b"])


def cohort(path):
    return {row.case: row.patient for row in read_manifest(path)}


def data_set(path):
    return {case.name: case.patient for case in read_csv(path, root=None).cases}


TEXT = "case,patient,study\nJörg,7,a\n,,\nb,8,b\n"
READERS = [
    (patients, TEXT),
    (patients_of_data, TEXT),
    (cohort, TEXT),
    (data_set, "case,patient,label,ct\nJörg,7,a,a\n,,,\nb,8,b,b\n"),
]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(("read", "text"), READERS)
def test_tables_are_read_as_spreadsheets_export_them(read, text, separator, coding, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(as_saved(text, coding, separator, "\r\n"))
    assert read(path) == {"Jörg": "7", "b": "8"}
    if coding != "utf-32":
        path.write_bytes(as_saved(f"sep={separator}\n".replace(",", separator) + text, coding, separator))
        assert read(path) == {"Jörg": "7", "b": "8"}


@pytest.mark.parametrize("coding", ["cp1252", "mac-roman", "utf-16-le"])
@pytest.mark.parametrize(("read", "text"), READERS)
def test_letters_that_nobody_can_know_are_refused_in_words(read, text, coding, tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(as_saved(text, coding))
    with pytest.raises(ConfigError) as told:
        read(path)
    assert "UnicodeDecodeError" not in str(told.value)
    assert "no Unicode text" in str(told.value)
    assert "CSV (UTF-8)" in str(told.value)


def test_a_table_of_structures_in_another_country(tmp_path):
    path = tmp_path / "structures.csv"
    path.write_bytes(as_saved("name,group\nliver,\nMilz,\n", "utf-16", ";"))
    assert [row.name for row in read_structures(path)] == ["liver", "Milz"]


@pytest.mark.parametrize(
    ("separator", "cells", "score"),
    [(",", "0.85", 0.85), (";", "0,85", 0.85), (";", "0.85", 0.85), (";", "1,234", 1.234), ("\t", "0,875", 0.875)],
)
def test_decimal_commas_are_fractions_where_columns_have_another_separator(separator, cells, score, tmp_path):
    path = tmp_path / "instances.csv"
    path.write_text(separator.join(["instance", "label", "score\n"]) + separator.join(["1", "node", f"{cells}\n"]))
    (row,) = _rows(path, [1], "map")
    assert row.score == score


@pytest.mark.parametrize(("separator", "cells"), [("\t", "1,234"), (";", "1.234,5"), (";", "1,2,3"), (",", '"0,85"')])
def test_a_number_that_may_be_two_is_none(separator, cells, tmp_path):
    path = tmp_path / "instances.csv"
    path.write_text(separator.join(["instance", "label", "score\n"]) + separator.join(["1", "node", f"{cells}\n"]))
    with pytest.raises(FormatError):
        _rows(path, [1], "map")


def test_lines_keep_their_numbers_and_cells_beyond_the_head_are_told(tmp_path):
    table = parse_table('a,b,,\n1,2,,\n,,,\n"x\ny",4,5,\n')
    assert (table.columns, table.lines) == (("a", "b"), (2, 4))
    assert table.rows == ({"a": "1", "b": "2"}, {"a": "x\ny", "b": "4"})
    assert table.beyond == (4,)
    assert parse_table("").columns == ()
    assert parse_table("sep=;\na;b\n1;2\n").lines == (3,)
    (tmp_path / "bad.csv").write_text('a,b\n"1,2\n')
    with pytest.raises(csv.Error) as told:
        read_table(tmp_path / "bad.csv")
    assert "quote" in why_unreadable(told.value) or "end of data" in why_unreadable(told.value)


@pytest.mark.parametrize("coding", CODINGS)
def test_settings_and_json_in_any_unicode(coding, tmp_path):
    (tmp_path / "a.yaml").write_bytes("device: cpu\n".encode(coding))
    assert load_yaml(tmp_path / "a.yaml", StudySettings).device == "cpu"
    (tmp_path / "dataset.json").write_bytes('{"name": "Größe"}'.encode(coding))
    assert _read_json(tmp_path / "dataset.json") == {"name": "Größe"}


@pytest.mark.parametrize(("read", "text"), READERS)
def test_a_name_with_a_separator_moves_no_cell(read, text, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(text.replace("b,8", "Doe, J,8", 1))
    if read is cohort:
        assert read_manifest(path)[-1].fault.found == "line 4 of the manifest has no study, or more cells than the head"
        return
    with pytest.raises(ConfigError, match="line 4 has more cells than the head"):
        read(path)


def test_letters_of_two_bytes_without_a_mark_are_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes("case,patient\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match="no Unicode text"):
        read_patients(tmp_path / "a.csv")


def test_settings_in_other_letters_are_refused_in_words(tmp_path):
    (tmp_path / "a.yaml").write_bytes("# Größe\ndevice: cpu\n".encode("cp1252"))
    with pytest.raises(ConfigError, match="no Unicode text"):
        load_yaml(tmp_path / "a.yaml", StudySettings)
    (tmp_path / "dataset.json").write_bytes('{"name": "Größe"}'.encode("cp1252"))
    with pytest.raises(ConfigError, match="no Unicode text"):
        _read_json(tmp_path / "dataset.json")
