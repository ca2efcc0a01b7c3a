"""What the charts of a comparison show, in percent of their width and height; the template only draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from voxmetry.core.records import CohortComparison, Comparison, StructureSummary
from voxmetry.report.text import clean, count, decimals, millilitres, ratio

MOST_POINTS = 400
"""Beyond this many cases a row of dots is a smear and a heavy page: only the box is drawn."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One case."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Box:
    """One structure: quartiles as a box, cases as dots; None where a quartile is not defined."""

    label: str
    colour: str
    q1: float | None
    median: float | None
    q3: float | None
    points: tuple[Point, ...]
    words: str


@dataclass(frozen=True, kw_only=True)
class BoxChart:
    """Box plots of one metric, one a structure, on one axis."""

    id: str
    title: str
    caption: str
    ticks: tuple[Tick, ...]
    boxes: tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A horizontal line with its interval and what it says."""

    at: float
    low: float
    high: float
    text: str


@dataclass(frozen=True, kw_only=True)
class AgreementChart:
    """Bland-Altman plot of one structure."""

    label: str
    colour: str
    caption: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    points: tuple[Point, ...]
    words: str


class _Axis:
    """Values to percent, between round ends."""

    def __init__(self, values: Sequence[float], low: float | None = None, high: float | None = None) -> None:
        from matplotlib.ticker import MaxNLocator

        finite = [x for x in values if math.isfinite(x)] or [0.0, 1.0]
        first, last = min([*finite, *([] if low is None else [low])]), max([*finite, *([] if high is None else [high])])
        if first == last:
            first, last = first - 0.5, last + 0.5
        marks = [float(x) for x in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(first, last)]
        if high is not None:
            # An axis that has an end, such as 1, does not run past it.
            marks = [mark for mark in marks if mark <= high + 1e-9]
        self.low, self.high, self.marks = marks[0], max(marks[-1], last), marks

    def at(self, x: float) -> float:
        return round(100 * (x - self.low) / (self.high - self.low), 3)

    def ticks(self) -> tuple[Tick, ...]:
        step = min((b - a for a, b in zip(self.marks, self.marks[1:], strict=False)), default=1.0)
        places = max(0, min(6, -math.floor(math.log10(step) + 1e-9)))
        if any(abs(round(mark, places) - mark) > 1e-9 for mark in self.marks):
            places += 1
        return tuple(Tick(at=self.at(mark), text=decimals(mark, places)) for mark in self.marks)


def box_charts(cohort: CohortComparison, colours: dict[str, str]) -> tuple[BoxChart, ...]:
    """Box plots of Dice and HD95 by structure."""
    rows = {summary.label: _rows(cohort, summary.label) for summary in cohort.structures}
    dice = [row.dice for found in rows.values() for _, row in found]
    hd95 = [row.hd95_mm for found in rows.values() for _, row in found]
    return (
        _chart(cohort, colours, rows, "dice", _Axis(dice, high=1.0)),
        _chart(cohort, colours, rows, "hd95_mm", _Axis(hd95, low=0.0)),
    )


def _rows(cohort: CohortComparison, label: str) -> list[tuple[str, Comparison]]:
    return [
        (case.case, row)
        for case in cohort.cases
        for row in case.comparisons
        if row.label == label and row.status != "absent"
    ]


def _chart(
    cohort: CohortComparison,
    colours: dict[str, str],
    rows: dict[str, list[tuple[str, Comparison]]],
    metric: str,
    axis: _Axis,
) -> BoxChart:
    is_dice = metric == "dice"
    boxes = []
    for summary in cohort.structures:
        d = summary.present[metric]
        q1, median, q3 = (axis.at(x) if math.isfinite(x) else None for x in (d.q1, d.median, d.q3))
        shown = [(case, float(getattr(row, metric))) for case, row in rows[summary.label]]
        write = ratio if is_dice else _mm
        lone = summary.n_missed + summary.n_extra
        words = f"median {write(d.median)}"
        if lone:
            words += f"; {count(lone, 'case')} in one mask only, " + ("at 0" if is_dice else "ranked as the worst")
        boxes.append(
            Box(
                label=clean(summary.label),
                colour=colours[summary.label],
                q1=q1,
                median=median,
                q3=q3,
                points=_dots(shown, axis, write),
                words=words,
            )
        )
    lonely = "counts as 0." if is_dice else "has no distance: it has no dot, and ranks as the worst in the quartiles."
    caption = f"Box: quartiles and median; dots: cases. A missed or an invented structure {lonely}"
    return BoxChart(
        id=f"box-{metric.replace('_', '-')}",
        title="Dice" if is_dice else "HD95 (mm)",
        caption=caption,
        ticks=axis.ticks(),
        boxes=tuple(boxes),
    )


def _mm(x: float) -> str:
    return f"{decimals(x, 1)} mm"


def _dots(values: Sequence[tuple[str, float]], axis: _Axis, write: Callable[[float], str]) -> tuple[Point, ...]:
    finite = [(case, x) for case, x in values if math.isfinite(x)]
    if len(finite) > MOST_POINTS:
        return ()
    # Spread over three lanes in the order of the cases, so that equal values do not hide each other.
    return tuple(
        Point(x=axis.at(x), y=35.0 + 15.0 * (place % 3), title=f"{clean(case)}: {write(x)}")
        for place, (case, x) in enumerate(finite)
    )


def agreement_chart(cohort: CohortComparison, summary: StructureSummary, colour: str) -> AgreementChart:
    """Bland-Altman plot of the volumes of one structure."""
    rows, v = _rows(cohort, summary.label), summary.volumes
    means = [(row.volume_prediction_ml + row.volume_reference_ml) / 2 for _, row in rows]
    differences = [row.volume_difference_ml for _, row in rows]
    ends = [x for x in (v.lower_low, v.upper_high, v.lower, v.upper, v.bias, 0.0) if math.isfinite(x)]
    across, up = _Axis(means), _Axis([*differences, *ends])
    lines = []
    for at, low, high, what in (
        (v.upper, v.upper_low, v.upper_high, "+1.96 SD"),
        (v.bias, v.bias_low, v.bias_high, "bias"),
        (v.lower, v.lower_low, v.lower_high, "−1.96 SD"),
    ):
        if math.isfinite(at):
            band = (low, high) if math.isfinite(low) else (at, at)
            # The top of the picture is 0 %.
            lines.append(
                Line(at=100 - up.at(at), low=100 - up.at(band[1]), high=100 - up.at(band[0]), text=f"{what} {_ml(at)}")
            )
    points = tuple(
        Point(
            x=across.at(x), y=100 - up.at(y), title=f"{clean(case)}: mean {millilitres(x)} mL, difference {_ml(y)} mL"
        )
        for (case, _), x, y in zip(rows, means, differences, strict=True)
    )
    return AgreementChart(
        label=clean(summary.label),
        colour=colour,
        caption=_words(summary),
        x_ticks=across.ticks(),
        y_ticks=tuple(Tick(at=100 - tick.at, text=tick.text) for tick in up.ticks()),
        lines=tuple(lines),
        points=points,
        words=f"Bland-Altman plot of {count(len(rows), 'case')}. {_words(summary)}",
    )


def _words(summary: StructureSummary) -> str:
    v, r = summary.volumes, summary.reliability
    if v.reason:
        return f"{count(v.n, 'case')}: {v.reason}."
    text = f"{count(v.n, 'case')}. Bias {_ml(v.bias)} mL, limits of agreement {_ml(v.lower)} to {_ml(v.upper)} mL. "
    if math.isfinite(r.icc):
        text += f"ICC(2,1) {decimals(r.icc, 3)}"
        text += f" ({decimals(r.low, 3)} to {decimals(r.high, 3)})." if math.isfinite(r.low) else "."
    return text


def _ml(x: float) -> str:
    """Three significant digits with a sign: a bias of a few microlitres is not 0.00."""
    if x == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(x))))
    return ("+" if x > 0 else "") + decimals(x, min(places, 5))
