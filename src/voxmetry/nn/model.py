"""A model that is ready to run: specification, checked weights, runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from voxmetry.config import ModelSpec, Weights, load_yaml
from voxmetry.errors import ModelError
from voxmetry.models import find_model
from voxmetry.nn.memory import NetworkCost, known_cost
from voxmetry.nn.networks import Ensemble, build_network
from voxmetry.nn.runtime import Choice, Runtime, build_runtime, choose_runtime
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
    members
        One runtime for each network of the ensemble, mostly one: patches (B, C, I, J, K) float32 on `tensor_device`
        to logits (B, n_classes, I, J, K).
    choice
        Where and in which precision they run, and why.
    cost
        Operations and memory of one window.
    """

    spec: ModelSpec
    weights: Weights
    members: tuple[Runtime, ...]
    choice: Choice
    cost: NetworkCost

    @property
    def device(self) -> str:
        """What it runs on, as it is reported: "cpu", "cuda", "mps" or "openvino"."""
        return self.choice.device

    @property
    def tensor_device(self) -> str:
        """Where torch tensors for the members must be."""
        return self.choice.tensor_device


def load_model(name: str | Path, *, device: str = "auto", precision: str = "auto", execution: str = "eager") -> Model:
    """Load a model and check its weights.

    Parameters
    ----------
    name
        A bundled model's name or a model folder.
    device
        "auto" (a GPU where there is one, else OpenVINO for a large network and torch for a small one), "cpu", "cuda",
        "mps" or "openvino".
    precision
        "auto" (the fastest that the device computes and that keeps the answer, see docs/performance.md), "float32",
        "bf16" or "fp16".
    execution
        "eager", "compile" (torch's compiler: CPU and CUDA) or "graph" (a CUDA graph).

    Raises
    ------
    ModelError
        If the folder, the specification or the weights cannot be used, or the checksum differs.
    ConfigError
        If model.yaml has an unknown, missing or unusable key, or the device lacks the precision or the execution.
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
    networks = list(network.members) if isinstance(network, Ensemble) else [network]
    cost = known_cost(networks[0], spec)
    choice = choose_runtime(device, precision, gflop=cost.gflop, execution=execution)
    return Model(spec, spec.weights, tuple(build_runtime(one, spec, choice) for one in networks), choice, cost)
