"""How well a model of brain structures does on real brains that it has not seen, and how steady it is.

    python benchmarks/bench_brain.py FOLDER/brain-mr [-m brain-mr] [--json OUT.json]

Three tables. Against the MUSE regions of ten T1 brains (a model's output, by a protocol of its own): Dice with its 95 %
interval by bootstrap, correlation and bias of the volumes. One patient's four contrasts: each structure's volume, and
their range as a share of the mean. The same heads changed in ways that should not matter: stored along other axes,
resampled to 1 mm, turned by 10 degrees; the largest difference of a structure's volume from that of the image as it is.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from bench_robustness import spaced
from overlap_by_name import overlap_by_name
from voxmetry import Geometry, Predictor, Segmentation, Volume, read_volume, resample
from voxmetry.measurement.statistics import bootstrap_mean
from voxmetry.train.dataset import open_data, read_labelled

CONTRASTS = ("t1", "t1post", "t2", "flair")
LEAST_ML = 2.0
"""Structures that are smaller than this in one of two images are left out of the tables of steadiness."""
MANIFEST = Path(__file__).parents[1] / "configs" / "data" / "brain-mr.yaml"


def volumes_ml(x: Segmentation) -> dict[str, float]:
    """Return the volume of each structure."""
    counts = np.bincount(x.array.ravel(), minlength=256)
    return {label.name: float(counts[label.value]) * x.geometry.voxel_ml for label in x.labels}


def stored_otherwise(x: Volume) -> Volume:
    """Flip two axes and exchange two: the same places, other indices."""
    array = np.ascontiguousarray(np.flip(x.array, (0, 2)).transpose(2, 0, 1))
    return Volume(array, x.geometry.flipped(0, 2).permuted((2, 0, 1)), x.unit)


def finer(x: Volume) -> Volume:
    """Resample to 1 mm, by cubic splines."""
    return resample(x, to=spaced(1.0)(x.geometry), interpolation="cubic")


def tilted(x: Volume) -> Volume:
    """Turn the head by 10 degrees about the patient's x axis: the same voxels, other places."""
    cos, sin = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    turn = np.array([[1, 0, 0, 0], [0, cos, -sin, 0], [0, sin, cos, 0], [0, 0, 0, 1]])
    return Volume(x.array, Geometry(turn @ x.geometry.affine, x.geometry.shape), x.unit)


CHANGES = {"stored along other axes": stored_otherwise, "resampled to 1 mm": finer, "turned by 10 degrees": tilted}


def against_muse(predictor: Predictor, folder: Path) -> list[dict[str, object]]:
    """Return a row a structure."""
    data = open_data(MANIFEST, root=folder)
    found: dict[str, list[tuple[float, float, float]]] = {}
    for case in data.cases:
        read = read_labelled(case, data)
        ours = predictor(read.volumes)
        voxel = ours.geometry.voxel_ml
        names = [name for name in predictor.spec.labels.names if name in read.label.labels.names]
        for name, row in overlap_by_name(ours, read.label, names).items():
            found.setdefault(name, []).append((row.dice, row.n_prediction * voxel, row.n_reference * voxel))
    rows = []
    for name, each in found.items():
        dice, ours_ml, theirs_ml = np.array(each).T
        mean = bootstrap_mean(dice)
        rows.append(
            {
                "structure": name,
                "dice": [mean.mean, mean.low, mean.high],
                "r": float(np.corrcoef(ours_ml, theirs_ml)[0, 1]),
                "bias": float(ours_ml.mean() / theirs_ml.mean() - 1),
                "ml": float(theirs_ml.mean()),
            }
        )
    return rows


def of_contrasts(predictor: Predictor, folder: Path) -> list[dict[str, object]]:
    """Return a row a structure: its volumes in one patient's contrasts, and their range."""
    each = [volumes_ml(predictor(read_volume(folder / f"ms07_{name}.nii.gz", modality="MR"))) for name in CONTRASTS]
    return [
        {"structure": name, "ml": values, "range": (max(values) - min(values)) / float(np.mean(values))}
        for name in each[0]
        if min(values := [row[name] for row in each]) > 0 and max(values) >= LEAST_ML
    ]


def of_changes(predictor: Predictor, folder: Path, n: int) -> list[dict[str, object]]:
    """Return a row a change: the largest difference of a structure over `LEAST_ML`, and the median."""
    rows = []
    for title, change in CHANGES.items():
        apart: list[tuple[float, str]] = []
        for path in sorted((folder / "t1").glob("*.nii.gz"))[:n]:
            volume = read_volume(path, modality="MR")
            before, after = volumes_ml(predictor(volume)), volumes_ml(predictor(change(volume)))
            apart += [(abs(after[name] / ml - 1), name) for name, ml in before.items() if ml >= LEAST_ML]
        if not apart:
            continue
        worst = max(apart)
        rows.append(
            {"change": title, "largest": worst[0], "of": worst[1], "median": float(np.median([x for x, _ in apart]))}
        )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-m", "--model", default="brain-mr")
    parser.add_argument("--changed", type=int, default=3, help="brains that are changed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    predictor = Predictor(options.model, device="cpu", precision="float32")
    muse = against_muse(predictor, options.data)
    print("| structure | Dice (95 % interval) | r of volumes | bias | mean mL |\n| --- | --- | --: | --: | --: |")
    for row in muse:
        mean, low, high = row["dice"]
        print(
            f"| {row['structure']} | {mean:.3f} ({low:.3f} to {high:.3f}) | {row['r']:.2f} | {row['bias']:+.0%} "
            f"| {row['ml']:.1f} |"
        )
    contrasts = of_contrasts(predictor, options.data / "contrasts")
    print(f"\n| mL | {' | '.join(CONTRASTS)} | range |\n| --- |{' --: |' * (len(CONTRASTS) + 1)}")
    for row in contrasts:
        print(f"| {row['structure']} | {' | '.join(f'{ml:.1f}' for ml in row['ml'])} | {row['range']:.0%} |")
    changes = of_changes(predictor, options.data, options.changed)
    print("\n| change | median difference | largest | of |\n| --- | --: | --: | --- |")
    for row in changes:
        print(f"| {row['change']} | {row['median']:.1%} | {row['largest']:.1%} | {row['of']} |")
    if options.json:
        options.json.write_text(json.dumps({"muse": muse, "contrasts": contrasts, "changes": changes}), "utf-8")


if __name__ == "__main__":
    main()
