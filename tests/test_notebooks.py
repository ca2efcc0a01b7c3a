"""The notebooks run from top to bottom, and were saved with what they show."""

from __future__ import annotations

import itertools
import re

import nbformat
import pytest

import notebooks

PICTURE = re.compile(r"base64,[A-Za-z0-9+/=]+")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/\w[\w.-]*/|[A-Z]:\\")
each = pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert [path.name for path in notebooks.NOTEBOOKS] == [
        "01_segment.ipynb",
        "02_measure_and_compare.ipynb",
        "03_train.ipynb",
        "04_cohort.ipynb",
        "05_instances.ipynb",
    ]


@pytest.mark.slow
@each
def test_a_notebook_runs_and_shows_the_kinds_of_things_that_were_saved(path, tmp_path):
    ran, saved = notebooks.execute(path, tmp_path), nbformat.read(path, as_version=4)
    assert kinds(ran) == kinds(saved)
    assert not [output for output in notebooks.outputs(ran) if output.output_type == "error"]
    assert list(tmp_path.iterdir()) == []


@each
def test_a_notebook_was_saved_with_its_outputs_and_without_traces_of_a_machine(path):
    saved = nbformat.read(path, as_version=4)
    nbformat.validate(saved)
    assert [cell.execution_count for cell in saved.cells if cell.cell_type == "code"] == [
        *range(1, 1 + sum(cell.cell_type == "code" for cell in saved.cells))
    ]
    texts = [text for output in notebooks.outputs(saved) for text in strings(output)]
    assert [text for text in texts if ABSOLUTE_PATH.search(text)] == []
    assert "stderr" not in {output.get("name") for output in notebooks.outputs(saved)}
    assert any("image/png" in output.get("data", {}) for output in notebooks.outputs(saved))
    assert path.stat().st_size < 600_000


def kinds(notebook: nbformat.NotebookNode) -> list[list[object]]:
    """What each code cell shows, without its content.

    A stream arrives in as many pieces as the kernel's timing makes of it: pieces that follow each other are one.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = [[output.get("name") or sorted(output.get("data", {})) for output in cell.outputs] for cell in cells]
    return [[kind for kind, _ in itertools.groupby(kinds)] for kinds in shown]


def strings(output: nbformat.NotebookNode) -> list[str]:
    """The text of an output, pictures left out."""
    data = output.get("data", {})
    texts = [output.get("text", ""), *[data[kind] for kind in data if kind.startswith("text/")]]
    return [PICTURE.sub("", text) for text in texts]
