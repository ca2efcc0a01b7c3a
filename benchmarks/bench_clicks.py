"""Dice over the number of clicks, on the held-out cases of a run: clicks are simulated from what is wrong.

    python benchmarks/bench_clicks.py RUN DATASET [--clicks 0 1 3 5 10] [--cases 20] [--json OUT.json]

Each click is made in the middle of the largest part that is wrong at that moment, on the grid of the label map, and the
model segments again with all clicks so far. Where the model does not follow a click, the next one is on the next part.
Intervals are 95 % by bootstrap over the patients.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def dice(found: np.ndarray, truth: np.ndarray, place: int) -> float:
    """Return the Dice of one class."""
    ours, theirs = found == place, truth == place
    return 2 * np.count_nonzero(ours & theirs) / max(1, np.count_nonzero(ours) + np.count_nonzero(theirs))


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
    rows: dict[int, list[list[float]]] = {n: [] for n in arguments.clicks}
    for case in data.cases:
        read = read_labelled(case, data)
        truth, clicks = classes_of(read.label, names), []
        for n in range(max(arguments.clicks) + 1):
            found = classes_of(predictor(read.volumes, clicks=clicks), names)
            if n in rows:
                rows[n].append([dice(found, truth, place) for place in range(1, len(names) + 1)])
            clicks += one_more(found, truth, read.label.geometry.spacing_mm, clicks, names)
    table = {}
    print(f"{len(data.cases)} held-out cases\n| clicks | {' | '.join(names)} |\n| --- |{' --- |' * len(names)}")
    for n, values in rows.items():
        means = [bootstrap_mean(column, resamples=2000) for column in np.array(values).T]
        table[n] = [[x.mean, x.low, x.high] for x in means]
        print(f"| {n} | " + " | ".join(f"{x.mean:.3f} ({x.low:.3f} to {x.high:.3f})" for x in means) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
