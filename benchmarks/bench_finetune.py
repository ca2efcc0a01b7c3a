"""Does starting from a model need fewer cases? Dice on the same held-out cases, from random weights and from a model.

python benchmarks/bench_finetune.py DATA [--few 5 10 20] [--held-out 30] [--source 60] [--epochs 12] [--width 8]

DATA is the hippocampus folder. The source model learns the whole hippocampus as one structure from `--source` cases;
the target is its two parts, from `--few` other cases. Cases of source, target and test are different. Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from voxmetry import Segmentation, save
from voxmetry.config import TrainSettings, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.io import read_segmentation
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import load_into
from voxmetry.train import train
from voxmetry.train.batches import load_case
from voxmetry.train.dataset import open_data
from voxmetry.train.finetune import settings_from
from voxmetry.train.fingerprint import scan
from voxmetry.train.loop import mean_dice, validate
from voxmetry.train.plan import Budget, make_plan

PARTS = LabelTable.from_names({1: "anterior", 2: "posterior"})
WHOLE = LabelTable.from_names({1: "hippocampus"})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--few", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--held-out", type=int, default=30)
    parser.add_argument("--source", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=60, help="Steps of each target run, whatever its cases.")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = [case.name for case in open_data(options.data).cases]
    order = [names[i] for i in np.random.default_rng(0).permutation(len(names))]
    test, rest = order[: options.held_out], order[options.held_out :]
    source_names, pool = rest[: options.source], rest[options.source :]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = _fit(_link(options.data, source_names, work / "source-mr", WHOLE), work / "source", options, None)
        print(f"| cases | from random weights | from a model of the whole hippocampus ({options.source} cases) |")
        print("| --- | --- | --- |")
        for n in options.few:
            data = _link(options.data, pool[:n], work / f"few{n}-mr", PARTS)
            cells = []
            for start in (None, source):
                model = _fit(data, work / f"run-{n}-{start is None}", options, start, steps=options.steps)
                cells.append(_score(model, options.data, test))
            print(f"| {n} | {cells[0]} | {cells[1]} |", flush=True)
    print(
        f"\nMean Dice anterior / posterior on {options.held_out} held-out cases; {options.steps} steps each, same seed."
    )


def _link(data: Path, names: list[str], folder: Path, table: LabelTable) -> Path:
    """Make a data set of these cases; with one label, its two parts are one structure."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for name in names:
        file = f"{name}.nii.gz"
        (folder / "images" / file).symlink_to((data / "images" / file).resolve())
        label = read_segmentation(data / "labels" / file)
        array = np.minimum(label.array, len(table)).astype(np.uint8)
        save(Segmentation(array, label.geometry, table), folder / "labels" / file)
    return folder


def _fit(data: Path, out: Path, options: argparse.Namespace, start: Path | None, steps: int | None = None) -> Path:
    named, facts, fingerprint = scan(open_data(data))
    settings = make_plan(fingerprint, named, data=str(data), budget=Budget(epochs=options.epochs)).settings
    if start is not None:
        settings = settings_from(settings, start)
    else:
        width = options.width
        network = settings.model.network.model_dump() | {"channels": [width, width * 2, width * 4, width * 8]}
        content = settings.model_dump() | {"model": settings.model.model_dump() | {"network": network}}
        settings = parse_record(content, TrainSettings, where="benchmark")
    epochs = settings.epochs if steps is None else max(1, round(steps / -(-len(facts) // settings.batch_size)))
    change = {"epochs": epochs, "validation_fraction": 0.0, "seed": 1}
    return train(parse_record(settings.model_dump() | change, TrainSettings, where="benchmark"), out, data=data)


def _score(model: Path, data: Path, names: list[str]) -> str:
    from voxmetry.models import read_spec

    spec = read_spec(model)
    network = build_network(spec)
    load_into(network, model / spec.weights.file, sha256=spec.weights.sha256)
    opened = open_data(data).select(names)
    table = validate(network, [load_case(case, opened, spec) for case in opened.cases], spec, "cpu")
    return " / ".join(f"{mean_dice(table, name):.3f}" for name in spec.labels.names)


if __name__ == "__main__":
    main()
