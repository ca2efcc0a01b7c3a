"""No verb takes the last of two values without a word, and none takes an empty word for the folder it runs in."""

from __future__ import annotations

import pytest
import typer.main

from voxmetry.cli import run
from voxmetry.cli.app import app


def leaves(command, path=()):
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*path, name))


VERBS = dict(leaves(typer.main.get_command(app)))
OPTIONS = [(verb, option) for verb, command in VERBS.items() for option in command.params if option.opts[0][0] == "-"]
ONE_VALUE = [(verb, x.opts[-1]) for verb, x in OPTIONS if not x.multiple and not x.is_flag]
PAIRS = [(verb, x.opts[-1], x.secondary_opts[-1]) for verb, x in OPTIONS if x.is_flag and x.secondary_opts]


def test_there_are_verbs_of_all_levels():
    assert {("segment",), ("cohort", "run"), ("models", "show"), ("data", "check")} <= set(VERBS)
    assert len(ONE_VALUE) > 80


@pytest.mark.parametrize("verb", sorted({verb for verb, _ in ONE_VALUE}), ids=" ".join)
def test_an_option_of_one_value_is_given_once(verb, capsys):
    for name in [option for other, option in ONE_VALUE if other == verb]:
        assert run([*verb, name, "1", f"{name}=2"]) == 2
        assert f"{name} given 2 times" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("verb", "on", "off"), PAIRS)
def test_a_switch_is_not_on_and_off(verb, on, off, capsys):
    assert run([*verb, on, off]) == 2
    assert "given 2 times" in capsys.readouterr().err


def test_options_of_several_values_and_switches_may_be_repeated(tmp_path, capsys):
    files = ["--prediction", str(tmp_path / "a.nii"), "--reference", str(tmp_path / "b.nii")]
    assert run(["compare", *files, "--label", "a", "--label", "b", "--json", "--json"]) == 1
    assert "nothing at a.nii" in capsys.readouterr().err


def needed(command):
    """The words that a verb cannot do without."""
    return [item for item in command.params if item.required]


@pytest.mark.parametrize("verb", sorted(VERBS), ids=" ".join)
def test_an_empty_word_is_refused_wherever_one_may_stand(verb, capsys, tmp_path, monkeypatch):
    """`-o "$OUT"` with OUT not set would write into the folder that one stands in."""
    monkeypatch.chdir(tmp_path)
    command = VERBS[verb]
    for item in command.params:
        if item.param_type_name == "option" and (item.is_flag or item.name == "help"):
            continue
        words = []
        for other in [item, *(one for one in needed(command) if one is not item)]:
            option = [other.opts[-1]] if other.param_type_name == "option" else []
            words += [*option, "" if other is item else "x"]
        assert run([*verb, *words]) == 2, words
        assert "is given as an empty word" in " ".join(capsys.readouterr().err.split()), words
    assert not list(tmp_path.iterdir())
