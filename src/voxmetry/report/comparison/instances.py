"""What the page of a comparison says about instances: how they were matched, found, counted and outlined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from voxmetry.core.records import CohortComparison, CohortSettings, DetectionSummary
from voxmetry.report.comparison.cells import mean_cell
from voxmetry.report.tables import Cell, Column, Row, Table
from voxmetry.report.text import clean, decimals, millimetres, ratio


def instance_tables(cohort: CohortComparison, colours: dict[str, str]) -> tuple[Table, ...]:
    """Return the tables of instances; none where they were not matched."""
    if cohort.panoptic is None:
        return ()
    found = [_counts(cohort, colours)]
    for rows, of_other in ((cohort.detection, False), (cohort.other_detection, True)):
        if not rows:
            continue
        tables = tuple(make(rows, colours) for make in (_found, _sensitivities, _counted, _quality))
        found += [_of_other(table) for table in tables] if of_other else tables
    return tuple(found)


def _of_other(table: Table) -> Table:
    return replace(table, id=f"other-{table.id}", caption=f"The other model: {table.caption}")


def _counts(cohort: CohortComparison, colours: dict[str, str]) -> Table:
    rows = []
    for row in cohort.panoptic.classes if cohort.panoptic is not None else ():
        counts = (row.n_reference, row.n_prediction, row.tp_reference, row.fp, row.fn)
        shares = (row.sensitivity, row.precision, row.f1, row.sq, row.rq, row.pq)
        rows.append(
            Row(
                label=clean(row.label),
                colour=colours.get(row.label, ""),
                cells=(
                    Cell(text="parts" if row.kind == "thing" else "whole"),
                    *(Cell(text=str(n)) for n in counts),
                    *(Cell(text=ratio(x)) for x in shares),
                ),
            )
        )
    counted = ("Reference", "Prediction", "Found", "Invented", "Missed")
    heads = (*counted, "Sensitivity", "Precision", "F1", "SQ", "RQ", "PQ")
    return Table(
        id="detection",
        caption="Instances of all cases together",
        columns=(Column(head="Counted as", numeric=False), *(Column(head=head) for head in heads)),
        rows=tuple(rows),
    )


def _found(summaries: Sequence[DetectionSummary], colours: dict[str, str]) -> Table:
    """How many are found at which certainty, by what hits."""
    notes: list[str] = []
    rows = []
    for row in summaries:
        for rule, precision in row.average_precision.items():
            cells = (
                Cell(text=rule),
                mean_cell(precision, ratio, notes),
                mean_cell(row.froc_score[rule], ratio, notes),
                Cell(text=str(row.n_scored)),
            )
            rows.append(Row(label=clean(row.label), colour=colours.get(row.label, ""), cells=cells))
    unscored = [clean(row.label) for row in summaries if row.n_prediction and not row.n_scored]
    if unscored:
        notes.append(f"No score of {', '.join(unscored)}: all predictions come in at once, at one threshold")
    columns = (
        Column(head="A hit", numeric=False),
        Column(head="AP", unit="interval"),
        Column(head="FROC score", unit="interval"),
        Column(head="Predictions with a score"),
    )
    caption = "Found, by what hits"
    return Table(id="found", caption=caption, columns=columns, rows=tuple(rows), notes=tuple(notes))


def _counted(summaries: Sequence[DetectionSummary], colours: dict[str, str]) -> Table:
    notes: list[str] = []
    rows = []
    for row in summaries:
        counts = (mean_cell(row.count_error, _number, notes), mean_cell(row.count_bias, _signed, notes))
        cells = (Cell(text=str(row.n_cases)), Cell(text=ratio(row.all_found)), *counts)
        rows.append(Row(label=clean(row.label), colour=colours.get(row.label, ""), cells=cells))
    columns = (
        Column(head="Cases"),
        Column(head="All found", unit="share of cases"),
        Column(head="Count error", unit="mean, interval"),
        Column(head="Count bias", unit="prediction − reference"),
    )
    return Table(id="counted", caption="Counted", columns=columns, rows=tuple(rows), notes=tuple(notes))


def _sensitivities(summaries: Sequence[DetectionSummary], colours: dict[str, str]) -> Table:
    rows = [
        Row(
            label=clean(row.label),
            colour=colours.get(row.label, ""),
            cells=(Cell(text=rule), *(Cell(text=ratio(x)) for x in by_rate.values())),
        )
        for row in summaries
        for rule, by_rate in row.froc.items()
    ]
    rates = tuple(next(iter(summaries[0].froc.values()), {}))
    columns = (Column(head="A hit", numeric=False), *(Column(head=rate) for rate in rates))
    caption = "Free-response operating characteristic (FROC): sensitivity at so many false positives a case"
    return Table(id="froc", caption=caption, columns=columns, rows=tuple(rows))


def _quality(summaries: Sequence[DetectionSummary], colours: dict[str, str]) -> Table:
    notes: list[str] = []
    rows = []
    for row in summaries:
        shares = (row.pq, row.sq, row.rq, row.dice)
        cells = (*(mean_cell(x, ratio, notes) for x in shares), mean_cell(row.hd95_mm, millimetres, notes))
        rows.append(Row(label=clean(row.label), colour=colours.get(row.label, ""), cells=cells))
    columns = (
        *(Column(head=head, unit="interval") for head in ("PQ", "SQ", "RQ")),
        Column(head="Dice", unit="of matched"),
        Column(head="HD95", unit="mm, of matched"),
    )
    caption = "Panoptic quality over all cases, and matched pairs one by one, with intervals"
    return Table(id="quality", caption=caption, columns=columns, rows=tuple(rows), notes=tuple(notes))


def _number(x: float) -> str:
    return decimals(x, 2)


def _signed(x: float) -> str:
    return ("+" if x > 0 else "") + decimals(x, 2)


def instance_words(cohort: CohortComparison) -> str:
    """Say what an instance is, when two are the same one, and how good the panoptic quality is."""
    if cohort.panoptic is None:
        return ""
    s, p = cohort.settings, cohort.panoptic
    rule = {
        "overlap": "they share a voxel",
        "iou": f"their IoU is above {s.min_iou:g}",
        "hungarian": f"the one-to-one assignment of the largest sum of IoU pairs them, with an IoU above {s.min_iou:g}",
    }[s.instances or "iou"]
    text = f"{_what(cohort, s)} Two instances are the same where {rule}. "
    if cohort.detection:
        near = (
            "no farther apart than the radius of the sphere of the reference's volume"
            if s.centre_mm is None
            else f"at most {s.centre_mm:g} mm apart"
        )
        least = ", ".join(f"{x:g}" for x in s.hit_iou)
        text += (
            f"For AP and FROC a prediction hits an instance that is still free, the surest prediction first: with an "
            f"IoU of at least {least}, or with centroids {near}. "
        )
    named = (("things", "things"), ("stuff", "stuff"), ("all", "all structures"))
    known = [f"{name} {ratio(p.pq[part])}" for part, name in named if math.isfinite(p.pq[part])]  # type: ignore[index]
    return text + (f"Panoptic quality: {', '.join(known)}." if known else "")


def _what(cohort: CohortComparison, s: CohortSettings) -> str:
    things = [row for row in cohort.panoptic.classes if row.kind == "thing"] if cohort.panoptic is not None else []
    own = [row for row in things if row.connectivity is None]
    if things and len(own) == len(things):
        how = {
            "watershed": "An instance is a part that the watershed of the distance to the border cuts off",
            "maps": "An instance is a value of the instance map",
        }
        return how.get(s.apart, "Both label maps came with their instances") + "."
    return f"An instance is a connected component ({s.connectivity} neighbours), where a map does not say it."
