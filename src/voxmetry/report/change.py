"""What has changed since an earlier study of the same patient."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from voxmetry.core.records import Flag, StudyResult
from voxmetry.core.records.follow_up import FollowUp, LesionChange, PriorComparison, StructureChange
from voxmetry.report.facts import Fact
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.tables import Cell, Column, Row, Table, Tone, signed_millilitres, signed_percent
from voxmetry.report.text import UNDEFINED, clean, decimals

MOST_ROWS = 50
"""Lesions that have a row; the JSON file holds all."""
NO_COLOUR = "#8A8F98"
"""Of a structure that this study's model does not know."""
_CATEGORIES = {
    "CR": "complete response",
    "PR": "partial response",
    "SD": "stable disease",
    "PD": "progressive disease",
    "non-CR/non-PD": "neither complete response nor progression",
    "NE": "not evaluable",
}
_STATUS = {
    "matched": "matched",
    "new": "new",
    "gone": "gone",
    "merged": "merged",
    "split": "split",
    "regrouped": "regrouped",
    "not covered": "outside this image",
}


def change_tables(result: StudyResult, prior: PriorComparison, say: Language = ENGLISH) -> tuple[Table, ...]:
    """One row a structure, and where lesions were matched one row a lesion."""
    tables = (_structure_table(result, prior, say), _lesion_table(result, prior.follow_up, say))
    return tuple(_told(table) for table in tables if table is not None)


def _told(table: Table) -> Table:
    """Leave the last column, the remarks, out where there is none."""
    if any(row.cells[-1].text for row in table.rows):
        return table
    rows = tuple(replace(row, cells=row.cells[:-1]) for row in table.rows)
    return replace(table, columns=table.columns[:-1], rows=rows)


def change_summary(result: StudyResult, prior: PriorComparison, say: Language = ENGLISH) -> tuple[str, ...]:
    """Say which study the prior is, whether another model measured it, and the RECIST category with its sums."""
    ours, theirs = result.provenance, prior.prior
    model = clean(f"{theirs.model} {theirs.model_version}")
    lines = [say("Prior study: {when}, {model}.", when=say.moment(theirs.started), model=model)]
    if (ours.model, ours.weights_sha256) != (theirs.model, theirs.weights_sha256):
        lines.append(
            say("The prior was measured with {model}: a part of the change may come from the other model.", model=model)
        )
    return (*lines, *response_line(prior, say), *_sums(prior, say))


def response_line(prior: PriorComparison, say: Language = ENGLISH) -> tuple[str, ...]:
    """Say the RECIST category in one line; nothing where lesions were not matched."""
    if prior.follow_up is None:
        return ()
    category = prior.follow_up.response.category
    words = say(_CATEGORIES[category])
    return (say("RECIST 1.1 against the prior: {category} ({words}).", category=category, words=words),)


def change_notes(prior: PriorComparison, say: Language = ENGLISH) -> tuple[Fact, ...]:
    """List the rule that gave the category, how the two studies were brought together, and what to look at first."""
    found = prior.follow_up
    if found is None:
        return (_note(say("Lesions"), prior.reason, say),) if prior.reason else ()
    how = found.registration
    notes = [_note(say("Rule"), found.response.rule, say)]
    if how.kind == "none":
        notes.append(_note(say("Registration"), f"none: {how.reason}", say))
    else:
        moved = f"{how.kind}, {decimals(how.shift_mm, 1)} mm, {decimals(how.rotation_degrees, 1)}°"
        notes.append(_note(say("Registration"), f"{moved}; {how.reason}", say))
    if found.response.caveats:
        notes.append(_note(say("Caveats"), "; ".join(found.response.caveats), say))
    return tuple(notes)


def merged_flags(flags: Iterable[Flag], more: Iterable[Flag]) -> tuple[Flag, ...]:
    """Return flags with others after them, none of them twice."""
    return tuple(dict.fromkeys((*flags, *more)))


def _note(term: str, text: str, say: Language) -> Fact:
    text = clean(text)
    told = say.retell(text)
    said = text if told is None else told
    return Fact(term=term, detail=said[:1].upper() + said[1:], lang="" if told is not None else ENGLISH.code)


def _sums(prior: PriorComparison, say: Language) -> tuple[str, ...]:
    if prior.follow_up is None or not prior.follow_up.response.targets:
        return ()
    response = prior.follow_up.response
    return (
        say.count(
            len(response.targets),
            "{n} target lesion, diameter {before} mm in the prior, {now} mm now ({percent} %).",
            "{n} target lesions, sum of diameters {before} mm in the prior, {now} mm now ({percent} %).",
            before=say.millimetres(response.sum_baseline_mm),
            now=say.millimetres(response.sum_follow_up_mm),
            percent=_percent(response.change_from_baseline_percent, say),
        ),
    )


def _structure_table(result: StudyResult, prior: PriorComparison, say: Language) -> Table | None:
    if not prior.structures:
        return None
    colours = {label.name: label.colour for label in result.labels}
    found = {m.label for m in result.measurements if m.n_voxels}
    rows = [
        Row(
            id=f"structure-{row.value}" if row.label in found else "",
            label=clean(row.label),
            colour=colours.get(row.label, NO_COLOUR),
            cells=_structure_cells(row, say),
        )
        for row in prior.structures
    ]
    return Table(
        id="change-table",
        caption=say("Volume and largest diameter of each structure, compared with the prior study"),
        head=say("Structure"),
        columns=(
            Column(head=say("Prior"), unit="mL"),
            Column(head=say("Now"), unit="mL"),
            Column(head=say("Change"), unit="mL"),
            Column(head=say("Change"), unit="%"),
            Column(head=say("Diameter"), unit="mm"),
            Column(head=say("Change"), unit="mm"),
            Column(head=say("Remarks"), numeric=False),
        ),
        rows=tuple(rows),
    )


def _structure_cells(row: StructureChange, say: Language) -> tuple[Cell, ...]:
    words = [say("not in the prior")] if not row.volume_prior_ml > 0 else []
    words += [say("not in this study")] if not row.volume_ml > 0 else []
    words += [say("cut off at the image's edge")] if row.cut_off else []
    return (
        Cell(text=say.millilitres(row.volume_prior_ml)),
        Cell(text=say.millilitres(row.volume_ml)),
        Cell(text=say.number(signed_millilitres(row.volume_change_ml))),
        Cell(text=_percent(row.volume_change_percent, say)),
        Cell(text=say.millimetres(row.max_diameter_mm)),
        Cell(text=_signed_mm(row.max_diameter_change_mm, say)),
        Cell(text="; ".join(words), tone="review" if row.cut_off else "plain"),
    )


def _lesion_table(result: StudyResult, found: FollowUp | None, say: Language) -> Table | None:
    if found is None or not found.changes:
        return None
    numbers = {lesion.id: n for n, lesion in enumerate(result.lesions, start=1)}
    colours = {label.name: label.colour for label in result.labels}
    chosen = sorted(found.changes, key=lambda row: (not row.target, -_size(row)))[:MOST_ROWS]
    rows = [
        Row(
            # A lesion of a structure whose instances are listed has no row of its own.
            id=next((f"lesion-{numbers[name]}" for name in row.follow_up_ids[:1] if name in numbers), ""),
            label=clean(", ".join(row.follow_up_ids or row.baseline_ids)),
            colour=colours.get(row.label, NO_COLOUR),
            cells=_lesion_cells(row, say),
        )
        for row in chosen
    ]
    caption = say("Each lesion compared with the prior study")
    if len(found.changes) > MOST_ROWS:
        caption = say(
            "{rows} of {n} lesions compared with the prior study: targets first, then by size",
            rows=MOST_ROWS,
            n=len(found.changes),
        )
    return Table(
        id="lesion-change-table",
        caption=caption,
        head=say("Lesion"),
        columns=(
            Column(head=say("In the prior"), numeric=False),
            Column(head=say("Status"), numeric=False),
            Column(head=say("Volume"), unit="mL"),
            Column(head=say("Change"), unit="mL"),
            Column(head=say("Change"), unit="%"),
            Column(head=say("Diameter"), unit="mm"),
            Column(head=say("Change"), unit="mm"),
            Column(head=say("Change"), unit="%"),
            Column(head=say("Remarks"), numeric=False),
        ),
        rows=tuple(rows),
    )


def _size(row: LesionChange) -> float:
    return max(x for x in (row.diameter_baseline_mm, row.diameter_follow_up_mm, 0.0) if math.isfinite(x))


def _lesion_cells(row: LesionChange, say: Language) -> tuple[Cell, ...]:
    words = [say("target")] if row.target else []
    words += [say("paired by distance alone")] if row.rule == "distance" else []
    tone: Tone = "review" if row.status == "not covered" else "note" if row.status == "new" else "plain"
    return (
        Cell(text=clean(", ".join(row.baseline_ids)) or UNDEFINED),
        Cell(text=say(_STATUS[row.status]), tone=tone),
        Cell(text=say.millilitres(row.volume_follow_up_ml)),
        Cell(text=say.number(signed_millilitres(row.volume_change_ml))),
        Cell(text=_percent(row.volume_change_percent, say)),
        Cell(text=say.millimetres(row.diameter_follow_up_mm)),
        Cell(text=_signed_mm(row.diameter_change_mm, say)),
        Cell(text=_percent(row.diameter_change_percent, say)),
        Cell(text="; ".join(words)),
    )


def _percent(x: float, say: Language) -> str:
    return say.number(signed_percent(x / 100)) if math.isfinite(x) else UNDEFINED


def _signed_mm(x: float, say: Language) -> str:
    text = say.millimetres(x)
    return f"+{text}" if math.isfinite(x) and x > 0 and float(f"{x:.1f}") else text
