"""A model that is ready to run: specification, checked weights, runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from voxmetry.config import ModelSpec, Weights, load_yaml
from voxmetry.errors import ModelError
from voxmetry.models import find_model
from voxmetry.nn.networks import build_network
from voxmetry.nn.runtime import build_runtime, choose_device
from voxmetry.nn.weights import load_into


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to run.

    Parameters
    ----------
    spec
        What it takes and returns.
    weights
        File and SHA-256 of its parameters, which were checked.
    run
        Patches (B, C, I, J, K) float32 on `tensor_device` -> logits (B, n_classes, I, J, K).
    device
        What it runs on, as it is reported: "cpu", "cuda" or "openvino".
    """

    spec: ModelSpec
    weights: Weights
    run: Callable[[torch.Tensor], torch.Tensor]
    device: str

    @property
    def tensor_device(self) -> str:
        """Where torch tensors for `run` must be."""
        return "cuda" if self.device == "cuda" else "cpu"


def load_model(name: str | Path, *, device: str = "auto") -> Model:
    """Load a model and check its weights.

    Parameters
    ----------
    name
        A bundled model's name or a model folder.
    device
        "auto" (CUDA where there is a device, else the CPU), "cpu", "cuda" or "openvino".

    Raises
    ------
    ModelError
        If the folder, the specification or the weights cannot be used, or the checksum differs.
    ConfigError
        If model.yaml has an unknown, missing or unusable key.
    InferenceError
        If the device is not there.
    """
    folder = find_model(name)
    spec = load_yaml(folder / "model.yaml", ModelSpec)
    if spec.weights is None:
        raise ModelError(
            found=f"{folder.name}/model.yaml names no weights",
            expected="`weights` with `file` and `sha256`",
            fix="train it first: voxmetry train",
        )
    network = build_network(spec)
    load_into(network, folder / spec.weights.file, sha256=spec.weights.sha256)
    network.eval()
    chosen = choose_device(device)
    return Model(spec, spec.weights, build_runtime(network, spec, chosen), chosen)
