"""The rules of the house that import-linter cannot hold: see docs/design.md."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import typer.main

from voxmetry.cli.app import app

SOURCE = Path(__file__).parents[1] / "src"
OPEN_TO_VERBS = ("cli", "workflows", "demo", "service", "config", "core", "errors", "_version")
"""What a verb may import: the workflows, the service above them, and the nouns and settings that it hands to them."""


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in (source / "voxmetry").rglob("*.py"):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports, inside of functions too, but for annotations alone."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        yield node
        for inner in ast.iter_child_nodes(node):
            yield from walk(inner)

    found = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in known else node.module
                for name in node.names
            }
    return found & known.keys()


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of modules that import each other; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other_in_a_circle():
    known = modules(SOURCE)
    assert len(known) > 300
    assert cycle({name: imports_of(path, known) - {name} for name, path in known.items()}) == []


def test_a_circle_is_found_inside_of_functions_as_well(tmp_path):
    folder = tmp_path / "voxmetry"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text("from voxmetry import b\n")
    (folder / "b.py").write_text("def f():\n    from voxmetry.a import x\n")
    known = modules(tmp_path)
    assert set(cycle({name: imports_of(path, known) - {name} for name, path in known.items()})) == {
        "voxmetry.a",
        "voxmetry.b",
    }


@pytest.mark.parametrize("path", sorted((SOURCE / "voxmetry" / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_verbs_call_workflows_and_nothing_below_them(path):
    found = imports_of(path, modules(SOURCE))
    assert {name for name in found if name.split(".")[1:2] and name.split(".")[1] not in OPEN_TO_VERBS} == set()


def test_each_verb_has_its_file_and_its_workflow():
    for name, command in typer.main.get_command(app).commands.items():
        own = name.replace("-", "_")
        if hasattr(command, "commands"):
            assert importlib.util.find_spec(f"voxmetry.cli.{own}"), name
            continue
        assert command.callback.__module__ == f"voxmetry.cli.{own}", name
        room = "voxmetry" if own == "demo" else "voxmetry.workflows"
        assert importlib.util.find_spec(f"{room}.{own}"), name
