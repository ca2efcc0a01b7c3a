"""The page of an evaluation: the models side by side, and why they fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from voxmetry.core.labels import colours_of
from voxmetry.core.records import DetectionSummary, MeanInterval, StructureSummary
from voxmetry.io.atomic import write_text
from voxmetry.measurement.failures import BACKGROUND, SIDES, Failures
from voxmetry.report.document import NOTICE
from voxmetry.report.evaluation.scatter import ScatterChart, scatter_charts
from voxmetry.report.html import environment
from voxmetry.report.tables import Cell, Column, Row, Table
from voxmetry.report.text import clean, count, decimals, millilitres

FACTORS = {
    "volume_reference_ml": "volume (mL)",
    "voxel_ml": "voxel volume (mL)",
    "slice_mm": "largest spacing (mm)",
    "intensity_mean": "mean intensity",
}


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """What the page needs of one model."""

    name: str
    is_baseline: bool
    n_seen: int
    recipe: str = ""
    """What the choice of its recipe means for the figures."""
    structures: tuple[StructureSummary, ...]
    failures: Failures
    detection: tuple[DetectionSummary, ...] = ()
    colours: dict[str, str] = field(default_factory=dict)
    """Of the structures in its label table, by name."""


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """One model on the page."""

    name: str
    page: str
    note: str
    confusion: Table
    offsets: Table
    factors: Table
    charts: tuple[ScatterChart, ...]


@dataclass(frozen=True, kw_only=True)
class EvaluationDocument:
    """A page without its looks."""

    title: str
    notice: str = NOTICE
    cautions: tuple[str, ...]
    verdicts: tuple[str, ...]
    overlaps: Table
    boundaries: Table
    instances: Table | None
    models: tuple[ModelSection, ...]


def write_evaluation_page(data: str, models: Sequence[EvaluatedModel], verdicts: Sequence[str], path: Path) -> None:
    """Write the page.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    document = build_evaluation_document(data, models, verdicts)
    write_text(path, environment().get_template("evaluation.html.j2").render(document=document))


def build_evaluation_document(
    data: str, models: Sequence[EvaluatedModel], verdicts: Sequence[str]
) -> EvaluationDocument:
    """Turn an evaluation into the sentences, tables and charts of its page."""
    colours = _colours(models)
    return EvaluationDocument(
        title=f"Evaluation on {clean(data)}",
        cautions=tuple(clean(model.recipe) for model in models if model.recipe),
        verdicts=tuple(clean(line) for line in verdicts),
        overlaps=_overlaps(models, colours),
        boundaries=_boundaries(models, colours),
        instances=_instances(models, colours),
        models=tuple(_section(model, place, colours) for place, model in enumerate(models)),
    )


def _colours(models: Sequence[EvaluatedModel]) -> dict[str, str]:
    """Return one colour a structure for the whole page: that of the first model whose label table has it."""
    known: dict[str, str] = {}
    for model in models:
        known = model.colours | known
    names = [s.label for model in models for s in model.structures]
    names += [name for model in models for name in model.failures.classes if name != BACKGROUND]
    return colours_of(names, known)


def _overlaps(models: Sequence[EvaluatedModel], colours: dict[str, str]) -> Table:
    rows = []
    for model in models:
        for s in model.structures:
            lone = s.n_missed + s.n_extra
            cells = [Cell(text=clean(model.name)), Cell(text=str(s.present["dice"].mean.n))]
            cells += [_interval(s.present[name].mean, 3) for name in ("dice", "iou")]
            cells += [Cell(text=f"{s.n_missed} / {s.n_extra}", tone="review" if lone else "plain")]
            rows.append(Row(label=clean(s.label), colour=colours[s.label], cells=tuple(cells)))
    return Table(
        id="overlaps",
        caption="Means with their bootstrap intervals; a missed or an invented structure counts as 0.",
        columns=(
            Column(head="Model", numeric=False),
            *(Column(head=head) for head in ("Cases", "Dice", "IoU", "Missed / invented")),
        ),
        rows=tuple(rows),
    )


def _boundaries(models: Sequence[EvaluatedModel], colours: dict[str, str]) -> Table:
    rows = []
    for model in models:
        for s in model.structures:
            cells = [Cell(text=clean(model.name)), _interval(s.present["surface_dice"].mean, 3)]
            cells += [_interval(s.both[name].mean, 2) for name in ("hd95_mm", "assd_mm")]
            cells += [Cell(text=decimals(s.volumes.bias, 2))]
            rows.append(Row(label=clean(s.label), colour=colours[s.label], cells=tuple(cells)))
    return Table(
        id="boundaries",
        caption="Distances are means over the cases that have the structure in both masks; the volume error is the "
        "mean of prediction minus reference.",
        columns=(
            Column(head="Model", numeric=False),
            Column(head="Surface Dice"),
            Column(head="HD95", unit="mm"),
            Column(head="ASSD", unit="mm"),
            Column(head="Volume error", unit="mL"),
        ),
        rows=tuple(rows),
    )


def _instances(models: Sequence[EvaluatedModel], colours: dict[str, str]) -> Table | None:
    """How well instances are found, outlined and counted; None where none were matched."""
    found = [(model, row) for model in models for row in model.detection]
    if not found:
        return None
    rules = tuple(dict.fromkeys(rule for _, row in found for rule in row.average_precision))
    rows = []
    for model, row in found:
        cells = [Cell(text=clean(model.name))]
        cells += [_interval(row.average_precision[rule], 3) for rule in rules]
        cells += [_interval(x, 3) for x in (row.pq, row.sq, row.rq)]
        cells += [Cell(text=decimals(row.all_found, 3)), _interval(row.count_error, 2)]
        cells += [_interval(row.dice, 3), _interval(row.hd95_mm, 2)]
        rows.append(Row(label=clean(row.label), colour=colours.get(row.label, ""), cells=tuple(cells)))
    return Table(
        id="instances",
        caption="Instances: average precision (AP) by what hits, panoptic quality, share of cases in which all were "
        "found, count error, Dice and HD95 of matched pairs.",
        columns=(
            Column(head="Model", numeric=False),
            *(Column(head="AP", unit=rule) for rule in rules),
            *(Column(head=head) for head in ("PQ", "SQ", "RQ")),
            Column(head="All found", unit="share of cases"),
            Column(head="Count error"),
            Column(head="Dice of matched"),
            Column(head="HD95 of matched", unit="mm"),
        ),
        rows=tuple(rows),
    )


def _interval(mean: MeanInterval, places: int) -> Cell:
    text = decimals(mean.mean, places)
    if math.isfinite(mean.low):
        text += f" ({decimals(mean.low, places)} to {decimals(mean.high, places)})"
    return Cell(text=text)


def _section(model: EvaluatedModel, place: int, colours: dict[str, str]) -> ModelSection:
    notes = []
    if model.n_seen:
        notes.append(f"{count(model.n_seen, 'case')} left out, because it was trained on them.")
    if model.is_baseline:
        notes.append("A classical baseline: it was trained on nothing.")
    return ModelSection(
        name=clean(model.name),
        page=f"{model.name}.html",
        note=" ".join(notes),
        confusion=_confusion(model.failures, place, colours),
        offsets=_offsets(model.failures, place, colours),
        factors=_factors(model.failures, place, colours),
        charts=scatter_charts(model.failures, colours),
    )


def _confusion(failures: Failures, place: int, colours: dict[str, str]) -> Table:
    rows = []
    for index, name in enumerate(failures.classes):
        volumes = failures.confusion_ml[index]
        whole = sum(volumes)
        cells = []
        for other, volume in enumerate(volumes):
            share = volume / whole if whole else math.nan
            wrong = other != index and index > 0 and share >= 0.1
            text = millilitres(volume) + (f" ({share:.0%})" if index > 0 and math.isfinite(share) else "")
            cells.append(Cell(text=text, tone="review" if wrong else "plain"))
        colour = colours.get(name, "")
        rows.append(Row(label=clean(name), colour=colour, cells=tuple(cells)))
    return Table(
        id=f"confusion-{place}",
        caption="What is taken for what: volume over all cases, of the class of the row in the reference that is the "
        "class of the column in the prediction; share of the row.",
        columns=tuple(Column(head=clean(name), unit="mL") for name in failures.classes),
        rows=tuple(rows),
    )


def _offsets(failures: Failures, place: int, colours: dict[str, str]) -> Table:
    found = {(row.label, row.side): row for row in failures.offsets}
    labels = list(dict.fromkeys(row.label for row in failures.offsets))
    rows = []
    for label in labels:
        cells = []
        for side in SIDES:
            row = found.get((label, side))
            cells.append(Cell(text=decimals(row.mean_mm, 2) if row is not None else "n/a"))
        rows.append(Row(label=clean(label), colour=colours[label], cells=tuple(cells)))
    return Table(
        id=f"offsets-{place}",
        caption="Where the boundary is wrong: mean signed distance of the predicted boundary from the reference's on "
        "each side of the structure, outside positive, inside negative.",
        columns=tuple(Column(head=side.capitalize(), unit="mm") for side in SIDES),
        rows=tuple(rows),
    )


def _factors(failures: Failures, place: int, colours: dict[str, str]) -> Table:
    found = {(row.label, row.factor): row for row in failures.factors}
    rows = []
    for label in dict.fromkeys(row.label for row in failures.factors):
        cells = []
        for name in FACTORS:
            row = found[(label, name)]
            text = row.reason or f"{decimals(row.spearman, 2)} (p {decimals(row.p_value, 3)})"
            cells.append(Cell(text=text, tone="note" if row.p_value < 0.05 else "plain"))
        rows.append(Row(label=clean(label), colour=colours[label], cells=tuple(cells)))
    return Table(
        id=f"factors-{place}",
        caption="What Dice goes along with: Spearman's rank correlation over the cases, not corrected for the number "
        "of tests.",
        columns=tuple(Column(head=f"Dice and {text}") for text in FACTORS.values()),
        rows=tuple(rows),
    )
