"""What the report says of a person's correction of the label map."""

from __future__ import annotations

from voxmetry.core.records import StudyResult
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.tables import EMPTY_ROWS, Cell, Column, Notes, Row, Table, grouped, signed_millilitres
from voxmetry.report.text import clean

CORRECTED: dict[str, str] = {
    "unchanged": "Unchanged",
    "changed": "Changed",
    "added": "Added: not found by the model",
    "removed": "Removed: found by the model alone",
    "absent": "In neither",
}


def correction_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row a structure before and after a person's correction; None where the label map is the model's own."""
    if result.correction is None:
        return None
    notes = Notes(say)
    rows = []
    structures = result.correction.structures
    many_absent = sum(x.status == "absent" for x in structures) > EMPTY_ROWS
    for x in structures:
        if x.status == "absent" and many_absent:
            continue
        cells = [Cell(text=say(CORRECTED[x.status]), tone="note" if x.status in ("added", "removed") else "plain")]
        cells += [Cell(text=say.millilitres(ml)) for ml in (x.volume_before_ml, x.volume_after_ml)]
        cells.append(Cell(text=say.number(signed_millilitres(x.volume_difference_ml))))
        cells.append(notes.cell(say.ratio(x.dice), x.dice, x.reason))
        cells += [Cell(text=say.millilitres(ml)) for ml in (x.added_ml, x.removed_ml)]
        colour = result.labels.by_value(x.value).colour
        rows.append(Row(label=clean(x.label), colour=colour, cells=tuple(cells)))
    return Table(
        id="correction-table",
        caption=say("The model's label map before and after its correction"),
        head=say("Structure"),
        columns=(
            Column(head=say("Status"), numeric=False),
            Column(head=say("Before"), unit="mL"),
            Column(head=say("After"), unit="mL"),
            Column(head=say("Difference"), unit="mL"),
            Column(head="Dice"),
            Column(head=say("Added"), unit="mL"),
            Column(head=say("Removed"), unit="mL"),
        ),
        rows=grouped(rows, result, say),
        notes=tuple(notes.texts),
    )


def correction_summary(result: StudyResult, say: Language = ENGLISH) -> tuple[str, ...]:
    """Say who corrected it, when, from which model's label map, and which slices were drawn; nothing without one."""
    done = result.correction
    if done is None:
        return ()
    who = say(
        "Corrected by {author}, {moment}, from the label map of {model}.",
        author=clean(done.author),
        moment=say.moment(done.made),
        model=f"{clean(done.model)} {clean(done.model_version)}",
    )
    drawn: tuple[str, ...] = ()
    if done.drawn_slices:
        words = {
            "model": "Drawn on {n} slices; the others keep what the model found.",
            "empty": "Drawn on {n} slices; the others are empty.",
        }
        drawn = (say(words[done.rest or "model"], n=len(done.drawn_slices)),)
    return (who, *drawn)
