"""Networks in 8 bits by OpenVINO: whether a model runs so, and the runtimes that run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from voxmetry.config import MaskRcnnNetwork, ModelSpec
from voxmetry.models.eight_bits import EightBits, file_names, read_eight_bits
from voxmetry.nn.openvino import StoredRuntime, openvino_has_bf16
from voxmetry.nn.runtime import Runtime, RuntimeChoice


def why_never_eight_bits(spec: ModelSpec) -> str:
    """Say why a model cannot run in 8 bits at all; "" where it can."""
    if isinstance(spec.network, MaskRcnnNetwork):
        return "a network of kind 'maskrcnn' runs in torch alone: how many boxes it has follows from the image"
    if spec.clicks is not None:
        return "a network that takes clicks runs in torch alone"
    if spec.previous is not None:
        return "the second network of a cascade takes labels of the first, which calibration does not have"
    return ""


def find_eight_bits(
    spec: ModelSpec, folder: Path, choice: RuntimeChoice, precision: str
) -> tuple[EightBits | None, str]:
    """Return the networks in 8 bits that a fast run of a model takes, or None and why it takes none.

    Parameters
    ----------
    spec, folder
        The model.
    choice
        Where it would run otherwise.
    precision
        What was asked for; anything but "auto" is kept to.

    Raises
    ------
    ModelError
        If networks in 8 bits lie with the model and cannot be used, see `read_eight_bits`.
    """
    never = why_never_eight_bits(spec)
    if never:
        return None, never
    if choice.device not in ("cpu", "openvino"):
        return None, f"8 bits are for processors, and this is {choice.device}"
    if precision != "auto":
        return None, f"{precision} was asked for"
    if choice.execution != "eager":
        return None, f"execution {choice.execution} was asked for"
    made = read_eight_bits(folder, spec)
    if made is None:
        return None, f"none are stored with {spec.name}: voxmetry models quantise MODEL STUDY makes them, once"
    return made, ""


def in_eight_bits(choice: RuntimeChoice) -> RuntimeChoice:
    """Return the choice of a processor with the network in 8 bits."""
    why = f"{choice.why}; fast: 8 bits, the rest in {_rest()}"
    return replace(choice, device="openvino", precision="int8", why=why)


def stored_members(spec: ModelSpec, folder: Path, made: EightBits) -> tuple[Runtime, ...]:
    """Return one runtime for each network in 8 bits that lies in a folder.

    Parameters
    ----------
    spec
        The model, whose files were found to belong to it.
    folder
        Where its files lie.
    made
        What is said of them.
    """
    shape = (1, spec.n_channels, *spec.window.patch)
    names = file_names(spec)
    pairs = zip(names[::2], names[1::2], strict=True)
    return tuple(
        StoredRuntime(folder / xml, f"{made.files[data]} {made.files[xml]}", shape=shape, precision=_rest())
        for data, xml in pairs
    )


def _rest() -> str:
    """Return the precision of what is not in 8 bits."""
    return "bf16" if openvino_has_bf16() else "float32"
