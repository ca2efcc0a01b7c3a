"""The report's table of lesions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from voxmetry.core.records import Lesion, Part, StudyResult
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.tables import SIDES, Cell, Column, Row, Table
from voxmetry.report.text import UNDEFINED, clean, intensity_places

MOST_ROWS = 50
"""Lesions that have a row; the table file holds all."""


def lesion_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row a lesion, the largest first; None where there is none."""
    if not result.lesions:
        return None
    colours = {label.value: label.colour for label in result.labels}
    numbered = [(f"lesion-{n}", x) for n, x in enumerate(result.lesions, start=1)]
    ranked = sorted(numbered, key=lambda item: -item[1].volume_ml)
    table = part_table(ranked, {x.id: colours[x.value] for x in result.lesions}, say)
    return replace(table, id="lesion-table", caption=_caption(result.lesions, say), head=say("Lesion"))


def part_table(
    numbered: Sequence[tuple[str, Part]],
    colours: Mapping[str, str],
    say: Language,
    *,
    scores: Mapping[str, str] | None = None,
    uncertain: Collection[str] = (),
) -> Table:
    """One row a lesion or an instance, of the first `MOST_ROWS`.

    Parameters
    ----------
    numbered
        Id in the viewer, and what was measured.
    colours
        By the id of the part.
    say
        The language.
    scores
        What stands in a column of scores, by the id of the part; None leaves the column out.
    uncertain
        Ids of the parts that are remarked as uncertain.
    """
    ranked = numbered[:MOST_ROWS]
    rows = [part for _, part in ranked]
    unit = next((x.intensity_unit for x in rows if x.intensity_unit), None)
    places = intensity_places((x.intensity_max for x in rows), unit)
    made = []
    for target, x in ranked:
        cells = [scores[x.id]] if scores else []
        cells += [say.millilitres(x.volume_ml)]
        cells += [say.millimetres(mm) for mm in (x.long_axis_mm, x.short_axis_mm, x.max_diameter_mm)]
        if unit:
            cells.append(say.decimals(x.intensity_max, places))
        if unit == "SUVbw":
            cells += [say.decimals(x.suv_peak, 2), say.decimals(x.total_lesion_glycolysis_suv_ml, 1)]
        remarks = [say("uncertain")] if x.id in uncertain else []
        cells += [_location(x, say), ", ".join(filter(None, (*remarks, _edge(x, say))))]
        made.append(
            Row(
                id=target,
                label=clean(x.id),
                colour=colours[x.id],
                cells=tuple(Cell(text=text) for text in cells),
            )
        )
    columns = [*([Column(head=say("Score"))] if scores else []), *_columns(unit, say)]
    kept = _told(columns, made)
    return Table(
        id="parts",
        caption="",
        columns=tuple(columns[n] for n in kept),
        rows=tuple(replace(row, cells=tuple(row.cells[n] for n in kept)) for row in made),
    )


def _columns(unit: str | None, say: Language) -> list[Column]:
    is_pet = unit == "SUVbw"
    short = {"1": "a.u."}.get(unit or "", unit or "")
    return [
        Column(head=say("Volume"), unit="mL"),
        Column(head=say("Long axis"), unit="mm"),
        Column(head=say("Short axis"), unit="mm"),
        Column(head=say("Largest in 3-D"), unit="mm"),
        *([Column(head="SUVmax")] if is_pet else [Column(head=say("Maximum"), unit=short)] if unit else []),
        *([Column(head="SUVpeak"), Column(head="TLG", unit="SUV·mL")] if is_pet else []),
        Column(head=say("Location"), numeric=False),
        Column(head=say("Remarks"), numeric=False),
    ]


def _told(columns: list[Column], rows: list[Row]) -> list[int]:
    """Return the columns that say something: a column of words that is empty in every row is left out."""
    return [
        n
        for n, column in enumerate(columns)
        if column.numeric or any(row.cells[n].text not in ("", UNDEFINED) for row in rows)
    ]


def _caption(lesions: Sequence[Lesion], say: Language) -> str:
    n = len(lesions)
    plane = ", ".join(say(name.capitalize()).lower() for name in dict.fromkeys(x.plane for x in lesions))
    if n > MOST_ROWS:
        words = "The {rows} largest of {n} lesions; axes in one slice (RECIST 1.1), {plane}"
        return say(words, rows=MOST_ROWS, n=n, plane=plane)
    return say.count(
        n,
        "{n} lesion; axes in one slice (RECIST 1.1), {plane}",
        "{n} lesions; axes in one slice (RECIST 1.1), {plane}",
        plane=plane,
    )


def _location(x: Part, say: Language) -> str:
    if x.location is None:
        return UNDEFINED
    where = clean(x.location)
    if x.location_distance_mm == 0:
        return where
    return say("{mm} mm from {organ}", mm=say.millimetres(x.location_distance_mm), organ=where)


def _edge(x: Part, say: Language) -> str:
    if not x.touches_border:
        return ""
    sides = ", ".join(say(SIDES.get(side, side)) for side in x.border_sides)
    return say("at the image's edge: {sides}", sides=sides)
