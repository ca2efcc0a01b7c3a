"""A tiny model with random weights: enough to send volumes through every step that does not depend on training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from voxmetry.config import ModelSpec, Range, Weights, dump_yaml, parse_record
from voxmetry.nn.model import Model
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import sha256_of, to_bytes


def spec(**change: object) -> ModelSpec:
    """Three levels, a patch of 16 x 24 x 8, a grid of 1.0 x 1.2 x 2.5 mm, labels 2 and 7."""
    content = {
        "name": "tiny-mr",
        "version": "0.0.1",
        "summary": "Random weights for tests",
        "licence": "Apache-2.0",
        "body_part": "phantom",
        "inputs": [{"name": "t1", "modality": "MR", "normalise": {"method": "zscore"}}],
        "orientation": "RAS",
        "spacing_mm": [1.0, 1.2, 2.5],
        "window": {"patch": [16, 24, 8], "overlap": 0.5},
        "network": {
            "channels": [4, 8, 8],
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
        },
        "labels": {
            "labels": [
                {"value": 2, "name": "front", "colour": "#E69F00"},
                {"value": 7, "name": "back", "colour": "#56B4E9", "kind": "lesion"},
            ]
        },
        "training_domain": {
            "spacing_mm": [{"low": 0.8, "high": 1.2}, {"low": 1.0, "high": 1.4}, {"low": 2.0, "high": 3.0}],
            "field_of_view_mm": [{"low": 5, "high": 50}, {"low": 5, "high": 50}, {"low": 5, "high": 50}],
            "volume_ml": {"front": {"low": 0.1, "high": 50.0}},
        },
    }
    return parse_record(content | change, ModelSpec, where="test")


def write(folder: Path, *, seed: int = 0, **change: object) -> Path:
    """Write a model folder with weights from `seed`."""
    torch.manual_seed(seed)
    made = spec(**change)
    network = build_network(made)
    data = to_bytes(network)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(data)
    finished = made.model_copy(update={"weights": Weights(sha256=sha256_of(data))})
    (folder / "model.yaml").write_text(dump_yaml(finished), encoding="utf-8")
    return folder


def span(low: float, high: float) -> Range:
    """A range, for expected volumes."""
    return Range(low=low, high=high)


def replace(model: Model, **change: object) -> Model:
    """The same model with another specification or other members."""
    return dataclasses.replace(model, **change)
