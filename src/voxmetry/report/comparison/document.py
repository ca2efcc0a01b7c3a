"""What the page of a comparison says: verdict, tables, charts, the worst cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from voxmetry.core.labels import colours_of
from voxmetry.core.records import CohortComparison, Comparison, Distribution, StructureSummary
from voxmetry.report.comparison.cells import mean_cell
from voxmetry.report.comparison.charts import AgreementChart, BoxChart, agreement_chart, box_charts
from voxmetry.report.comparison.instances import instance_tables, instance_words
from voxmetry.report.document import NOTICE, ReportVerdict
from voxmetry.report.facts import Fact
from voxmetry.report.tables import STATUS, Cell, Column, Row, Table, signed_millilitres
from voxmetry.report.text import clean, count, decimals, millilitres, millimetres, ratio

MOST_AGREEMENT_CHARTS, MOST_WORST = 12, 10
_TERMS = {
    "dice": "Dice",
    "iou": "IoU",
    "surface_dice": "Surface Dice",
    "hausdorff_mm": "Hausdorff distance (mm)",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "surface": "Surface",
    "status": "Status",
    "empty": "Empty masks",
    "volume_difference_ml": "Volume difference (mL)",
    "average_precision": "AP, average precision",
    "froc": "FROC",
    "froc_score": "FROC score",
    "hits": "A hit",
    "sq": "SQ",
    "rq": "RQ",
    "pq": "PQ",
    "all_found": "All found",
    "count_error": "Count error",
    "count_bias": "Count bias",
}


@dataclass(frozen=True, kw_only=True)
class WorstRow:
    """One of the worst cases: what its pictures are drawn from."""

    case: str
    label: str
    title: str
    caption: str
    comparison: Comparison


@dataclass(frozen=True, kw_only=True)
class CohortDocument:
    """A page without its looks."""

    title: str
    notice: str = NOTICE
    verdict: ReportVerdict
    lines: tuple[str, ...]
    """Counts that belong to the verdict."""
    facts: tuple[Fact, ...]
    policy: str
    summary: Table
    boundary: Table
    charts: tuple[BoxChart, ...]
    agreement: tuple[AgreementChart, ...]
    not_charted: str
    instances: tuple[Table, ...]
    panoptic: str
    paired: Table | None
    other_summary: Table | None
    other_boundary: Table | None
    worst: tuple[WorstRow, ...]
    worst_table: Table | None
    failed: tuple[Fact, ...]
    leftovers: tuple[Fact, ...]
    definitions: tuple[Fact, ...]


def build_cohort_document(cohort: CohortComparison) -> CohortDocument:
    """Turn a comparison into the sentences, tables and charts of its page."""
    colours = colours_of((s.label for s in cohort.structures), cohort.colours)
    charted = [s for s in cohort.structures if s.n_cases - s.n_absent > 1]
    # Of many structures, those whose volumes agree least say most.
    chosen = sorted(charted, key=_disagreement, reverse=True)[:MOST_AGREEMENT_CHARTS]
    worst = _worst(cohort)
    return CohortDocument(
        title=f"Comparison of {count(len(cohort.cases), 'case')} with their references"
        if len(cohort.cases) != 1
        else "Comparison of 1 case with its reference",
        verdict=_verdict(cohort),
        lines=_lines(cohort),
        facts=_facts(cohort),
        policy=cohort.policy,
        summary=_overlap_table(cohort, colours),
        boundary=_boundary_table(cohort, colours),
        charts=box_charts(cohort, colours) if cohort.structures else (),
        agreement=tuple(agreement_chart(cohort, s, colours[s.label]) for s in cohort.structures if s in chosen),
        not_charted=""
        if len(chosen) == len(charted)
        else f"Shown are the {len(chosen)} of {len(charted)} structures "
        "with the widest limits of agreement; comparison.json has all.",
        instances=instance_tables(cohort, colours),
        panoptic=instance_words(cohort),
        paired=_paired(cohort, colours),
        other_summary=_of_other(_overlap_table, cohort, colours),
        other_boundary=_of_other(_boundary_table, cohort, colours),
        worst=worst,
        worst_table=_worst_table(worst, colours),
        failed=tuple(
            Fact(term=clean(case.case), detail=clean(f"{case.error['found']}. To do: {case.error['fix']}."))
            for case in cohort.failed
            if case.error is not None
        ),
        leftovers=_leftovers(cohort),
        definitions=tuple(
            Fact(term=term, detail=clean(cohort.definitions[name]))
            for name, term in _TERMS.items()
            if name in cohort.definitions
        ),
    )


def _of_other(
    make: Callable[[CohortComparison, dict[str, str]], Table], cohort: CohortComparison, colours: dict[str, str]
) -> Table | None:
    """Make a table of the other model's own summary; None where there is no other model."""
    if not cohort.other_structures:
        return None
    table = make(cohort.of_other_model(), colours)
    return replace(table, id=f"other-{table.id}", caption=f"The other model: {table.caption}")


def _disagreement(s: StructureSummary) -> float:
    """Half the width of the limits of agreement but for a factor; what has none comes first."""
    return s.volumes.sd if math.isfinite(s.volumes.sd) else math.inf


def _verdict(cohort: CohortComparison) -> ReportVerdict:
    lone = sum(s.n_missed + s.n_extra for s in cohort.structures)
    problems = []
    if cohort.failed:
        problems.append(f"{count(len(cohort.failed), 'case')} could not be compared")
    n = len(cohort.unmatched_predictions) + len(cohort.unmatched_references)
    if n:
        problems.append(f"{count(n, 'file has', 'files have')} no partner")
    if lone:
        problems.append(f"{count(lone, 'structure')} missed or invented")
    if problems:
        return ReportVerdict(
            state="review", headline="Not every case is in every mean", detail=clean("; ".join(problems)) + "."
        )
    return ReportVerdict(
        state="ok",
        headline="Each case was compared, each structure was found",
        detail="No file is without a partner, no case failed, no structure was missed or invented.",
    )


def _lines(cohort: CohortComparison) -> tuple[str, ...]:
    lone = [s for s in cohort.structures if s.n_missed or s.n_extra]
    return tuple(f"{clean(s.label)}: {s.n_missed} missed, {s.n_extra} invented" for s in lone[:6])


def _facts(cohort: CohortComparison) -> tuple[Fact, ...]:
    s = cohort.settings
    patients = len({case.patient for case in cohort.cases})
    tolerance = s.tolerance_mm if isinstance(s.tolerance_mm, dict) else {"": s.tolerance_mm}
    return (
        Fact(term="Cases", detail=f"{len(cohort.cases)} of {count(patients, 'patient')}"),
        Fact(term="Structures", detail=str(len(cohort.structures))),
        Fact(
            term="Intervals", detail=f"{s.level:.0%}, BCa bootstrap by patient, {s.resamples} resamples, seed {s.seed}"
        ),
        Fact(term="Surface", detail=f"{s.surface}; HD95: {s.percentile}"),
        Fact(
            term="Tolerance of surface Dice",
            detail=", ".join(f"{clean(name)} {value:g} mm".strip() for name, value in tolerance.items()),
        ),
        *([Fact(term="voxmetry", detail=clean(cohort.voxmetry_version))] if cohort.voxmetry_version else []),
    )


def _rows(cohort: CohortComparison) -> list[StructureSummary]:
    whole = [cohort.overall] if cohort.overall is not None and len(cohort.structures) > 1 else []
    return [*cohort.structures, *whole]


def _overlap_table(cohort: CohortComparison, colours: dict[str, str]) -> Table:
    columns = (
        Column(head="Cases"),
        Column(head="Missed"),
        Column(head="Invented"),
        Column(head="Dice, mean", unit="interval"),
        Column(head="Dice, median", unit="quartiles"),
        Column(head="Dice where in both", unit="mean, interval"),
        Column(head="Lowest Dice", numeric=False),
    )
    notes: list[str] = []
    rows = []
    for s in _rows(cohort):
        dice = s.present["dice"]
        cells = (
            Cell(text=str(dice.mean.n)),
            *(Cell(text=str(n), tone="review" if n else "plain") for n in (s.n_missed, s.n_extra)),
            mean_cell(dice.mean, ratio, notes),
            Cell(text=_spread(dice, ratio)),
            mean_cell(s.both["dice"].mean, ratio, notes),
            Cell(text=_worst_of(dice, ratio)),
        )
        rows.append(Row(label=clean(s.label), colour=colours.get(s.label, ""), cells=cells))
    return Table(
        id="summary-overlap",
        caption="Overlap, over the cases that have the structure in at least one mask",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _boundary_table(cohort: CohortComparison, colours: dict[str, str]) -> Table:
    columns = (
        Column(head="Surface Dice", unit="mean, interval"),
        Column(head="HD95, mean", unit="mm, interval"),
        Column(head="HD95, median", unit="mm, quartiles"),
        Column(head="HD95 where in both", unit="mm, mean, interval"),
        Column(head="ASSD where in both", unit="mm, mean, interval"),
        Column(head="Largest HD95", unit="mm", numeric=False),
    )
    notes: list[str] = []
    rows = []
    for s in _rows(cohort):
        hd95 = s.present["hd95_mm"]
        cells = (
            mean_cell(s.present["surface_dice"].mean, ratio, notes),
            mean_cell(hd95.mean, millimetres, notes),
            Cell(text=_spread(hd95, millimetres)),
            mean_cell(s.both["hd95_mm"].mean, millimetres, notes),
            mean_cell(s.both["assd_mm"].mean, lambda x: decimals(x, 2), notes),
            Cell(text=_worst_of(s.both["hd95_mm"], millimetres)),
        )
        rows.append(Row(label=clean(s.label), colour=colours.get(s.label, ""), cells=cells))
    return Table(
        id="summary-boundary",
        caption="Boundary, over the cases that have the structure in at least one mask, and in both",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _spread(d: Distribution, write: Callable[[float], str]) -> str:
    return f"{write(d.median)} ({write(d.q1)} to {write(d.q3)})"


def _worst_of(d: Distribution, write: Callable[[float], str]) -> str:
    return f"{write(d.worst)} ({clean(d.worst_case)})" if d.worst_case else ""


def _paired(cohort: CohortComparison, colours: dict[str, str]) -> Table | None:
    if not cohort.paired:
        return None
    columns = (
        Column(head="Metric", numeric=False),
        Column(head="Cases"),
        Column(head="Difference, mean", unit="first − other, with interval"),
        Column(head="Ties"),
        Column(head="Left out"),
        Column(head="Effect size", unit="rank-biserial"),
        Column(head="p", unit="Wilcoxon"),
        Column(head="p, adjusted", unit="Holm"),
    )
    notes: list[str] = []
    rows = []
    for row in cohort.paired:
        cells = (
            Cell(text=_TERMS[row.metric]),
            Cell(text=str(row.difference.n)),
            mean_cell(row.difference, lambda x: decimals(x, 3), notes),
            Cell(text=str(row.n_ties)),
            Cell(text=str(row.n_undefined), tone="review" if row.n_undefined else "plain"),
            Cell(text=decimals(row.effect_size, 2)),
            Cell(text=decimals(row.p_value, 4)),
            Cell(text=decimals(row.p_adjusted, 4)),
        )
        rows.append(Row(label=clean(row.label), colour=colours.get(row.label, ""), cells=cells))
    return Table(
        id="paired",
        caption="The first model compared with the other on the same cases",
        columns=columns,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def _worst(cohort: CohortComparison) -> tuple[WorstRow, ...]:
    rows = [(case, row) for case in cohort.cases for row in case.comparisons if row.status != "absent"]
    rows.sort(key=lambda item: (item[1].dice, -max(item[1].volume_reference_ml, item[1].volume_prediction_ml)))
    found = []
    for case, row in rows[:MOST_WORST]:
        name, label = clean(case.case), clean(row.label)
        if row.status == "both":
            caption = f"Dice {ratio(row.dice)}, HD95 {millimetres(row.hd95_mm)} mm, "
        else:
            caption = f"{STATUS[row.status]}. "
        caption += f"{signed_millilitres(row.volume_difference_ml)} mL of {millilitres(row.volume_reference_ml)} mL."
        found.append(
            WorstRow(case=case.case, label=row.label, title=f"{name}: {label}", caption=caption, comparison=row)
        )
    return tuple(found)


def _worst_table(worst: tuple[WorstRow, ...], colours: dict[str, str]) -> Table | None:
    if not worst:
        return None
    columns = (
        Column(head="Case", numeric=False),
        Column(head="Status", numeric=False),
        Column(head="Dice"),
        Column(head="HD95", unit="mm"),
        Column(head="Difference", unit="mL"),
    )
    rows = []
    for w in worst:
        row = w.comparison
        cells = (
            Cell(text=clean(w.case)),
            Cell(text=STATUS[row.status], tone="plain" if row.status == "both" else "review"),
            Cell(text=ratio(row.dice)),
            Cell(text=millimetres(row.hd95_mm)),
            Cell(text=signed_millilitres(row.volume_difference_ml)),
        )
        rows.append(Row(label=clean(w.label), colour=colours.get(w.label, ""), cells=cells))
    return Table(id="worst-table", caption="Lowest Dice first", columns=columns, rows=tuple(rows))


def _leftovers(cohort: CohortComparison) -> tuple[Fact, ...]:
    sides = (
        ("Predictions without a reference", cohort.unmatched_predictions),
        ("References without a prediction", cohort.unmatched_references),
    )
    return tuple(Fact(term=term, detail=", ".join(map(clean, names))) for term, names in sides if names)
