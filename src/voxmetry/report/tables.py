"""The report's tables: what stands in each cell, already in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Literal, TypeAlias

from voxmetry.core.base import Record
from voxmetry.core.records import Comparison, Flag, Measurement, StudyResult
from voxmetry.report.text import clean, decimals, intensity_places, millilitres, millimetres, ratio, unit_name

Tone: TypeAlias = Literal["plain", "note", "review"]

EMPTY_ROWS = 6
"""Structures without a voxel have rows of their own up to this many; more are named in one sentence."""

STATUS: dict[str, str] = {
    "both": "In both",
    "missed": "Missed: only in the reference",
    "extra": "Extra: only in the prediction",
    "absent": "In neither",
}

# The word joiners keep a narrow column from breaking after the dash.
_DASH = "\u2060–\u2060"
_SIDES = {"L": "left", "R": "right", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


class Column(Record):
    """Head of a column."""

    head: str
    unit: str = ""
    numeric: bool = True


class Cell(Record):
    """One entry. `note` is the number of the table's note that says why it is not defined, counted from 1."""

    text: str
    note: int | None = None
    tone: Tone = "plain"


class Row(Record):
    """One structure."""

    label: str
    colour: str
    cells: tuple[Cell, ...]


class Table(Record):
    """A table with its caption, and the notes below it. The first column, the structure, is not in `columns`."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class _Notes:
    """Reasons in the order in which cells first needed them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def cell(self, text: str, x: float, reason: str) -> Cell:
        if math.isfinite(x):
            return Cell(text=text)
        reason = clean(reason) or "not defined"
        reason = reason[0].upper() + reason[1:]
        if reason not in self.texts:
            self.texts.append(reason)
        return Cell(text=text, note=self.texts.index(reason) + 1)


def findings_table(result: StudyResult) -> Table:
    """One row a structure: volume, extents, mean intensity, and what to know about it."""
    rows = shown(result.measurements)
    unit = _unit(rows)
    columns = [
        Column(head="Volume", unit="mL"),
        Column(head=f"Extent R{_DASH}L", unit="mm"),
        Column(head=f"Extent A{_DASH}P", unit="mm"),
        Column(head=f"Extent S{_DASH}I", unit="mm"),
    ]
    if unit is not None:
        columns.append(Column(head="Mean value", unit=_short(unit)))
    remarks = {m.value: _remarks(m, result.flags) for m in rows}
    has_remarks = any(cell.text for cell in remarks.values())
    if has_remarks:
        columns.append(Column(head="Remarks", numeric=False))
    places = intensity_places((m.intensity_mean for m in rows), unit)
    notes = _Notes()
    made = []
    for m in rows:
        cells = [Cell(text=millilitres(m.volume_ml))]
        for x in (m.extent_rl_mm, m.extent_ap_mm, m.extent_si_mm):
            cells.append(notes.cell(millimetres(x), x, m.reason))
        if unit is not None:
            cells.append(notes.cell(decimals(m.intensity_mean, places), m.intensity_mean, m.reason))
        if has_remarks:
            cells.append(remarks[m.value])
        made.append(_row(result, m, cells))
    return Table(
        id="findings-table",
        caption="Volume and extent of each structure",
        columns=tuple(columns),
        rows=tuple(made),
        notes=tuple(notes.texts),
    )


def intensity_table(result: StudyResult) -> Table | None:
    """One row a structure: the spread of the image's values in it; None where none was measured."""
    rows = [m for m in result.measurements if m.n_voxels and m.intensity_unit is not None]
    unit = _unit(rows)
    if unit is None:
        return None
    heads = ("Mean", "SD", "Minimum", "5th percentile", "Median", "95th percentile", "Maximum")
    values = {
        m.value: (
            m.intensity_mean,
            m.intensity_sd,
            m.intensity_min,
            m.intensity_p05,
            m.intensity_median,
            m.intensity_p95,
            m.intensity_max,
        )
        for m in rows
    }
    places = intensity_places(itertools.chain.from_iterable(values.values()), unit)
    notes = _Notes()
    made = [_row(result, m, [notes.cell(decimals(x, places), x, m.reason) for x in values[m.value]]) for m in rows]
    return Table(
        id="intensity-table",
        caption=f"Image values in each structure, in {unit_name(unit)}",
        columns=tuple(Column(head=head, unit=_short(unit)) for head in heads),
        rows=tuple(made),
        notes=tuple(notes.texts),
    )


def comparison_table(result: StudyResult) -> Table | None:
    """One row a structure held against the reference; None where there was no reference."""
    if not result.comparisons:
        return None
    tolerances = sorted({c.tolerance_mm for c in result.comparisons})
    tolerance = " or ".join(f"{t:g} mm" for t in tolerances)
    columns = (
        Column(head="Status", numeric=False),
        Column(head="Dice"),
        Column(head="IoU"),
        Column(head="Surface Dice", unit=f"at {tolerance}"),
        Column(head="Hausdorff", unit="mm"),
        Column(head="HD95", unit="mm"),
        Column(head="ASSD", unit="mm"),
        Column(head="Volume, prediction", unit="mL"),
        Column(head="Volume, reference", unit="mL"),
        Column(head="Difference", unit="mL"),
    )
    notes = _Notes()
    rows = []
    for c in result.comparisons:
        if c.status == "absent" and _many_absent(result.comparisons):
            continue
        tone: Tone = "review" if c.status in ("missed", "extra") else "plain"
        cells = [Cell(text=STATUS[c.status], tone=tone)]
        cells += [notes.cell(ratio(x), x, c.reason) for x in (c.dice, c.iou, c.surface_dice)]
        cells += [notes.cell(millimetres(x), x, c.reason) for x in (c.hausdorff_mm, c.hd95_mm, c.assd_mm)]
        volumes = (c.volume_prediction_ml, c.volume_reference_ml)
        cells += [Cell(text=millilitres(x)) for x in volumes]
        cells.append(Cell(text=signed_millilitres(c.volume_difference_ml)))
        rows.append(_row(result, c, cells))
    return Table(
        id="comparison-table",
        caption="Prediction held against the reference, structure by structure",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes.texts),
    )


def signed_millilitres(x: float) -> str:
    """Write a difference of volumes with its sign.

    Examples
    --------
    >>> signed_millilitres(0.25), signed_millilitres(-0.25), signed_millilitres(0.0)
    ('+0.25', '−0.25', '0.00')
    """
    if x == 0 or not math.isfinite(x):
        return millilitres(x)
    return ("+" if x > 0 else "−") + millilitres(abs(x))


def shown(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return the measurements that have a row: all, or without the empty ones where these are many."""
    rows = list(measurements)
    present = [m for m in rows if m.n_voxels]
    return rows if len(rows) - len(present) <= EMPTY_ROWS else present


def _many_absent(comparisons: tuple[Comparison, ...]) -> bool:
    return sum(c.status == "absent" for c in comparisons) > EMPTY_ROWS


def _row(result: StudyResult, item: Measurement | Comparison, cells: list[Cell]) -> Row:
    return Row(label=clean(item.label), colour=result.labels.by_value(item.value).colour, cells=tuple(cells))


def _remarks(m: Measurement, flags: tuple[Flag, ...]) -> Cell:
    """Say what to know about a structure in few words; the flags section says it in full."""
    own = [flag for flag in flags if flag.label == m.label]
    words = []
    if not m.n_voxels:
        words.append("not found")
    if m.touches_border:
        sides = ", ".join(_SIDES.get(side, side) for side in m.border_sides)
        words.append(f"at the image's edge: {sides}" if sides else "at the image's edge")
    covered = {"empty", "truncated"}
    words += [flag.code.replace("_", " ") for flag in own if flag.code not in covered]
    tone: Tone = "plain"
    if own:
        tone = "review" if any(flag.severity == "review" for flag in own) else "note"
    return Cell(text=clean("; ".join(words)), tone=tone)


def _unit(rows: list[Measurement]) -> str | None:
    return next((m.intensity_unit for m in rows if m.intensity_unit is not None), None)


def _short(unit: str) -> str:
    return {"SUVbw": "SUV", "1": "a.u."}.get(unit, unit)
