"""Where a network runs: torch on the CPU or on CUDA, or OpenVINO."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.errors import ConfigError, InferenceError

DEVICES = ("auto", "cpu", "cuda", "openvino")


def choose_device(requested: str) -> str:
    """Turn "auto" into what there is: CUDA if torch finds a device, else the CPU.

    Raises
    ------
    ConfigError
        If the name is unknown.
    InferenceError
        If CUDA is asked for and there is none.

    Examples
    --------
    >>> choose_device("cpu")
    'cpu'
    """
    if requested not in DEVICES:
        raise ConfigError(
            found=f"device {requested!r}", expected=f"one of {', '.join(DEVICES)}", fix="name one of these"
        )
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda" and not torch.cuda.is_available():
        raise InferenceError(
            found="no CUDA device, or a torch without CUDA",
            expected="a CUDA device that torch can use",
            fix="use --device cpu, or install a CUDA build of torch and its driver",
        )
    return requested


def build_runtime(network: nn.Module, spec: ModelSpec, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the network as a function of a batch of patches, on one of the chosen devices, in float32."""
    if device == "openvino":
        return _openvino(network, spec)
    network.to(device)
    return network


def _openvino(network: nn.Module, spec: ModelSpec) -> Callable[[torch.Tensor], torch.Tensor]:
    import openvino

    example = torch.zeros(1, len(spec.inputs), *spec.window.patch)
    with warnings.catch_warnings():
        # OpenVINO converts by way of torch.jit.trace, which warns of its deprecation and of fixed shapes.
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(network, example_input=example)
    converted.reshape([-1, len(spec.inputs), *spec.window.patch])
    compiled = openvino.Core().compile_model(
        converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    )

    def run(patches: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(compiled(patches.numpy())[0])

    return run
