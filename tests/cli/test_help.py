from __future__ import annotations

import re
from pathlib import Path

import pytest

from voxmetry.cli import run
from voxmetry.cli.app import app
from voxmetry.cli.verbs import GROUPS
from voxmetry.config import DicomOutput, StudySettings

VERBS = [name for names in GROUPS.values() for name in names]


def shown(capsys, *arguments):
    assert run([*arguments]) == 0
    return capsys.readouterr().out


def test_verbs_come_in_groups_in_the_order_of_use(capsys):
    text = shown(capsys, "-h")
    places = [text.index(f"\n  {name} ") for name in VERBS]
    assert places == sorted(places)
    titles = [text.index(f"{title}:") for title in GROUPS]
    assert titles == sorted(titles)
    assert "Further:" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself_by_both_spellings_within_80_columns(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, verb, "-h")
    assert text == shown(capsys, verb, "--help")
    assert max(len(line) for line in text.splitlines()) <= 80


OPTION = re.compile(r"^  (?:-\w, )?(--[a-z-]+)", re.MULTILINE)


def test_segment_shows_what_is_used_often(capsys):
    options = set(OPTION.findall(shown(capsys, "segment", "-h"))) - {"--help"}
    assert {"--model", "--out", "--reference", "--prior", "--structures", "--settings", "--set"} <= options
    assert len(options) <= 17


@pytest.mark.parametrize("verb", ["segment", "convert", "cohort run"])
def test_help_all_shows_each_option_and_says_where_it_is(verb, capsys):
    import typer.main

    command = typer.main.get_command(app)
    for word in verb.split():
        command = command.commands[word]
    every = {name for option in command.params for name in option.opts if name.startswith("--")}
    few, all_of_them = (shown(capsys, *verb.split(), how) for how in ("-h", "--help-all"))
    assert set(OPTION.findall(all_of_them)) >= every > set(OPTION.findall(few)) - {"--help"}
    assert f"further options: voxmetry {verb} --help-all" in few
    assert "further options" not in all_of_them
    # The next one who asks for the short help gets it.
    assert shown(capsys, *verb.split(), "-h") == few


def test_each_setting_stands_in_the_docs_with_its_option():
    import typer.main

    page = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `(--[a-z-]+)` \|", page, re.MULTILINE))
    settings = {*StudySettings.model_fields, *(f"dicom.{name}" for name in DicomOutput.model_fields)} - {"dicom"}
    assert set(rows) == settings
    assert set(rows.values()) <= {
        name for option in typer.main.get_command(app).commands["segment"].params for name in option.opts
    }


def test_no_verb_has_two_spellings(capsys):
    import typer.main

    assert "train-plan" in typer.main.get_command(app).commands
    assert run(["train", "plan", "x"]) == 2
