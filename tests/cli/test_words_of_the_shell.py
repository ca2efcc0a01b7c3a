"""What to do is said in words of the shell, and what it says can be done."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer

import voxmetry
from voxmetry.cli import _at_the_shell, _own_options, _unforeseen, without_python
from voxmetry.cli.app import app
from voxmetry.config import StudySettings, TrainSettings
from voxmetry.config.service import ServiceSettings
from voxmetry.errors import InputError

ROOT = Path(__file__).parents[2]
SOURCE = Path(voxmetry.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMAND = re.compile(r"voxmetry ((?:[a-z][a-z-]*\b *)+[^;,)`]*)")


def told(fix: str, *arguments: str) -> str:
    error = InputError(found="x", expected="y", fix=fix)
    changed = _at_the_shell(error, arguments)
    assert changed.fix in str(changed)
    return changed.fix


def texts(node: ast.expr) -> list[str]:
    """What an expression may say; a value that is put in is an X."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        parts = [texts(x.value) or ["X"] if isinstance(x, ast.FormattedValue) else texts(x) for x in node.values]
        return ["".join(words) for words in itertools.product(*parts)]
    return []


def fixes() -> list[tuple[str, str]]:
    """What to do, of every error in the source, behind the file that says so."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "fix":
                found += [(str(path.relative_to(SOURCE)), words) for words in texts(node.value)]
    assert len(found) > 600
    return found


FIXES = fixes()
VERBS = typer.main.get_command(app)


def commands(command=VERBS, words: tuple[str, ...] = ()):
    """Every verb of the command line, with those below it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def test_no_python_is_told_to_who_typed_a_command():
    fix = "say which one a shared voxel goes to (--overlap first); in Python: overlap='first'"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == "say which one a shared voxel goes to (--overlap first)"
    fix = "leave out --maps (maps=()), or use --engine stream (engine='stream')"
    assert told(fix, "segment", "a.nrrd") == "leave out --maps, or use --engine stream"


def test_no_error_that_names_an_option_speaks_of_python_at_the_shell():
    told = [fix for _, fix in FIXES if "--" in fix]
    assert len(told) > 100
    assert sum(without_python(fix) != fix for fix in told) > 10
    # `--set NAME=VALUE` has a name and a value at the shell too.
    said = [without_python(fix) for fix in told if "--set " not in fix]
    assert [fix for fix in said if re.search(r"Python|(?<!-)\b[a-z_]\w*=(True|\(|\[|'|\"|\d)", fix)] == []


def test_an_option_that_the_verb_does_not_have_is_one_of_convert():
    fix = "read it with --overlap first"
    assert told(fix, "convert", "a.nrrd", "b.nii.gz") == fix
    first = "for this verb write a file first: voxmetry convert SOURCE TARGET, with --overlap"
    assert told(fix, "measure", "a.nrrd") == f"{fix}; {first}"
    assert told("choose --structures NAME, or --split", "compare").endswith("with --split or --structures")


def test_an_option_that_the_verb_does_not_have_is_said_to_be_that_of_another():
    said = told("say which is which (--map 3=NAME), or name those to compare (--label NAME)", "follow-up", "a", "b")
    assert said.endswith("(--label: an option of voxmetry compare)")
    whole = "make them again: voxmetry models quantise m STUDY --overwrite; or remove it"
    assert told(whole, "cohort", "run", "IN") == whole


def test_memory_is_not_limited_by_an_option_that_the_verb_lacks():
    assert "--memory-gb" not in _unforeseen(MemoryError(), ["compare", "a", "b"]).fix
    assert "--memory-gb" in _unforeseen(MemoryError(), ["segment", "a"]).fix


def test_every_option_that_is_advised_exists():
    known = set().union(*(_own_options(command) for _, command in commands()))
    odd = [(place, fix) for place, fix in FIXES for name in OPTION.findall(fix) if name not in known]
    assert [fix for _, fix in odd if "curl" not in fix] == []


@pytest.mark.parametrize(("place", "fix"), [x for x in FIXES if COMMAND.search(x[1])])
def test_every_command_that_is_advised_can_be_given(place, fix):
    for line in COMMAND.findall(fix):
        words, command, path = shlex.split(line.rstrip(". ")), VERBS, []
        while words and words[0] in getattr(command, "commands", {}):
            path.append(words.pop(0))
            command = command.commands[path[-1]]
        # A verb by its name alone says which one is meant.
        if path and words and (words[0].isupper() or words[0] == "X"):
            command.make_context("voxmetry", [word.removesuffix("...") for word in words])
        assert path, place
        assert not hasattr(command, "commands") or path == ["serve"], place


def test_every_page_and_every_extra_that_is_advised_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = [name for _, fix in FIXES for name in re.findall(r"voxmetry\[(\w+)\]", fix)]
    assert set(named) <= set(extras)
    # Without quotes some shells take the brackets for a pattern.
    assert [fix for _, fix in FIXES if re.search(r"install voxmetry\[", fix)] == []
    pages = {page for _, fix in FIXES for page in re.findall(r"docs/[\w/-]+\.md", fix)}
    assert pages
    assert [page for page in pages if not (ROOT / page).is_file()] == []


def test_every_argument_of_python_that_is_advised_exists():
    known = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg):
                known.add(node.arg)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                known.add(node.target.id)
    named = [(fix, name) for _, fix in FIXES for name in re.findall(r"(?<![\w.@])([a-z_]\w*)=(?!OURS)", fix)]
    assert len(named) > 20
    assert [(fix, name) for fix, name in named if name not in known] == []


def keys(kind, above: str = "") -> set[str]:
    """The dotted names of a record's fields."""
    found = set()
    for name, field in kind.model_fields.items():
        found.add(above + name)
        for inner in re.findall(r"\bvoxmetry\.[\w.]+\b", str(field.annotation)):
            module, _, last = inner.rpartition(".")
            record = getattr(__import__(module, fromlist=[last]), last, None)
            if hasattr(record, "model_fields"):
                found |= keys(record, f"{above}{name}.")
    return found


def test_every_key_of_a_settings_file_that_is_advised_exists():
    known = keys(StudySettings) | keys(TrainSettings) | keys(ServiceSettings)
    tops = {name.split(".")[0] for name in known if "." in name}
    named = {x for _, fix in FIXES for x in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+", fix) if x.split(".")[0] in tops}
    assert len(named) >= 5
    assert [x for x in named if x not in known and not re.search(r"\.(yaml|md|json)$", x)] == []
