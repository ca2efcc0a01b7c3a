"""Names that would do something if they were more than names, through every verb that shows or writes them."""

import contextlib
import csv
import io
import json
import shutil
import sys
import unicodedata
import xml.etree.ElementTree as ET

import numpy as np
import pydicom
import pytest

import models
import phantoms
from voxmetry import LabelTable, Segmentation, plot, save
from voxmetry.cli import run
from voxmetry.core.labels import Label
from voxmetry.io import write_series
from workflows.cohort.conftest import Threads

MARKUP = "kidney [/left]"
NAMES = (
    MARKUP,
    "\x1b]0;title\x07\x1b[2J\x9b1m cleared",
    "liver\u202egnp.exe\u2066",
    '=HYPERLINK("http://127.0.0.1/","look")',
    "<script>alert(1)</script>",
    "cost $1 and $\\frac",
    "one\nerror: two\r+3",
    "@SUM(A1) \u2028 end",
)
SHAPE = (24, 27, 11)


def table() -> LabelTable:
    return LabelTable(
        labels=tuple(
            Label(value=n, name=name, colour="#E69F00", kind="lesion" if n == 1 else "organ")
            for n, name in enumerate(NAMES, start=1)
        )
    )


def label_map(shift: int = 0) -> Segmentation:
    grid = phantoms.geometry(shape=SHAPE)
    array = np.zeros(SHAPE, np.uint8)
    for n in range(len(NAMES)):
        array[2 + shift : 9 + shift, 3 * n + 1 : 3 * n + 3, 3:7] = n + 1
    return Segmentation(array, grid, table())


def spoken(words, code) -> str:
    """Run a verb; return what it printed on both streams, and see that it came to its end."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        given = run([str(word) for word in words])
    text = (out.buffer.getvalue() + err.buffer.getvalue()).decode("utf-8")
    assert given in code, text
    return text


def is_harmless(text: str) -> bool:
    return not any(
        (unicodedata.category(x) in ("Cc", "Cs", "Zl", "Zp") and x != "\n") or x in "\u202e\u2066" for x in text
    )


def look_at(folder) -> list[str]:
    """Return what is wrong with the files below a folder, by what reads each kind of them."""
    wrong = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.suffix in (".html", ".svg", ".md", ".txt"):
            text = path.read_text(encoding="utf-8")
            if not is_harmless(text.replace("\r", "")):
                wrong.append(f"{path.name}: control characters")
            if "<script>alert" in text:
                wrong.append(f"{path.name}: markup")
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            wrong += [f"{path.name}: {cell!r}" for cell in cells if not is_harmless(cell) or "\n" in cell]
            wrong += [f"{path.name}: {cell!r}" for cell in cells if cell[:1] in ("=", "@", "+", "\t", "\r")]
    return wrong


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Label maps, a model, a DICOM series and a data set with such names."""
    root = tmp_path_factory.mktemp("hostile")
    for name, shift in (("prediction", 0), ("reference", 2)):
        for case in ("a [b]", "=1+1"):
            (root / name).mkdir(exist_ok=True)
            save(label_map(shift), root / name / f"{case}.nii.gz")
    image = phantoms.volume(phantoms.geometry(shape=SHAPE))
    (root / "images").mkdir()
    for case in ("a [b]", "=1+1"):
        save(image, root / "images" / f"{case}.nii.gz")
    shutil.copytree(root / "images", root / "data" / "images")
    shutil.copytree(root / "prediction", root / "data" / "labels")
    labels = {"labels": [label.model_dump() for label in table()]}
    models.write(root / "model", labels=labels, summary=NAMES[1], licence=NAMES[2], training_domain={})
    write_series(image, root / "series", modality="MR", description="t1")
    for path in (root / "series").iterdir():
        header = pydicom.dcmread(path)
        header.SpecificCharacterSet = "ISO_IR 192"
        header.SeriesDescription = f"{MARKUP} \x9b1m\u202ex"
        header.save_as(path)
    return root


ONE, OTHER = "{p}/prediction/a [b].nii.gz", "{p}/reference/a [b].nii.gz"
RUN = ("-m", "{p}/model", "-o", "{o}", "--device", "cpu")
VERBS = {
    "measure": ("measure", ONE, "-o", "{o}"),
    "compare": ("compare", "--prediction", ONE, "--reference", OTHER),
    "compare folders": ("compare", "--prediction", "{p}/prediction", "--reference", "{p}/reference", "-o", "{o}"),
    "segment": ("segment", "{p}/series", *RUN, "--reference", OTHER, "--pdf"),
    "follow-up": ("follow-up", ONE, OTHER, "--lesion", MARKUP, "--registration", "none", "-o", "{o}"),
    "data check": ("data", "check", "{p}/data", "-o", "{o}"),
    "evaluate": ("evaluate", "{p}/data", *RUN),
    "convert": ("convert", ONE, "{o} [b].nrrd"),
    "inspect": ("inspect", "{p}/series"),
    "models show": ("models", "show", "{p}/model"),
    "cohort run": ("cohort", "run", "{p}/images", *RUN, "--report", "none"),
}
ALSO_JSON = ("measure", "compare", "inspect", "follow-up", "models show")
QUIET = ("cohort run", "data check", "convert")
"""Verbs that name no structure."""


@pytest.mark.parametrize(
    ("verb", "form"), [*((verb, "words") for verb in VERBS), *((verb, "json") for verb in ALSO_JSON)]
)
def test_no_name_does_anything(verb, form, place, tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", lambda settings, tasks: Threads())
    words = [word.replace("{p}", str(place)).replace("{o}", str(tmp_path / "out")) for word in VERBS[verb]]
    text = spoken([*words, *(["--json"] if form == "json" else [])], (0, 1, 3) if verb == "data check" else (0, 3))
    assert is_harmless(text)
    if form == "json":
        json.loads(text[text.index("{") : text.rindex("}") + 1])
    elif verb not in QUIET:
        # A name with brackets is shown with its brackets.
        assert MARKUP in text.replace("\n", " ") or "[/left]" in text
    assert not look_at(tmp_path)


def test_a_study_list_shows_names_as_they_are(place, tmp_path, monkeypatch):
    monkeypatch.setattr("voxmetry.workflows.cohort.run.make_executor", lambda settings, tasks: Threads())
    text = spoken(["cohort", "plan", place / "images", "-m", place / "model", "-o", tmp_path / "o"], (0,))
    assert is_harmless(text)


def test_pictures_with_such_names_are_well_formed_svg(tmp_path):
    segmentation = label_map()
    figure = plot.calibration([(name, 0.5, 0.6) for name in NAMES])
    figure.savefig(tmp_path / "calibration.svg")
    plot.surfaces(segmentation).savefig(tmp_path / "meshes.svg")
    for path in tmp_path.glob("*.svg"):
        ET.parse(path)


def test_an_error_shows_no_escape_sequence(tmp_path):
    text = spoken(["measure", tmp_path / "a\x1b[2J\u202e.nii.gz"], (1,))
    assert is_harmless(text)


def test_what_the_project_prints_is_text_on_an_ascii_stream(place):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(out):
        assert run(["measure", str(place / "prediction" / "a [b].nii.gz")]) == 0
    assert "[/left]" in out.buffer.getvalue().decode("ascii")


def test_the_streams_are_as_before_after_a_verb(capsys):
    before = sys.stdout, sys.stderr
    run(["--version"])
    assert (sys.stdout, sys.stderr) == before
    print("still open")
    assert capsys.readouterr().out.endswith("still open\n")
