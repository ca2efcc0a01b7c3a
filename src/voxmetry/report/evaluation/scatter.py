"""Dice of each case against a property of the case, in percent of the chart's width and height."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from voxmetry.measurement.failures import Failures
from voxmetry.report.comparison.charts import Point, Tick
from voxmetry.report.text import clean, decimals, ratio

SHOWN = {"volume_reference_ml": "Volume of the reference (mL)", "intensity_mean": "Mean intensity in the reference"}
MOST_CHARTS = 8


@dataclass(frozen=True, kw_only=True)
class ScatterChart:
    """One structure and one property."""

    label: str
    colour: str
    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    points: tuple[Point, ...]
    words: str


def scatter_charts(failures: Failures, colours: Mapping[str, str]) -> tuple[ScatterChart, ...]:
    """Return the charts of each structure; a property that is the same in all cases has none."""
    charts = []
    for label in dict.fromkeys(row.label for row in failures.properties):
        rows = [row for row in failures.properties if row.label == label and math.isfinite(row.dice)]
        for name, title in SHOWN.items():
            pairs = [(row.case, float(getattr(row, name)), row.dice) for row in rows]
            pairs = [pair for pair in pairs if math.isfinite(pair[1])]
            values = [x for _, x, _ in pairs]
            if len(set(values)) < 2:
                continue
            low, high = min(values), max(values)
            floor = min(0.9, math.floor(10 * min(dice for _, _, dice in pairs)) / 10)
            charts.append(
                ScatterChart(
                    label=clean(label),
                    colour=colours[label],
                    title=title,
                    x_ticks=tuple(
                        Tick(
                            at=round(100 * share, 2), text=decimals(low + share * (high - low), 1 if high < 100 else 0)
                        )
                        for share in (0, 0.5, 1)
                    ),
                    y_ticks=tuple(
                        Tick(at=round(100 * (1 - share), 2), text=decimals(floor + share * (1 - floor), 2))
                        for share in (0, 0.5, 1)
                    ),
                    points=tuple(
                        Point(
                            x=round(100 * (x - low) / (high - low), 2),
                            y=round(100 * (1 - (dice - floor) / (1 - floor)), 2),
                            title=f"{clean(case)}: {decimals(x, 2)}, Dice {ratio(dice)}",
                        )
                        for case, x, dice in pairs
                    ),
                    words=f"Dice of {len(pairs)} cases against: {title}",
                )
            )
    return tuple(charts[:MOST_CHARTS])
