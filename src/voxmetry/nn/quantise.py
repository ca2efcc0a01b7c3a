"""Quantise a network to 8 bits with NNCF, for OpenVINO: weights as they are, activations by what windows show."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from voxmetry.config import ModelSpec, WindowSpec
from voxmetry.errors import MissingExtraError, ModelError
from voxmetry.nn.openvino import convert, import_openvino, save_network
from voxmetry.nn.window import padded_windows

IN_FLOAT = ["MatMul", "Add", "Multiply", "Subtract", "Squeeze"]
"""Operations of `IntensityModel` that NNCF would quantise."""


def import_nncf() -> ModuleType:
    """Import NNCF with its usage telemetry off: nothing leaves this machine.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    # The package that sends telemetry is made to seem missing by the first; the second is NNCF's own way.
    import_openvino()
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError(
            found="NNCF, which is not installed",
            expected="it, to quantise a network; to run one in 8 bits nothing is needed",
            fix="pip install 'voxmetry[int8]'",
        ) from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    nncf.set_log_level(logging.ERROR)
    return nncf


def some_windows(image: torch.Tensor, window: WindowSpec, n: int) -> list[np.ndarray]:
    """Return windows of an image that hold more than one value, evenly spread over those that inference runs.

    Parameters
    ----------
    image
        (1, C, I, J, K) float32, prepared.
    window
        Patch and overlap.
    n
        How many, at most.

    Returns
    -------
    list of ndarray
        (1, C, *patch) float32 each.
    """
    telling = [patch for patch in padded_windows(image, window) if bool((patch[0] != patch[0].flatten()[0]).any())]
    kept = min(n, len(telling))
    places = [round(index * (len(telling) - 1) / max(1, kept - 1)) for index in range(kept)]
    return [telling[place][None].contiguous().numpy() for place in places]


def quantise_network(network: nn.Module, spec: ModelSpec, windows: Sequence[np.ndarray], path: Path) -> None:
    """Quantise one network, and write it.

    Weights and activations of convolutions become 8-bit integers (post-training quantisation: Jacob 2018, CVPR, 2704),
    all weights in the half of their range that no processor overflows on.

    Parameters
    ----------
    network
        In evaluation mode, on the CPU.
    spec
        The model.
    windows
        What it is calibrated on, (1, C, *patch) float32 each.
    path
        The new .xml; a .bin is written beside it.

    Raises
    ------
    MissingExtraError
        If NNCF is not installed.
    ModelError
        If OpenVINO or NNCF cannot take the network.
    """
    nncf = import_nncf()
    parameters = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    shape = (1, spec.n_channels, *spec.window.patch)
    with _in_words(spec.name), _silent():
        quantised = nncf.quantize(
            convert(network, shape, shape),
            nncf.Dataset(list(windows)),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(windows),
            advanced_parameters=parameters,
            # Sums and squares of intensities lose more by 8 bits than a convolution does.
            ignored_scope=nncf.IgnoredScope(types=IN_FLOAT if spec.intensity_model else [], validate=False),
        )
        if not n_quantised(quantised):
            raise RuntimeError("no operation of it was quantised")
        _name_in_order(quantised)
        save_network(quantised, path)


def _name_in_order(model: Any) -> None:
    """Name the operations of a converted network by their order, so that the same network makes the same file.

    OpenVINO counts them through all networks of a process.
    """
    model.set_friendly_name("network")
    for place, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(f"{node.get_type_name()}_{place}")


def n_quantised(model: Any) -> int:
    """Count the operations of a converted network whose values are brought to 8 bits."""
    return sum(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


@contextlib.contextmanager
def _in_words(name: str) -> Iterator[None]:
    """Turn what OpenVINO and NNCF raise over a network into words."""
    import nncf
    from openvino import frontend

    failures = (frontend.OpConversionFailure, frontend.NotImplementedFailure, frontend.GeneralFailure)
    try:
        yield
    except (RuntimeError, ValueError, TypeError, NotImplementedError, *failures, nncf.UnsupportedModelError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise ModelError(
            found=f"the network of {name}, which OpenVINO and NNCF cannot bring to 8 bits: {said}",
            expected="a network of operations that both know, such as convolutions of a fixed size",
            fix="run it without 8 bits: --fast (fast=True) takes fewer windows all the same",
        ) from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the bars that NNCF draws off standard output, which belongs to results."""
    kept = sys.stdout
    sys.stdout = io.StringIO()
    try:
        yield
    finally:
        sys.stdout = kept
