"""Labelled cases on disk, small enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import models
import phantoms
from voxmetry import Geometry, Segmentation, Volume, save
from voxmetry.config import TrainSettings, parse_record


def train_settings(**change: object) -> TrainSettings:
    """Settings of a run of seconds on the cases of `write_cases`."""
    content = {
        "model": models.spec().model_dump(mode="json"),
        "data": "unused",
        "epochs": 3,
        "batch_size": 2,
        "validation_fraction": 0.4,
        "ema_decay": 0.5,
        "seed": 7,
    }
    return parse_record(content | change, TrainSettings, where="test")


def write_cases(folder: Path, count: int = 5, *, seed: int = 0) -> Path:
    """Write noise with a bright box that the label marks, on grids like that of the tiny model."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        shape = (18 + number, 24, 8 + number % 3)
        grid = Geometry(phantoms.geometry(spacing_mm=(1.0, 1.2, 2.5)).affine, shape)
        label = np.zeros(shape, np.uint8)
        label[4:9, 6:14, 2:5] = 2
        label[9:13, 6:14, 2:5] = 7
        image = rng.normal(100, 10, shape) + 60.0 * (label == 2) + 120.0 * (label == 7)
        for part, thing in (
            ("images", Volume(image.astype(np.float32), grid)),
            ("labels", Segmentation(label, grid, models.spec().labels)),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
            save(thing, folder / part / f"case_{number}.nii.gz")
    return folder
