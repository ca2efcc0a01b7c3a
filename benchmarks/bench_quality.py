"""Does the quality gate catch what goes wrong? Held-out cases of a cross-validation as they are, and damaged.

    python benchmarks/bench_quality.py DATA/hippocampus-mr --run RUNS/hippocampus-mr [--cases 8]

Each case goes to the network of its fold, which has not seen it, with the calibration of --calibrated. Among cases like
those of the training, Dice differs by how the reference was drawn, which no network can know; damaged images are what a
gate is for. Damages: turned grid, thick slices, noise, blur, motion, a corner cut off. Prints a Markdown table: true
Dice, predicted Dice, how many are flagged for review, and by which flags; then the rank correlation of predicted and
true Dice over all, and how many of the worst tenth are caught.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.stats import spearmanr

from bench_robustness import seen, turned
from voxmetry import Geometry, Predictor, Segmentation, Volume, compare, load_model, read_segmentation, read_volume
from voxmetry.config import ModelSpec, Range
from voxmetry.core.axes import reorientation
from voxmetry.flags.image import flag_image
from voxmetry.flags.study import flag_input, flag_measurements, flag_quality, predict_dice
from voxmetry.measurement import measure
from voxmetry.models import read_spec
from voxmetry.nn import Confidence
from voxmetry.ops.components import clean

Change = Callable[[Volume, Segmentation], tuple[Volume, Segmentation]]


def values(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """A damage to the values alone; the same for the same image."""

    def changed(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
        array = volume.array.astype(np.float32)
        return Volume(change(array, np.random.default_rng(int(array.sum()) % 2**32)), volume.geometry), label

    return changed


def noisy(share: float) -> Change:
    """Gaussian noise of a share of the 99th percentile."""
    return values(lambda a, rng: a + rng.normal(0, share * np.percentile(a, 99), a.shape).astype(np.float32))


def blurred(sigma: float) -> Change:
    """A Gaussian blur in voxels."""
    return values(lambda a, _: ndimage.gaussian_filter(a, sigma))


def ghosted(shift: int, share: float) -> Change:
    """Motion along the second axis: the image and copies of it beside."""
    return values(lambda a, _: (1 - share) * a + share / 2 * (np.roll(a, shift, 1) + np.roll(a, -shift, 1)))


def thick(slices: int) -> Change:
    """Slices of several millimetres along the third axis."""

    def changed(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
        n = volume.geometry.shape[2] // slices
        image = volume.array[:, :, : n * slices].astype(np.float32).reshape(*volume.array.shape[:2], n, slices).mean(3)
        affine = np.array(volume.geometry.affine)
        affine[:3, 3] += affine[:3, 2] * (slices - 1) / 2
        affine[:3, 2] *= slices
        grid = Geometry(affine, image.shape)
        labels = label.array[:, :, slices // 2 : n * slices : slices][:, :, :n]
        return Volume(image, grid), Segmentation(np.ascontiguousarray(labels), grid, label.labels)

    return changed


def cut(share: float) -> Change:
    """The first part along the second axis is missing."""

    def changed(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
        start = int(volume.geometry.shape[1] * share)
        affine = np.array(volume.geometry.affine)
        affine[:3, 3] = volume.geometry.to_mm((0, start, 0))
        image, labels = (np.ascontiguousarray(x.array[:, start:]) for x in (volume, label))
        grid = Geometry(affine, image.shape)
        return Volume(image, grid), Segmentation(labels, grid, label.labels)

    return changed


DAMAGES: dict[str, Change] = {
    "as it is": lambda volume, label: (volume, label),
    "turned by 20 degrees": turned(20),
    "turned by 35 degrees": turned(35),
    "slices of 4 mm": thick(4),
    "noise of 20 %": noisy(0.2),
    "blur of 2 voxels": blurred(2.0),
    "motion": ghosted(5, 0.5),
    "40 % cut off": cut(0.4),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--run", type=Path, required=True, help="folder with fold-0, fold-1 ...")
    parser.add_argument("--calibrated", default="hippocampus-mr", help="the model with calibration and training domain")
    parser.add_argument("--cases", type=int, default=8, help="of each fold")
    options = parser.parse_args()
    known = read_spec(options.calibrated)
    rows: dict[str, list[tuple[float, float, set[str]]]] = {what: [] for what in DAMAGES}
    for fold in sorted(options.run.glob("fold-*/")):
        names = json.loads((fold / "model" / "split.json").read_text())["validation"]
        predictor = Predictor(seen(load_model(fold / "model", device="cpu"), Range(low=0, high=0)))
        for name in names[:: max(1, len(names) // options.cases)][: options.cases]:
            volume = read_volume(options.data / "images" / f"{name}.nii.gz", modality="MR")
            label = read_segmentation(options.data / "labels" / f"{name}.nii.gz", labels=known.labels)
            for what, change in DAMAGES.items():
                image, truth = change(volume, label)
                rows[what] += judged(predictor, known, Volume(image.array, image.geometry, unit=volume.unit), truth)
    show(rows, torch.__version__)


def judged(
    predictor: Predictor, known: ModelSpec, image: Volume, truth: Segmentation
) -> list[tuple[float, float, set]]:
    """True Dice, predicted Dice and the flags for review, of each structure."""
    confidence = Confidence(predictor.spec)
    found = clean(predictor.run(predictor.prepare(image), confidence=confidence), predictor.spec.clean)
    predictions = {row.label: row for row in predict_dice(confidence.expected_dice(), known)}
    measurements = measure(found, image)
    _, oriented = reorientation(image.geometry, known.orientation)
    flags = [
        *flag_input(oriented, known),
        *flag_image(image, known.inputs[0].name, known.inputs[0].modality, known.training_domain),
        *flag_measurements(measurements, known),
        *flag_quality(tuple(predictions.values())),
    ]
    told = []
    for row in compare(prediction=found, reference=truth):
        codes = {f.code for f in flags if f.severity != "note" and f.label in (None, row.label)}
        predicted = predictions[row.label].predicted_dice if row.label in predictions else 0.0
        told.append((row.dice, predicted, codes))
    return told


def show(rows: dict[str, list[tuple[float, float, set[str]]]], version: str) -> None:
    """Print the tables."""
    print("| images | structures | Dice | predicted Dice | flagged for review | by the predicted Dice | other flags |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for what, told in rows.items():
        counts = Counter(code for _, _, codes in told for code in codes)
        own = counts.pop("low_predicted_dice", 0)
        others = ", ".join(f"{code} {n}" for code, n in counts.most_common()) or "none"
        dice, predicted = (statistics.fmean(row[place] for row in told) for place in (0, 1))
        n = sum(bool(codes) for *_, codes in told)
        print(f"| {what} | {len(told)} | {dice:.3f} | {predicted:.3f} | {n} | {own} | {others} |")
    everything = [row for told in rows.values() for row in told]
    dice, predicted = (np.array([row[place] for row in everything]) for place in (0, 1))
    worst = np.argsort(dice, kind="stable")[: max(1, round(len(dice) / 10))]
    lowest = set(np.argsort(predicted, kind="stable")[: round(len(dice) / 5)].tolist())
    caught = sum(bool(everything[place][2]) for place in worst)
    among = sum(int(place) in lowest for place in worst)
    rank = float(spearmanr(predicted, dice).statistic)
    print(f"\nAll {len(dice)}: rank correlation of predicted and true Dice {rank:.2f}; of the {len(worst)} in the")
    print(f"worst tenth {caught} are flagged for review, and {among} are in the fifth with the lowest predicted Dice.")
    print(f"torch {version}")


if __name__ == "__main__":
    main()
