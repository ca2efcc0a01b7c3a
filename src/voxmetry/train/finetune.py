"""Start from another model: what fits is carried over, by the names of inputs and structures; the rest starts anew."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from voxmetry.config import ModelSpec, TrainSettings, parse_record
from voxmetry.errors import ConfigError, ModelError
from voxmetry.models import find_model, read_spec
from voxmetry.nn.networks.build import build_network
from voxmetry.nn.weights import distinct_tensors, load_into

_HEADS = ("output_block", "deep_supervision_heads")
_FIRST = "input_block"
_TAKES_INPUT = re.compile(r"^input_block\.conv[13]\.")
"""The layers of a DynUNet that the input goes into."""
_WRAPPED = re.compile(r"^(network\.){0,2}(unet\.)?")
"""What stands before the names of a DynUNet's tensors where clicks or blocks of voxels are put into it."""
LEARNING_RATE_SHARE = 0.5
"""A fine-tuning run's peak learning rate, as a share of the one from random weights."""


@dataclass(frozen=True)
class CarriedOver:
    """What a run took from the model that it starts from.

    Parameters
    ----------
    model
        Its name.
    n_tensors, n_of
        Tensors that were taken in full, and tensors of the new network.
    inputs, structures
        Names that were found in both, whose channels were taken.
    new_inputs, new_structures
        Names that only the new model has, and 'clicks'; they start from nothing.
    left
        Tensors that were not taken, because their shape is another.
    """

    model: str
    n_tensors: int
    n_of: int
    inputs: tuple[str, ...]
    structures: tuple[str, ...]
    new_inputs: tuple[str, ...]
    new_structures: tuple[str, ...]
    left: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"from {self.model}: {self.n_tensors} of {self.n_of} tensors as they are"]
        lines.append(f"  carried over: inputs {_some(self.inputs)}; structures {_some(self.structures)}")
        lines.append(f"  started anew: inputs {_some(self.new_inputs)}; structures {_some(self.new_structures)}")
        if self.left:
            lines.append(f"  of another shape, started anew: {_some(self.left)}")
        return "\n".join(lines)


def carry_over(network: nn.Module, spec: ModelSpec, name: str | Path) -> CarriedOver:
    """Fill a network with what fits of another model's weights.

    Parameters
    ----------
    network
        The new network, of `spec`, with random weights; it is changed.
    spec
        What it is to be.
    name
        The model to start from: a bundled one's name or a folder.

    Returns
    -------
    CarriedOver
        What was taken and what was not. Where the new network has finer levels on top of those of the old one, the
        levels that see voxels of the same size are carried over, and the first and the last layers start anew. An input
        is the same where it has the same name, or where both models have one input of the same modality; a structure,
        where it has the same name. Weights of a new input are 0 at first, so that the network starts as if the input
        were not there; so are those of clicks, where only the new one has them.

    Raises
    ------
    ModelError
        If the model is missing, damaged, an ensemble, or no tensor of it fits.
    """
    folder = find_model(name)
    source = read_spec(folder)
    if source.weights is None or source.members > 1 or source.regions:
        raise ModelError(
            found=f"{source.name}, " + ("which has no weights" if source.weights is None else "an ensemble or regions"),
            expected="a model of one network with one output a structure",
            fix="start from one of its members, or from another model",
        )
    if spec.network.kind != "dynunet" and source.labels.names != spec.labels.names:
        raise ModelError(
            found=f"structures {', '.join(source.labels.names)} in {source.name}",
            expected=f"those of {spec.name}, in this order: {', '.join(spec.labels.names)}; only a network of kind "
            "'dynunet' starts from a model of other structures",
            fix="start from another model, or from random weights",
        )
    old = build_network(source)
    load_into(old, folder / source.weights.file, sha256=source.weights.sha256)
    have, want = _unwrapped(distinct_tensors(old)), _unwrapped(distinct_tensors(network))
    inputs, structures = _match_inputs(source, spec), _match_structures(source, spec)
    channels = _match_channels(source, spec, inputs, structures)
    finer = _finer_levels(source, spec)
    if finer:
        have, inputs, structures, channels = _moved_down(have, finer), {}, {}, _Channels({}, 0, 0)
    voxels = math.prod(_block(source))
    whole, kernels, left = 0, 0, []
    with torch.no_grad():
        for key, tensor in want.items():
            taken = _take(key, have.get(key), tensor, channels, structures, voxels)
            whole += taken == "whole"
            kernels += taken == "whole" and tensor.ndim > 1
            left += [key] if taken == "nothing" else []
    if kernels == 0:
        raise ModelError(
            found=f"no weights of {source.name} fit the network of {spec.name}",
            expected="the same channels and kernels on at least one level",
            fix="take the network of the model that you start from, or train from random weights",
        )
    return CarriedOver(
        model=source.name,
        n_tensors=whole,
        n_of=len(want),
        inputs=tuple(item.name for place, item in enumerate(spec.inputs) if place in inputs),
        structures=tuple(item.name for place, item in enumerate(spec.labels, start=1) if place in structures),
        new_inputs=(
            *(item.name for place, item in enumerate(spec.inputs) if place not in inputs),
            *(["clicks"] if spec.clicks is not None and source.clicks is None else []),
        ),
        new_structures=tuple(item.name for place, item in enumerate(spec.labels, start=1) if place not in structures),
        left=tuple(left),
    )


def _block(spec: ModelSpec) -> tuple[int, ...]:
    return getattr(spec.network, "space_to_depth", (1, 1, 1))


def _finer_levels(source: ModelSpec, spec: ModelSpec) -> int:
    """Count the levels that a new network has above those of an old one.

    Raises
    ------
    ModelError
        If the voxels that their levels see differ, and no whole number of levels lies between.
    """
    old, new = source.network, spec.network
    if _block(source) == _block(spec):
        return 0
    # Only a DynUNet takes blocks of voxels as channels.
    finer = len(getattr(new, "channels", ())) - len(getattr(old, "channels", ()))
    if finer > 0 and new.kind == old.kind == "dynunet" and new.strides[finer + 1 :] == old.strides[1:]:
        steps = [math.prod(stride[axis] for stride in new.strides[1 : finer + 1]) for axis in range(3)]
        seen = [block * step for block, step in zip(_block(spec), steps, strict=True)]
        if tuple(seen) == tuple(_block(source)):
            return finer
    raise ModelError(
        found=f"space_to_depth {list(_block(source))} in {source.name} and {list(_block(spec))} in {spec.name}",
        expected="the same in both, as the channels of the first and the last layer mean it, or finer levels above "
        "those of the old network, whose strides lead to its blocks",
        fix="take the network of the model that you start from, or put levels above it",
    )


def _moved_down(have: dict[str, torch.Tensor], finer: int) -> dict[str, torch.Tensor]:
    """Name the tensors of a DynUNet as they are called below `finer` further levels, without those of its ends.

    The way up is counted from the bottom, so its names stay. The first layer and the heads see and give other voxels.
    """
    moved = {}
    for key, tensor in have.items():
        first, _, rest = key.partition(".")
        if first in _HEADS or key.startswith((f"{_FIRST}.conv1.conv", f"{_FIRST}.conv3.conv")):
            continue
        if first == _FIRST:
            key = f"downsamples.{finer - 1}.{rest}"
        elif first == "downsamples":
            place, _, rest = rest.partition(".")
            key = f"downsamples.{int(place) + finer}.{rest}"
        moved[key] = tensor
    return moved


@dataclass(frozen=True)
class _Channels:
    """The old network's input channel for each of the new one that has one; how many both have."""

    taken: dict[int, int]
    n_old: int
    n_new: int


def _take(
    key: str,
    old: torch.Tensor | None,
    new: torch.Tensor,
    inputs: _Channels,
    structures: dict[int, int],
    voxels: int,
) -> str:
    """Copy into `new` what fits: 'whole', 'part' or 'nothing'. Inputs and outputs have `voxels` channels each."""
    if old is None:
        return "nothing"
    if any(part in key for part in _HEADS) and old.shape[1:] == new.shape[1:]:
        for place, source in structures.items():
            new[place * voxels : (place + 1) * voxels] = old[source * voxels : (source + 1) * voxels]
        return "whole" if len(structures) * voxels == new.shape[0] == old.shape[0] else "part"
    if _takes_input(key, old, new, inputs, voxels):
        new.zero_()
        for place, source in inputs.taken.items():
            new[:, place * voxels : (place + 1) * voxels] = old[:, source * voxels : (source + 1) * voxels]
        return "whole" if len(inputs.taken) == inputs.n_new == inputs.n_old else "part"
    if old.shape != new.shape:
        return "nothing"
    new.copy_(old)
    return "whole"


def _takes_input(key: str, old: torch.Tensor, new: torch.Tensor, inputs: _Channels, voxels: int) -> bool:
    """Whether a tensor is the weights of a layer that the input goes into, in both networks."""
    if old.ndim < 3 or old.shape[0] != new.shape[0] or old.shape[2:] != new.shape[2:]:
        return False
    if (old.shape[1], new.shape[1]) != (inputs.n_old * voxels, inputs.n_new * voxels):
        return False
    # Of one architecture, nothing but such a layer has another width where the inputs are more or fewer.
    return inputs.n_old != inputs.n_new or _TAKES_INPUT.match(key) is not None


def _unwrapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {_WRAPPED.sub("", key, count=1): tensor for key, tensor in tensors.items()}


def _match_channels(
    source: ModelSpec, spec: ModelSpec, inputs: dict[int, int], structures: dict[int, int]
) -> _Channels:
    """Match images by input, and clicks by the structure that they are about."""
    counts = [one.n_channels + (one.n_classes if one.clicks is not None else 0) for one in (source, spec)]
    clicks = {}
    if source.clicks is not None and spec.clicks is not None:
        clicks = {spec.n_channels + place: source.n_channels + old for place, old in structures.items()}
    return _Channels(inputs | clicks, *counts)


def _match_inputs(source: ModelSpec, spec: ModelSpec) -> dict[int, int]:
    """Place of the old input by place of the new one."""
    found = {}
    for place, item in enumerate(spec.inputs):
        named = [i for i, other in enumerate(source.inputs) if other.name == item.name]
        same = [i for i, other in enumerate(source.inputs) if other.modality == item.modality]
        alone = sum(other.modality == item.modality for other in spec.inputs) == 1
        if named:
            found[place] = named[0]
        elif len(same) == 1 and alone:
            found[place] = same[0]
    return found


def _match_structures(source: ModelSpec, spec: ModelSpec) -> dict[int, int]:
    """Output of the old network by output of the new one; the background is the same in both."""
    old = {label.name: place for place, label in enumerate(source.labels, start=1)}
    return {0: 0} | {place: old[label.name] for place, label in enumerate(spec.labels, start=1) if label.name in old}


def settings_from(planned: TrainSettings, name: str | Path) -> TrainSettings:
    """Return planned settings that start from a model: with its grid, patch and network, and what the data set has.

    Raises
    ------
    ConfigError
        If the two together make no model.
    ModelError
        If there is no such model.
    """
    source = read_spec(name)
    if source.network.kind == "nnunet":
        raise ConfigError(
            found=f"{source.name}, a network of kind {source.network.kind}",
            expected="a model of a kind that is trained here: dynunet, maskrcnn, fcn or monai",
            fix="start from another model",
        )
    places = _match_inputs(source, planned.model)
    inputs = [
        item.model_copy(update={"normalise": source.inputs[places[place]].normalise}) if place in places else item
        for place, item in enumerate(planned.model.inputs)
    ]
    window, own = source.window, planned.model.window
    if planned.model.labels.misnamed(window.swap_on_mirror):
        # Its two sides are not all structures here; those that change places with nothing would be mixed.
        window = window.model_copy(update={"mirror_axes": own.mirror_axes, "swap_on_mirror": own.swap_on_mirror})
    model = planned.model.model_copy(
        update={
            "orientation": source.orientation,
            "spacing_mm": source.spacing_mm,
            "window": window,
            "network": source.network,
            "inputs": tuple(inputs),
            "clicks": source.clicks,
        }
    )
    content = planned.model_dump(mode="json") | {
        "model": model.model_dump(mode="json", exclude_none=True),
        "start_from": str(name),
        "learning_rate": planned.learning_rate * LEARNING_RATE_SHARE,
    }
    return parse_record(content, TrainSettings, where=f"the plan with {source.name}")


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:6])
    return (shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")) or "none"
