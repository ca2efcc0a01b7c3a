"""The documentation against the code: its examples run, its links lead somewhere, its lists are complete."""

from __future__ import annotations

import doctest
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import typer

from voxmetry.cli.app import app
from voxmetry.demo import FOLDER

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "data").glob("*.md")),
]
RUN = re.compile(r"^<!-- run -->\n+```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python$", re.MULTILINE)
COMMAND = re.compile(r"^ *(?:[A-Z_]+=\S+ )?voxmetry +([^\n#]+)", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def runnable(path: Path) -> list[str]:
    return RUN.findall(text_of(path))


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The pages speak to somebody in a checkout who has a study.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(FOLDER / "icbm152-hippocampus-right.nii.gz", tmp_path / "study.nii.gz")
    names: dict[str, object] = {"__name__": "page"}
    text = text_of(page)
    for block in runnable(page):
        # Blank lines before it, so that a traceback names the line of the page.
        above = text[: text.index(block)].count("\n")
        exec(compile("\n" * above + block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_run(page):
    assert len(PYTHON.findall(text_of(page))) == len(runnable(page)), "put <!-- run --> before each ```python block"


@pytest.mark.parametrize("page", [page for page in PAGES if COMMAND.search(text_of(page))], ids=lambda page: page.name)
def test_the_commands_of_a_page_have_verbs_and_options_that_there_are(page):
    for line in COMMAND.findall(text_of(page)):
        command, words = typer.main.get_command(app), shlex.split(line)
        # `voxmetry serve` is a verb by itself, and has others behind it.
        while hasattr(command, "commands") and not (command.invoke_without_command and words[0].startswith("-")):
            command = command.commands[words.pop(0)]
        command.make_context("voxmetry", words)  # raises on what it does not know


@pytest.mark.parametrize("page", [page for page in PAGES if ">>> " in text_of(page)], ids=lambda page: page.name)
def test_the_examples_with_a_prompt_give_what_they_say(page):
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted
    assert not found.failed


def written_in(path: Path) -> str:
    """The text of a page, or of a notebook between its code."""
    if path.suffix != ".ipynb":
        return text_of(path)
    return "\n".join("".join(x["source"]) for x in json.loads(text_of(path))["cells"] if x["cell_type"] == "markdown")


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "notebooks").glob("*.ipynb"))], ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    targets = [next(part for part in match if part) for match in LINK.findall(written_in(page))]
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if target and not (page.parent / target).exists()] == []


def indented_block(page: Path, marker: str) -> str:
    """The indented lines after a marker."""
    after = text_of(page).split(f"<!-- {marker} -->\n", 1)[1]
    found = re.match(r"\n*((?:(?: {4}.*)?\n)+)", after)
    assert found
    return found.group(1)


class TestDesign:
    page = ROOT / "docs" / "design.md"
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))

    def test_every_runtime_dependency_has_its_row_and_no_other(self):
        table = text_of(self.page).split("<!-- dependencies -->\n", 1)[1]
        rows = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
        wanted = [re.match(r"[\w-]+", item).group() for item in self.project["project"]["dependencies"]]
        assert sorted(rows) == sorted(wanted)

    def test_layers_are_those_that_are_checked(self):
        wanted = [
            re.sub(r"voxmetry\.", "", layer) for layer in self.project["tool"]["importlinter"]["contracts"][0]["layers"]
        ]
        shown = [line.strip() for line in indented_block(self.page, "layers").split("\n") if line.strip()]
        assert shown == wanted

    def test_each_folder_has_its_line_and_no_other(self):
        table = text_of(self.page).split("<!-- folders -->\n", 1)[1].split("\n## ", 1)[0]
        rows = re.findall(r"^\| `([\w/]+)` \|", table, re.MULTILINE)
        source = ROOT / "src" / "voxmetry"
        folders = {str(path.parent.relative_to(source)) for path in source.rglob("__init__.py")} - {"."}
        assert sorted(rows) == sorted(folders)

    def test_nothing_lies_loose_on_top(self):
        loose = {path.name for path in (ROOT / "src" / "voxmetry").glob("*.py")}
        assert loose == {"__init__.py", "__main__.py", "_version.py", "errors.py"}
