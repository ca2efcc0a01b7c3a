"""The report's tables: what stands in each cell, already in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from voxmetry.core.records import Comparison, Flag, Measurement, PredictedDice, StudyResult
from voxmetry.measurement.sides import pairs
from voxmetry.models.structures import group_of
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.text import UNDEFINED, clean, intensity_places, millilitres, unit_name

Tone: TypeAlias = Literal["plain", "note", "review"]

EMPTY_ROWS = 6
"""Structures without a voxel have rows of their own up to this many; more are named in one sentence."""

GROUPED_FROM = 20
"""Structures from which a table is in groups and can be searched."""

GROUP_WORDS = {
    "lesions": "Lesions",
    "organs": "Organs",
    "vessels": "Vessels",
    "brain": "Brain",
    "body": "Body parts and cavities",
    "bones": "Bones",
    "muscles": "Muscles",
    "other": "Other structures",
}
"""In the order in which they stand."""

STATUS: dict[str, str] = {
    "both": "In both",
    "missed": "Missed: only in the reference",
    "extra": "Extra: only in the prediction",
    "absent": "In neither",
}

# The word joiners keep a narrow column from breaking after the dash.
_DASH = "\u2060–\u2060"
SIDES = {"L": "left", "R": "right", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}
_REMARKS = {
    "volume_out_of_range": "volume out of range",
    "asymmetry": "asymmetric",
    "islands": "in several parts",
    "spacing_out_of_domain": "voxel size out of domain",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """Head of a column."""

    head: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry. `note` is the number of the table's note that says why it is not defined, counted from 1."""

    text: str
    note: int | None = None
    tone: Tone = "plain"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One structure or lesion."""

    id: str = ""
    """What the viewer jumps to: `structure-VALUE` or `lesion-NUMBER`; empty where there is nothing to see."""
    label: str
    colour: str
    cells: tuple[Cell, ...]
    group: str = ""
    """The group that it stands in, in words; empty where the table has none."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its caption, and the notes below it. The first column, the structure, is not in `columns`."""

    id: str
    caption: str
    head: str = "Structure"
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[tuple[str, tuple[Row, ...]], ...]:
        """The rows by group, in their order; one group without a name where the table has none."""
        return tuple((name, tuple(rows)) for name, rows in itertools.groupby(self.rows, key=lambda row: row.group))

    @property
    def is_grouped(self) -> bool:
        """Whether the rows stand in groups."""
        return any(row.group for row in self.rows)


class Notes:
    """Reasons in the order in which cells first needed them."""

    def __init__(self, say: Language) -> None:
        self.texts: list[str] = []
        self.say = say

    def cell(self, text: str, x: float, reason: str) -> Cell:
        """Return a cell; where the number is not defined, one with the number of the note that says why."""
        if math.isfinite(x):
            return Cell(text=text)
        reason = clean(self.say(reason)) or self.say("not defined")
        reason = reason[0].upper() + reason[1:]
        if reason not in self.texts:
            self.texts.append(reason)
        return Cell(text=text, note=self.texts.index(reason) + 1)


def findings_table(result: StudyResult, say: Language = ENGLISH) -> Table:
    """One row a structure: volume, extents, mean intensity, and what to know about it."""
    rows = shown(result.measurements)
    unit = _unit(rows)
    columns = [
        Column(head=say("Volume"), unit="mL"),
        Column(head=say("Extent R–L").replace("–", _DASH), unit="mm"),
        Column(head=say("Extent A–P").replace("–", _DASH), unit="mm"),
        Column(head=say("Extent S–I").replace("–", _DASH), unit="mm"),
    ]
    shares = result.total.share_percent if result.total is not None else {}
    if shares:
        columns.insert(1, Column(head=say("Share"), unit="%"))
    if unit is not None:
        columns.append(Column(head=say("Mean value"), unit=_short(unit)))
    predicted = {row.label: row for row in result.predicted_dice}
    if predicted:
        columns.append(Column(head=say("Predicted Dice")))
    remarks = {m.value: _remarks(m, result.flags, say) for m in rows}
    has_remarks = any(cell.text for cell in remarks.values())
    if has_remarks:
        columns.append(Column(head=say("Remarks"), numeric=False))
    places = intensity_places((m.intensity_mean for m in rows), unit)
    notes = Notes(say)
    made = []
    for m in rows:
        cells = [Cell(text=say.millilitres(m.volume_ml))]
        if shares:
            cells.append(Cell(text=say.decimals(shares.get(m.label, math.nan), 2)))
        for x in (m.extent_rl_mm, m.extent_ap_mm, m.extent_si_mm):
            cells.append(notes.cell(say.millimetres(x), x, m.reason))
        if unit is not None:
            cells.append(notes.cell(say.decimals(m.intensity_mean, places), m.intensity_mean, m.reason))
        if predicted:
            cells.append(_foretold(predicted.get(m.label), say))
        if has_remarks:
            cells.append(remarks[m.value])
        made.append(_row(result, m, cells))
    return Table(
        id="findings-table",
        caption=say("Volume and extent of each structure"),
        head=say("Structure"),
        columns=tuple(columns),
        rows=grouped(made, result, say),
        notes=tuple(notes.texts),
    )


def grouped(rows: Sequence[Row], result: StudyResult, say: Language = ENGLISH) -> tuple[Row, ...]:
    """Put many rows in groups: lesions first, then organs, vessels, bones, muscles; a few stay as they are.

    Within a group rows keep the order of the label table.
    """
    if len(rows) < GROUPED_FROM:
        return tuple(rows)
    lesions = {clean(label.name) for label in result.labels if label.kind == "lesion"}
    order = list(GROUP_WORDS)
    keys = ["lesions" if row.label in lesions else group_of(row.label) for row in rows]
    places = sorted(range(len(rows)), key=lambda place: (order.index(keys[place]), place))
    return tuple(replace(rows[place], group=say(GROUP_WORDS[keys[place]])) for place in places)


def _foretold(row: PredictedDice | None, say: Language) -> Cell:
    if row is None:
        return Cell(text=UNDEFINED)
    text = f"{say.decimals(row.predicted_dice, 2)} ± {say.decimals(row.error, 2)}"
    return Cell(text=text, tone="review" if row.predicted_dice < row.review_below else "plain")


def intensity_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
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
    notes = Notes(say)
    made = [_row(result, m, [notes.cell(say.decimals(x, places), x, m.reason) for x in values[m.value]]) for m in rows]
    return Table(
        id="intensity-table",
        caption=say("Image values in each structure, in {unit}", unit=say(unit_name(unit))),
        head=say("Structure"),
        columns=tuple(Column(head=say(head), unit=_short(unit)) for head in heads),
        rows=grouped(made, result, say),
        notes=tuple(notes.texts),
    )


def comparison_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row a structure compared with the reference; None where there was no reference."""
    if not result.comparisons:
        return None
    tolerances = sorted({c.tolerance_mm for c in result.comparisons})
    tolerance = " / ".join(say.number(f"{t:g} mm") for t in tolerances)
    columns = (
        Column(head=say("Status"), numeric=False),
        Column(head="Dice"),
        Column(head=say("IoU")),
        Column(head=say("Surface Dice"), unit=say("at {tolerance}", tolerance=tolerance)),
        Column(head=say("Hausdorff"), unit="mm"),
        Column(head=say("HD95"), unit="mm"),
        Column(head=say("ASSD"), unit="mm"),
        Column(head=say("Volume, prediction"), unit="mL"),
        Column(head=say("Volume, reference"), unit="mL"),
        Column(head=say("Difference"), unit="mL"),
    )
    notes = Notes(say)
    rows = []
    for c in result.comparisons:
        if c.status == "absent" and _many_absent(result.comparisons):
            continue
        tone: Tone = "review" if c.status in ("missed", "extra") else "plain"
        cells = [Cell(text=say(STATUS[c.status]), tone=tone)]
        cells += [notes.cell(say.ratio(x), x, c.reason) for x in (c.dice, c.iou, c.surface_dice)]
        cells += [notes.cell(say.millimetres(x), x, c.reason) for x in (c.hausdorff_mm, c.hd95_mm, c.assd_mm)]
        volumes = (c.volume_prediction_ml, c.volume_reference_ml)
        cells += [Cell(text=say.millilitres(x)) for x in volumes]
        cells.append(Cell(text=say.number(signed_millilitres(c.volume_difference_ml))))
        rows.append(_row(result, c, cells))
    return Table(
        id="comparison-table",
        caption=say("Prediction compared with the reference, structure by structure"),
        head=say("Structure"),
        columns=columns,
        rows=grouped(rows, result, say),
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
    return Row(
        id=f"structure-{item.value}" if has_voxels(item) else "",
        label=clean(item.label),
        colour=result.labels.by_value(item.value).colour,
        cells=tuple(cells),
    )


def has_voxels(item: Measurement | Comparison) -> bool:
    """Whether the segmentation holds the structure."""
    return bool(item.n_voxels if isinstance(item, Measurement) else item.n_voxels_prediction)


def _remarks(m: Measurement, flags: tuple[Flag, ...], say: Language) -> Cell:
    """Say what to know about a structure in few words; the flags section says it in full."""
    own = [flag for flag in flags if flag.label == m.label]
    words = []
    if not m.n_voxels:
        words.append(say("not found"))
    if m.touches_border:
        sides = ", ".join(say(SIDES.get(side, side)) for side in m.border_sides)
        words.append(say("at the image's edge: {sides}", sides=sides) if sides else say("at the image's edge"))
    covered = {"empty", "truncated"}
    words += [say(_REMARKS.get(flag.code, flag.code.replace("_", " "))) for flag in own if flag.code not in covered]
    tone: Tone = "plain"
    if own:
        tone = "note" if all(flag.severity == "note" for flag in own) else "review"
    return Cell(text=clean("; ".join(words)), tone=tone)


def asymmetry_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row a pair of a left and a right structure that are both there and whole; None where there is none.

    The index is (right - left) / mean of both, so that it is positive where the right one is larger.
    """
    rows = []
    for name, left, right in pairs(result.measurements, result.labels):
        share = (right.volume_ml - left.volume_ml) / ((right.volume_ml + left.volume_ml) / 2)
        cut = left.touches_border or right.touches_border
        cells = [Cell(text=say.millilitres(m.volume_ml)) for m in (left, right)]
        cells.append(Cell(text=say.number(signed_percent(share))))
        cells.append(Cell(text=say("cut off at the image's edge") if cut else "", tone="review" if cut else "plain"))
        rows.append(Row(label=clean(name), colour=result.labels.by_value(left.value).colour, cells=tuple(cells)))
    if not rows:
        return None
    return Table(
        id="asymmetry-table",
        caption=say("Left against right: (right − left) / mean of both"),
        head=say("Pair"),
        columns=(
            Column(head=say("Left"), unit="mL"),
            Column(head=say("Right"), unit="mL"),
            Column(head=say("Asymmetry"), unit="%"),
            Column(head=say("Remarks"), numeric=False),
        ),
        rows=tuple(rows),
    )


def signed_percent(share: float) -> str:
    """Write a share as a percentage with its sign.

    Examples
    --------
    >>> signed_percent(0.0523), signed_percent(-0.5), signed_percent(0.00001)
    ('+5.2', '−50.0', '0.0')
    """
    text = f"{abs(share) * 100:.1f}"
    return text if float(text) == 0 else ("+" if share > 0 else "−") + text


def _unit(rows: list[Measurement]) -> str | None:
    return next((m.intensity_unit for m in rows if m.intensity_unit is not None), None)


def _short(unit: str) -> str:
    return {"SUVbw": "SUV", "1": "a.u."}.get(unit, unit)
