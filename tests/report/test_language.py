"""Catalogues: complete, with the same values in each sentence, and nothing on a page that is in none of them."""

import ast
import re
import string
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import phantoms
from voxmetry import Flag, Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measurement import DEFINITIONS
from voxmetry.measurement.definitions import FOLLOW_UP
from voxmetry.report import build_document, languages, load_language
from voxmetry.report.facts import _FOLLOWED
from voxmetry.report.language import ENGLISH, Language

SOURCES = files("voxmetry.report")


def literals(node):
    if isinstance(node, ast.Constant):
        return [node.value]
    return literals(node.body) + literals(node.orelse) if isinstance(node, ast.IfExp) else []


def messages():
    """Each sentence that the code or a template says as it stands."""
    found = set()
    # The room's other pages, of cohorts and comparisons, are English.
    for entry in (*SOURCES.iterdir(), *(SOURCES / "pictures").iterdir()):
        if not entry.name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(entry.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("say", "self.say", "document.language"):
                found.update(literals(node.args[0]))
            if called == "say.count":
                found.update(literals(node.args[1]) + literals(node.args[2]))
    for name in ("report.html.j2", "viewer.html.j2", "macros.html.j2"):
        found.update(re.findall(r'say\("([^"]+)"', (SOURCES / "templates" / name).read_text(encoding="utf-8")))
    return found


def values_of(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_messages_are_found_in_code_and_templates():
    assert {"Findings", "{n} lesion of {ml} mL.", "Look through the image", "not defined"} <= messages()


@pytest.mark.parametrize("code", languages()[1:])
def test_a_catalogue_has_every_message(code):
    assert messages() - set(load_language(code).messages) == set()


@pytest.mark.parametrize("code", languages()[1:])
def test_a_catalogue_has_every_definition_of_a_report(code):
    said = {**DEFINITIONS, **{name: text for name, text in FOLLOW_UP.items() if name in _FOLLOWED}}
    assert [name for name, text in said.items() if not load_language(code).knows(text)] == []


@pytest.mark.parametrize("code", languages()[1:])
def test_a_translation_keeps_the_values_of_its_sentence(code):
    for message, said in load_language(code).messages.items():
        assert values_of(said) == values_of(message), message


def test_an_unknown_language_is_refused():
    with pytest.raises(ConfigError, match=r"(?s)'xx'.*en, de, es"):
        load_language("xx")


def test_numbers_and_dates_follow_the_language():
    german, spanish = load_language("de"), load_language("es")
    assert german.millilitres(1.234) == "1,23"
    assert german.moment("2026-11-22T10:15:42Z") == "22.11.2026 10:15 UTC"
    assert spanish.moment("2026-11-22T10:15:42+02:00") == "22/11/2026 08:15 UTC"
    assert ENGLISH.moment("2026-11-22T10:15:42Z") == "2026-11-22 10:15 UTC"
    assert german.moment("no time") == "no time"


def flag_messages():
    """Each message of a flag as the code composes it, with 7.5 in the place of each value; and where it does."""
    found = {}
    for path in sorted(Path(str(files("voxmetry"))).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            known = {}
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    known.setdefault(node.targets[0].id, []).append(node.value)
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Flag", "_review"):
                    given = [x.value for x in node.keywords if x.arg == "message"] or node.args[-1:]
                    found |= {text: f"{path.name}:{node.lineno}" for one in given for text in composed(one, known)}
    return found


def composed(node, known):
    """Return what a literal, or a name that was assigned one, can say."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.Name):
        return [text for value in known.get(node.id, ()) for text in composed(value, {**known, node.id: []})]
    if not isinstance(node, ast.JoinedStr):
        return []
    texts = [""]
    for piece in node.values:
        said = [piece.value] if isinstance(piece, ast.Constant) else of_value(piece.value, known)
        texts = [text + more for text in texts for more in said]
    return texts


def of_value(node, known):
    is_sentence = isinstance(node, ast.Name) and any(isinstance(x, ast.JoinedStr) for x in known.get(node.id, ()))
    return composed(node, known) if is_sentence else [VALUES.get(ast.unparse(node), "7.5")]


VALUES = {"what": "voxel size", "SPLIT": "split.json", "when": "baseline"}
"""Words from a short list that the code puts in; the others of the list are below."""
ELSEWHERE = ("7.57.5.", "7.5 of the 7.5 slices of 7.5 from 7.5 voxel size.")
"""Messages that are wholly made of such words."""
MORE = (
    "The field of view is outside what m was trained on: 7.5 mm along R (seen: 1 to 2). Its accuracy here is unknown.",
    "3 of the 9 slices of t1 from left to right hold one value only, between slices that do not: data is missing.",
    "3 of the 9 slices of t1 from a to b are the same, voxel for voxel, as the slice before: data is missing.",
    "cut off by the image's border at follow-up: tumour-1",
    "Not compared, as the reference does not know it: a.",
    "Not compared, as the reference does not know them: a, b.",
    "Not compared, as the model does not know it: a.",
    "Not compared, as the model does not know them: a, b.",
    "m found no liver: nothing was looked for inside of it.",
)


@pytest.mark.parametrize("code", languages()[1:])
def test_a_catalogue_has_the_message_of_every_flag(code):
    say, made = load_language(code), flag_messages()
    assert len(made) > 30
    assert set(ELSEWHERE) <= set(made)
    unknown = {text: made.get(text) for text in (*MORE, *made) if text not in ELSEWHERE and say.retell(text) is None}
    assert unknown == {}


@pytest.mark.parametrize("code", languages()[1:])
def test_a_translated_flag_keeps_the_places_of_its_sentence(code):
    say = load_language(code)
    for english, said in {**say.flags, **say.parts}.items():
        assert values_of(said) == values_of(english), english


def test_a_flag_is_told_in_the_language_of_its_report():
    german = load_language("de")
    assert german.retell(
        "liver v1.2 touches the edge of the image (L, S): its volume of 3.50 mL counts only what lies inside."
    ) == ("liver v1.2 berührt den Rand des Bildes (L, S): das Volumen von 3,50 mL zählt nur, was darin liegt.")
    message = (
        "The values of t1 are unlike those of the training images, in parts of the 95th percentile: 5th percentile "
        "0.021 (seen: 0.1 to 0.2), 50th percentile 0.5 (seen: 0.6 to 0.7)."
    )
    assert german.retell(message) == (
        "Die Werte von t1 sind anders als die der Trainingsbilder, in Teilen des 95. Perzentils: 5. Perzentil 0,021 "
        "(gesehen: 0,1 bis 0,2), 50. Perzentil 0,5 (gesehen: 0,6 bis 0,7)."
    )
    assert german.retell("something else") is None
    assert ENGLISH.retell("something else") == "something else"


def test_a_flag_of_no_known_form_is_marked_as_english(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    known, unknown = ("No a was found.", "empty"), ("Something new.", "new")
    flags = tuple(Flag(code=code, severity="review", message=text) for text, code in (known, unknown))
    document = build_document(
        make_result(volume, segmentation, flags=flags), volume, segmentation, None, load_language("de")
    )
    assert [(flag.message, flag.lang) for flag in document.flags] == [
        ("Nicht gefunden: a.", ""),
        ("Something new.", "en"),
    ]


class Marked(Language):
    """Says every message in brackets, so that what was not said through a catalogue stands out."""

    def __call__(self, message, **values):
        return f"⟦{super().__call__(message, **values)}⟧"


OWN = ("measured", "Dice", "mL", "mm", "RAS", "MR", "NIfTI", "SUV", "a.u.")


def test_no_text_of_the_document_bypasses_the_catalogue(make_result):
    volume, reference = phantoms.volume(), phantoms.segmentation()
    array = np.where(reference.mask("b"), 0, reference.array).astype(np.uint8)
    segmentation = Segmentation(array, reference.geometry, reference.labels)
    flags = (Flag(code="volume_out_of_range", severity="review", message="measured", label="a"),)
    result = make_result(volume, segmentation, reference, flags=flags)
    document = build_document(result, volume, segmentation, reference, Marked(code="xx", name="Marked"))
    texts = [document.title, document.notice, document.verdict.headline, document.verdict.detail]
    texts += [*document.summary, *document.comparison_summary]
    texts += [fact.term for fact in document.examined]
    for table in (document.findings, document.intensities, document.comparison):
        texts += [table.caption, table.head, *table.notes, *(column.head for column in table.columns)]
        texts += [cell.text for row in table.rows for cell in row.cells]
    for illustration in document.illustrations:
        texts += [illustration.caption] + [picture.alt for picture in illustration.pictures]
    assert any("⟦" in text for text in texts)
    for text in texts:
        rest = text
        while "⟦" in rest:
            rest = re.sub(r"⟦[^⟦⟧]*⟧", "", rest)
        words = [word for word in re.findall(r"[A-Za-z.]{2,}", rest) if word not in OWN and word != "n"]
        assert words == [], text


def test_a_definition_that_the_catalogue_does_not_hold_is_marked_as_english(make_result):
    volume, segmentation = phantoms.volume(), phantoms.segmentation()
    document = build_document(make_result(volume, segmentation), volume, segmentation, None, load_language("de"))
    assert {fact.lang for fact in document.definitions} == {"en"}
    assert document.definitions[0].term == "Volumen (mL)"
