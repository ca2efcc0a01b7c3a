"""What partial labels cost, and what made images give: five trainings on the hippocampus cases, one table.

    python benchmarks/bench_partial_labels.py FOLDER/hippocampus-mr -o runs/partial-labels

One fifth of the cases is held out. Of the others, half keep one of their two labels:

full      both labels of all cases
partial   half of the cases know one label only, and say so (`known`)
ignorant  the same label maps, but what is missing is taken for background
half      the half with both labels alone
made      images made from the label maps alone (`synthesis`); their background is split into four by intensity

Each takes the same number of steps, with the recipe of configs/train/hippocampus-mr.yaml. Runs that were stopped go on.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import yaml

from voxmetry import Segmentation, read_segmentation, read_volume, save
from voxmetry.config import TrainSettings, load_yaml, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.measurement.statistics import bootstrap_mean
from voxmetry.train import train
from voxmetry.train.dataset import open_data, patient_folds

ROOT = Path(__file__).parents[1]
NAMES = {1: "anterior", 2: "posterior"}
ARMS = ("full", "partial", "ignorant", "half", "made")
BACKGROUND = 10
"""First value of the background's parts."""


def main() -> None:
    """Train the arms that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=1800, help="steps of each training")
    options = parser.parse_args()
    recipe = load_yaml(ROOT / "configs" / "train" / "hippocampus-mr.yaml", TrainSettings)
    cases = [case.name for case in open_data(options.data).cases]
    held_out = set(patient_folds(open_data(options.data).cases, n=5, seed=recipe.seed)[0])
    kept = [name for name in cases if name not in held_out]
    alone = {name: NAMES[1 + place // 2 % 2] for place, name in enumerate(kept) if place % 2}
    models: dict[str, Path] = {}
    for arm in options.arms:
        manifest = write_manifest(arm, options.data, options.out, kept, sorted(held_out), alone)
        settings = parse_record(
            recipe.model_dump()
            | {"data": str(manifest), "steps_per_epoch": options.steps // 20, "epochs": 20, "validate_every": 20}
            | ({"synthesis": synthesis(options.data, options.out, kept)} if arm == "made" else {}),
            TrainSettings,
            where=arm,
        )
        models[arm] = train(settings, options.out / arm, data=manifest, resume=True, cache=options.out / "cache")
    print_table({arm: dice(model / "validation.csv") for arm, model in models.items()}, options.out / "table.json")


def print_table(found: dict[str, np.ndarray], to: Path) -> None:
    """Print the means, and the differences to the first arm with their 95 % intervals, paired by case."""
    first, full = next(iter(found.items()))
    print(f"{len(full)} held-out cases")
    print("| training | " + " | ".join(f"{name} | less than {first}" for name in NAMES.values()) + " |")
    print("| --- |" + " --: | --- |" * len(NAMES))
    rows = []
    for arm, values in found.items():
        cells = []
        for place in range(len(NAMES)):
            mean = bootstrap_mean(full[:, place] - values[:, place])
            rows.append((arm, NAMES[place + 1], float(values[:, place].mean()), mean.mean, mean.low, mean.high))
            less = "" if arm == first else f"{mean.mean:.4f} ({mean.low:.4f} to {mean.high:.4f})"
            cells += [f"{values[:, place].mean():.4f}", less]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    to.write_text(json.dumps(rows), encoding="utf-8")


def write_manifest(
    arm: str, data: Path, out: Path, kept: list[str], held_out: list[str], alone: dict[str, str]
) -> Path:
    """Write the manifest of an arm, and label maps without the other label where that is the arm."""
    entries: list[dict[str, object]] = [{"case": name, "held_out": True} for name in held_out]
    for name in kept:
        entry: dict[str, object] = {"case": name}
        if name in alone and arm == "half":
            continue
        if name in alone and arm == "partial":
            entry["known"] = [alone[name]]
        if name in alone and arm == "ignorant":
            entry["label"] = str(without(data / "labels" / f"{name}.nii.gz", alone[name], out / "one-label"))
        entries.append(entry)
    content = {
        "name": f"hippocampus-{arm}",
        "root": str(data.resolve()),
        "channels": [{"name": "t1", "modality": "MR", "path": "images/{case}.nii.gz"}],
        "label": "labels/{case}.nii.gz",
        "labels": NAMES,
        "cases": entries,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{arm}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def without(path: Path, kept: str, folder: Path) -> Path:
    """Write a label map with one of its structures alone."""
    folder.mkdir(parents=True, exist_ok=True)
    found = read_segmentation(path, labels=LabelTable.from_names(NAMES))
    array = np.where(found.array == found.labels[kept].value, found.array, 0).astype(np.uint8)
    save(Segmentation(array, found.geometry, found.labels), folder / path.name)
    return (folder / path.name).resolve()


def synthesis(data: Path, out: Path, kept: list[str]) -> dict[str, object]:
    """Write label maps whose background is split into four by intensity; return the block of the configuration."""
    folder = out / "maps"
    folder.mkdir(parents=True, exist_ok=True)
    table = LabelTable.from_names(NAMES | {BACKGROUND + part: f"background {part}" for part in range(4)})
    for name in kept:
        if (folder / f"{name}.nii.gz").exists():
            continue
        image = read_volume(data / "images" / f"{name}.nii.gz").array
        label = read_segmentation(data / "labels" / f"{name}.nii.gz", labels=LabelTable.from_names(NAMES))
        edges = np.quantile(image[label.array == 0], (0.25, 0.5, 0.75))
        parts = BACKGROUND + np.searchsorted(edges, image)
        array = np.where(label.array > 0, label.array, parts).astype(np.uint8)
        save(Segmentation(array, label.geometry, table), folder / f"{name}.nii.gz")
    return {
        "label_maps": str(folder.resolve()),
        "targets": NAMES,
        "ignored": [BACKGROUND + part for part in range(4)],
        "stripped": 0,
        "deformation": {"elastic_mm": 1.5, "elastic_step_mm": 12},
        "acquisition": {"slice_mm": [1, 3], "thick_slices": 0.3},
    }


def dice(path: Path) -> np.ndarray:
    """Return the Dice of both structures of the held-out cases, (cases, 2), sorted by case."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["case"])
    return np.array([[float(row[f"dice_{name}"]) for name in NAMES.values()] for row in rows])


if __name__ == "__main__":
    main()
