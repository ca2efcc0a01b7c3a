"""What a new patient can expect of a recipe that is chosen among several: nested cross-validation.

    python benchmarks/bench_nested.py configs/train/sarcoma-petct.yaml configs/train/OTHER.yaml ... -o RUNS
        [--folds 5] [--only 0 1] [--epochs 60]

Patients are dealt into folds as `voxmetry train` deals them. For each fold, which is held out, the recipes are compared
on the others alone: each is trained without one of these, by turns the next, and the one with the highest mean Dice
there is trained on all but the fold that is held out, which only then is segmented, by the whole path with
post-processing. So no case takes part in the choice of the recipe that it is segmented by. The choice may differ from
fold to fold: what is estimated is the way of choosing. Runs that were stopped go on; --only does some of the folds, and
the table has those that are done. Intervals are 95 % by bootstrap over the patients.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from overlap_by_name import overlap_by_name
from voxmetry import Predictor
from voxmetry.config import TrainSettings, load_yaml
from voxmetry.measurement.statistics import bootstrap_mean
from voxmetry.train import train
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import open_data, patient_folds, read_labelled


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="+", help="training configurations of one data set")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="the data set; without it the first recipe's")
    parser.add_argument("--root", type=Path, help="folder that the manifest's paths start from")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, nargs="+")
    parser.add_argument("--epochs", type=int, help="of every training, in place of the recipe's")
    options = parser.parse_args()
    recipes = {path.stem: load_yaml(path, TrainSettings) for path in options.recipes}
    if options.epochs:
        recipes = {name: recipe.model_copy(update={"epochs": options.epochs}) for name, recipe in recipes.items()}
    first = next(iter(recipes.values()))
    data = open_data(options.data or options.recipes[0].parent / str(first.data), root=options.root)
    parts = patient_folds(data.cases, n=options.folds, seed=first.seed)
    for fold in options.only or range(options.folds):
        run_fold(recipes, data, parts, fold, options.out)
    print_table(parts, options.out)


def run_fold(
    recipes: dict[str, TrainSettings], data: DataSet, parts: Sequence[Sequence[str]], fold: int, out: Path
) -> None:
    """Choose a recipe without one fold, train it without that fold, and write the Dice of its cases."""
    done = out / f"fold-{fold}.json"
    if done.exists():
        return
    inner = (fold + 1) % len(parts)
    tried = {
        name: run_once(recipe, data, out / f"fold-{fold}" / name, held_out=parts[inner], without=parts[fold])
        for name, recipe in recipes.items()
    }
    means = {name: float(np.mean(list(found.values()))) for name, found in tried.items()}
    chosen = max(means, key=means.__getitem__)
    print(f"fold {fold}: {means}, so {chosen}", flush=True)
    found = run_once(recipes[chosen], data, out / f"fold-{fold}" / "chosen", held_out=parts[fold])
    done.write_text(json.dumps({"chosen": chosen, "inner": means, "dice": found}, indent=1), encoding="utf-8")


def run_once(
    recipe: TrainSettings, data: DataSet, out: Path, *, held_out: Sequence[str], without: Sequence[str] = ()
) -> dict[str, float]:
    """Train without some cases, and return the mean Dice of the structures of those held out."""
    kept = [replace(case, held_out=case.name in held_out) for case in data.cases if case.name not in without]
    model = train(recipe, out, data=replace(data, cases=tuple(kept)), resume=True, cache=out.parents[1] / "cache")
    table = out / "dice.csv"
    if not table.exists():
        predictor = Predictor(model, device="cpu")
        rows = {case.name: dice_of(predictor, data, case.name) for case in kept if case.held_out}
        table.write_text("".join(f"{name},{value!r}\n" for name, value in rows.items()), encoding="utf-8")
    return {name: float(value) for name, value in csv.reader(table.read_text(encoding="utf-8").splitlines())}


def dice_of(predictor: Predictor, data: DataSet, name: str) -> float:
    """Return the mean Dice of a case's structures, on the image's own grid."""
    (case,) = (case for case in data.cases if case.name == name)
    read = read_labelled(case, data)
    found = predictor(read.volumes)
    rows = overlap_by_name(found, read.label, read.label.labels.names)
    return float(np.mean([row.dice for row in rows.values()]))


def print_table(parts: Sequence[Sequence[str]], out: Path) -> None:
    """Print what each fold chose and gave, and all together."""
    print("| fold | cases | chosen | inner mean Dice of each recipe | mean Dice held out | lowest |")
    print("| --- | --- | --- | --- | --- | --- |")
    every: list[float] = []
    for fold in range(len(parts)):
        if not (out / f"fold-{fold}.json").exists():
            continue
        found = json.loads((out / f"fold-{fold}.json").read_text(encoding="utf-8"))
        values = list(found["dice"].values())
        every += values
        inner = ", ".join(f"{name} {value:.3f}" for name, value in found["inner"].items())
        print(f"| {fold} | {len(values)} | {found['chosen']} | {inner} | {np.mean(values):.3f} | {min(values):.3f} |")
    mean = bootstrap_mean(every)
    print(f"| all | {len(every)} | | | {mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f}) | {min(every):.3f} |")


if __name__ == "__main__":
    main()
