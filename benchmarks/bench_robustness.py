"""Dice of a hippocampus model on held-out cases that were changed in ways that should not matter.

    python benchmarks/bench_robustness.py ../shared/data/hippocampus-mr --model RUNS/hippocampus-mr/fold-0/model

Labels follow each change of the grid by nearest neighbour, which costs some Dice by itself: the last columns are the
Dice of the label that went onto the changed grid and back with itself. Images follow by cubic splines: linear
interpolation would blur, as no scanner does. Where a turned grid reaches beyond the image, the value at its edge is
held: a scanner would have found more of the head there. Rows "as stored" are the same model without
`training_domain.obliqueness_degrees`, which then takes a turned grid for a turned head.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from bench_hippocampus import held_out
from voxmetry import (
    Geometry,
    Segmentation,
    Volume,
    compare,
    load_model,
    read_segmentation,
    read_volume,
    resample,
    segment,
)
from voxmetry.config import Range
from voxmetry.nn import Model

Change = Callable[[Volume, Segmentation], tuple[Volume, Segmentation]]


def onto(grid: Callable[[Geometry], Geometry]) -> Change:
    """Resample image and label onto another grid over the same region."""

    def change(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
        target = grid(volume.geometry)
        return resample(volume, to=target, interpolation="cubic"), resample(label, to=target)

    return change


def turned(degrees: float) -> Change:
    """Resample image and label onto the grid turned about the patient's x and z axes through its middle."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])

    def change(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
        old = volume.geometry
        affine = np.array(old.affine)
        middle = (np.array(old.shape) - 1) / 2
        affine[:3, :3] = turn @ old.affine[:3, :3]
        affine[:3, 3] = old.to_mm(middle) - affine[:3, :3] @ middle
        target = Geometry(affine, old.shape)
        at = old.to_ijk(target.to_mm(np.moveaxis(np.indices(old.shape), 0, -1)))
        array = map_coordinates(volume.array.astype(np.float32), np.moveaxis(at, -1, 0), order=3, mode="nearest")
        return Volume(array, target, volume.unit), resample(label, to=target)

    return change


def spaced(spacing_mm: float) -> Callable[[Geometry], Geometry]:
    """Voxels of another size, the same middle."""

    def grid(old: Geometry) -> Geometry:
        affine = np.array(old.affine)
        affine[:3, :3] = old.directions * spacing_mm
        shape = tuple(max(1, round(extent / spacing_mm)) for extent in old.extent_mm)
        affine[:3, 3] = old.to_mm((np.array(old.shape) - 1) / 2) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        return Geometry(affine, shape)

    return grid


def scaled(factor: float) -> Change:
    """Intensities times a factor."""
    return lambda volume, label: (Volume(volume.array.astype(np.float32) * factor, volume.geometry), label)


def stored_otherwise(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
    """The same voxels at the same places with other axes."""
    old = volume.geometry
    affine = np.array(old.affine)[:, [1, 2, 0, 3]]
    affine[:3, 3] += affine[:3, 0] * (old.shape[1] - 1)
    affine[:3, 0] *= -1
    grid = Geometry(affine, (old.shape[1], old.shape[2], old.shape[0]))
    image, labels = (np.ascontiguousarray(np.transpose(x.array, (1, 2, 0))[::-1]) for x in (volume, label))
    return Volume(image, grid), Segmentation(labels, grid, label.labels)


def mirrored(volume: Volume, label: Segmentation) -> tuple[Volume, Segmentation]:
    """The other side: left and right exchanged."""
    image, labels = (np.ascontiguousarray(x.array[::-1]) for x in (volume, label))
    return Volume(image, volume.geometry), Segmentation(labels, label.geometry, label.labels)


CHANGES: dict[str, Change] = {
    "as it is": lambda volume, label: (volume, label),
    "intensities x 0.1": scaled(0.1),
    "intensities x 100": scaled(100.0),
    "stored with other axes": stored_otherwise,
    "left and right exchanged": mirrored,
    "resampled to 1.5 mm": onto(spaced(1.5)),
    "resampled to 0.7 mm": onto(spaced(0.7)),
    "grid turned by 10 degrees": turned(10),
    "grid turned by 10 degrees, as stored": turned(10),
    "grid turned by 20 degrees": turned(20),
    "grid turned by 20 degrees, as stored": turned(20),
    "grid turned by 35 degrees": turned(35),
    "grid turned by 35 degrees, as stored": turned(35),
}


def seen(model: Model, turned: Range | None) -> Model:
    """The same model, that knows of images turned so far; this data set has none that is turned."""
    domain = model.spec.training_domain.model_copy(update={"obliqueness_degrees": turned})
    return replace(model, spec=model.spec.model_copy(update={"training_domain": domain}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--model", required=True, help="model folder of a fold")
    parser.add_argument("--cases", type=int, default=40)
    arguments = parser.parse_args()
    names = held_out(arguments.model)[: arguments.cases]
    model = load_model(arguments.model)
    labels = model.spec.labels
    as_stored, upright = seen(model, None), seen(model, Range(low=0, high=0))
    print(f"{len(names)} held-out cases, mean Dice\n")
    heads = [*labels.names, *(f"{name}, label there and back" for name in labels.names)]
    print(f"| change | {' | '.join(heads)} |\n| --- |{' --- |' * len(heads)}")
    for what, change in CHANGES.items():
        dice: dict[str, list[float]] = {name: [] for name in heads}
        for name in names:
            volume = read_volume(arguments.data / "images" / f"{name}.nii.gz")
            label = read_segmentation(arguments.data / "labels" / f"{name}.nii.gz", labels=labels)
            image, truth = change(volume, label)
            for row in compare(
                prediction=segment(image, as_stored if "as stored" in what else upright), reference=truth
            ):
                dice[row.label].append(row.dice)
            back = truth if truth.geometry.is_same(label.geometry) else resample(truth, to=label.geometry)
            same = label if what != "left and right exchanged" else truth
            for row in compare(prediction=back, reference=same):
                dice[f"{row.label}, label there and back"].append(row.dice)
        print(f"| {what} | {' | '.join(f'{statistics.fmean(values):.4f}' for values in dice.values())} |", flush=True)


if __name__ == "__main__":
    main()
