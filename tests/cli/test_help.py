from __future__ import annotations

import re

import pytest

from voxmetry.cli import run
from voxmetry.cli.app import app
from voxmetry.cli.verbs import GROUPS

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


def test_segment_shows_what_is_used_often(capsys):
    options = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", shown(capsys, "segment", "-h"), re.MULTILINE)
    assert {"--model", "--out", "--reference", "--settings", "--set"} <= set(options)
    assert len(set(options)) <= 27


def test_no_verb_has_two_spellings(capsys):
    import typer.main

    assert "train-plan" in typer.main.get_command(app).commands
    assert run(["train", "plan", "x"]) == 2
