"""Dice over the number of clicks, on the held-out cases of a run: clicks are simulated from what is wrong.

    python benchmarks/bench_clicks.py RUN DATASET [--clicks 0 1 3 5 10] [--cases 20] [--json OUT.json]

Each click is made in the middle of the largest part that is wrong at that moment, on the grid of the label map, and the
model segments again with all clicks so far. Where the model does not follow a click, the next one is on the next part.
The last column is how much the mean over the structures is more than without a click, case by case. Intervals are 95 %
by bootstrap over the patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overlap_by_name import overlap_by_name
from voxmetry import Predictor, Segmentation
from voxmetry.core.records.clicks import BACKGROUND, Click
from voxmetry.measurement.statistics import bootstrap_mean
from voxmetry.train.clicks import next_clicks
from voxmetry.train.dataset import open_data, read_labelled


def classes_of(x: Segmentation, names: tuple[str, ...]) -> np.ndarray:
    """Return class indices in the order of a model's structures."""
    found = np.zeros(x.array.shape, np.int64)
    for place, name in enumerate(names, start=1):
        found[x.mask(name)] = place
    return found


def one_more(
    found: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], clicks: Sequence[Click], names: Sequence[str]
) -> list[Click]:
    """Return the next click: on the largest part that is wrong and was not clicked where it would be now."""
    made = {click.at for click in clicks}
    for place, voxel in next_clicks(found, truth, spacing_mm, most=len(clicks) + 1):
        if voxel not in made:
            return [Click(at=voxel, label=names[place - 1] if place else BACKGROUND, space="voxel")]
    return []


def main() -> None:
    """Click and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--clicks", type=int, nargs="+", default=[0, 1, 3, 5, 10])
    parser.add_argument("--cases", type=int)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    predictor = Predictor(arguments.run / "model", device="cpu", precision="float32")
    names = predictor.spec.labels.names
    held_out = json.loads((arguments.run / "split.json").read_text(encoding="utf-8"))["validation"]
    data = open_data(arguments.data).select(held_out[: arguments.cases])
    # Without a click always: the others are held against it.
    rows: dict[int, list[list[float]]] = {n: [] for n in sorted({0, *arguments.clicks})}
    for case in data.cases:
        read = read_labelled(case, data)
        truth, clicks = classes_of(read.label, names), []
        for n in range(max(arguments.clicks) + 1):
            found = predictor(read.volumes, clicks=clicks)
            if n in rows:
                rows[n].append([row.dice for row in overlap_by_name(found, read.label, names).values()])
            clicks += one_more(classes_of(found, names), truth, read.label.geometry.spacing_mm, clicks, names)
    print(f"{len(data.cases)} held-out cases")
    table = summary(rows, [case.patient for case in data.cases])
    print_table(table, names)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


def summary(rows: dict[int, list[list[float]]], patients: Sequence[str]) -> dict[int, dict[str, list[list[float]]]]:
    """Return by clicks mean and interval of each structure's Dice, and of the difference from no click.

    The difference is taken case by case, of the mean over the structures. A structure that is in neither label map says
    nothing of a case.
    """

    def mean_of(column: np.ndarray) -> list[float]:
        there = np.isfinite(column)
        who = [patient for patient, known in zip(patients, there, strict=True) if known]
        mean = bootstrap_mean(column[there], patients=who, resamples=2000)
        return [mean.mean, mean.low, mean.high]

    found = {}
    for n, values in rows.items():
        more = np.nanmean(np.array(values) - np.array(rows[0]), axis=1)
        found[n] = {"dice": [mean_of(column) for column in np.array(values).T], "more": [mean_of(more)]}
    return found


def print_table(table: dict[int, dict[str, list[list[float]]]], names: Sequence[str]) -> None:
    """Print a row for each number of clicks."""
    print(f"| clicks | {' | '.join(names)} | mean of all, more than with none |")
    print(f"| --- |{' --- |' * len(names)} --- |")
    for n, row in table.items():
        cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in row["dice"]]
        mean, low, high = row["more"][0]
        cells.append(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" if n else "")
        print(f"| {n} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
