"""From a fingerprint to the settings of a run, with the reason for each choice.

The rules follow nnU-Net (Isensee 2021, doi 10.1038/s41592-020-01008-z) where no other source is named: median spacing,
strides until a level is 4 voxels wide, intensities by modality. What differs is said in the reason itself.
"""

from __future__ import annotations

import math
import re
import textwrap
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from voxmetry.config import TrainSettings, dump_yaml, parse_record
from voxmetry.core.labels import LabelTable
from voxmetry.core.volume import ONLY_CT_BELOW_HU
from voxmetry.errors import ConfigError
from voxmetry.train.cases import DataSet
from voxmetry.train.fingerprint import ChannelFacts, Fingerprint, with_labels
from voxmetry.train.plan_instances import plan_mask_rcnn

NetworkChoice: TypeAlias = Literal["auto", "dynunet", "fcn", "maskrcnn"]

VALUES_PER_VOXEL = 20
"""Values of four bytes that a step keeps for each voxel and channel of a level: 11 to 14 were
measured for five networks in bf16, and 17 to 24 for three in float32; with `BASE_GB`, 20 gave an estimate above the
measured peak for all eight."""
CLASS_VALUES, CLASS_VALUES_A_LEVEL = 6, 3
"""Values of four bytes that the loss keeps for each voxel and class, and for each coarser output beside: 5.0 and 2.1
were counted among the tensors of a step that live at once, and the process held up to 1.35 times as much."""
PARTIAL_CLASS_VALUES, PARTIAL_CLASS_VALUES_A_LEVEL = 8, 5
"""The same where label maps leave structures open: 6.5 and 3.8 were counted."""
BASE_GB = 0.6
"""What the process takes before the first step."""
ANISOTROPIC = 3.0
SMALLEST_LEVEL = 4
MOST_LEVELS, MOST_CHANNELS = 6, 320
LEAST_VIEW = 0.03
"""Smallest share of a median image that one patch may see."""
STEPS = {"cpu": 3000, "cuda": 25_000}
MOST_VOXELS = {"cpu": 64**3, "cuda": 192**3}
"""Voxels of a patch, so that a step takes seconds on a processor."""


@dataclass(frozen=True)
class Budget:
    """What a run may take.

    Parameters
    ----------
    memory_gb
        Memory for training, in 10^9 bytes.
    device
        "cpu" or "cuda": decides how many steps are affordable.
    epochs
        None lets the number of steps decide.
    modalities
        Modality of each channel, where neither files nor names say it.
    processes
        Processes that share a batch, each with this memory.
    network
        "dynunet", "fcn" or "maskrcnn"; "auto": the last where the label maps tell instances apart, else the first.
    """

    memory_gb: float = 4.0
    device: str = "cpu"
    epochs: int | None = None
    modalities: tuple[str, ...] | None = None
    processes: int = 1
    network: NetworkChoice = "auto"


@dataclass(frozen=True)
class Outputs:
    """What the loss is taken of.

    Parameters
    ----------
    classes
        With the background.
    partial
        Whether label maps leave structures open.
    """

    classes: int
    partial: bool = False

    def values(self, levels: int) -> int:
        """Return the values that a voxel takes in the loss of a network of so many levels."""
        first, beside = CLASS_VALUES, CLASS_VALUES_A_LEVEL
        if self.partial:
            first, beside = PARTIAL_CLASS_VALUES, PARTIAL_CLASS_VALUES_A_LEVEL
        return self.classes * (first + beside * coarser_outputs(levels))


def coarser_outputs(levels: int) -> int:
    """Return how many coarser outputs take part in the loss of a network of so many levels."""
    return min(2, max(0, levels - 3))


@dataclass(frozen=True)
class TrainingPlan:
    """Settings, and by dotted key why they are as they are."""

    settings: TrainSettings
    reasons: dict[str, str]

    def to_yaml(self) -> str:
        """Return the settings as YAML that `load_yaml` reads, the reasons as comments above their keys."""
        lines: list[str] = []
        path: list[tuple[int, str]] = []
        for line in dump_yaml(self.settings).splitlines():
            found = re.match(r"( *)([a-z_]+):", line)
            if found:
                depth = len(found[1])
                path = [*(part for part in path if part[0] < depth), (depth, found[2])]
                reason = self.reasons.get(".".join(key for _, key in path))
                if reason:
                    lines += textwrap.wrap(
                        reason, 110, initial_indent=f"{found[1]}# ", subsequent_indent=f"{found[1]}# "
                    )
            lines.append(line)
        return "\n".join(lines) + "\n"


def make_plan(
    fingerprint: Fingerprint, named: DataSet, *, data: str | tuple[str, ...], budget: Budget = Budget()
) -> TrainingPlan:
    """Choose everything that a run needs.

    Parameters
    ----------
    fingerprint
        The data set in numbers.
    named
        The data set with its label table, as `scan` returns it.
    data
        Where it lies; written into the settings.
    budget
        Memory, device, epochs.

    Raises
    ------
    ConfigError
        If no patch fits into the memory, a channel's modality neither is known nor follows from its values, or the
        network does not fit the data set.

    Notes
    -----
    The model's axes are R, A, S.
    """
    reasons: dict[str, str] = {}
    labels = with_labels(named).labels or LabelTable(labels=())
    inputs = [_input(channel, place, budget, reasons) for place, channel in enumerate(fingerprint.channels)]
    spacing = _spacing(fingerprint, reasons)
    width = 32 if budget.memory_gb >= 8 else 16
    outputs = Outputs(len(labels) + 1, partial=any(case.labelling.is_partial for case in named.cases))
    spacing, patch, levels = _fit(fingerprint, spacing, width, outputs, budget, reasons)
    channels = [min(MOST_CHANNELS, width * 2**level) for level in range(len(levels))]
    batch = _batch(patch, levels, channels, outputs, budget, reasons)
    shape = [max(1, round(e / s)) for e, s in zip(fingerprint.extent_mm, spacing, strict=True)]
    content: dict[str, object] = {
        "data": data,
        "epochs": _epochs(fingerprint, batch, budget, reasons),
        "batch_size": batch,
        "ema_decay": 0.98,
        "precision": "auto",
        "augment": {"flip_axes": _flips(labels, reasons)},
        "model": {
            "name": fingerprint.name,
            "version": "0.1.0",
            "summary": f"{', '.join(labels.names[:4])} in {' and '.join(i['modality'] for i in inputs)}",
            "licence": "as the training data allows",
            "body_part": "not stated",
            "inputs": inputs,
            "spacing_mm": [round(value, 4) for value in spacing],
            "window": {"patch": patch, "overlap": 0.5},
            "network": _network(fingerprint, spacing, levels, channels, budget, reasons),
            "labels": labels.model_dump(mode="json"),
            "training_domain": {
                "spacing_mm": [{"low": low, "high": high} for low, high in fingerprint.spacing_range_mm],
                "field_of_view_mm": [{"low": low, "high": high} for low, high in fingerprint.extent_range_mm],
            },
        },
    }
    content |= _sampling(fingerprint, patch, shape, reasons)
    reasons["precision"] = "bf16 where the processor multiplies it, else float32; the memory is planned for float32"
    reasons["model.training_domain"] = "measured; measured again on the training cases when the run ends"
    return TrainingPlan(parse_record(content, TrainSettings, where="the plan"), reasons)


def _network(
    fingerprint: Fingerprint,
    spacing: list[float],
    levels: list[tuple[list[int], list[int]]],
    channels: list[int],
    budget: Budget,
    reasons: dict[str, str],
) -> dict[str, object]:
    """Describe the network: levels as they were chosen, and what else its kind asks for."""
    things = [row for row in fingerprint.structures if row.boxes_mm]
    kind = budget.network if budget.network != "auto" else ("maskrcnn" if things else "dynunet")
    strides = [stride for stride, _ in levels]
    if kind == "dynunet":
        reasons["model.network.deep_supervision"] = (
            "two coarser outputs take part in the loss where there are levels for it"
        )
        deep = coarser_outputs(len(levels))
        return {
            "channels": channels,
            "strides": strides,
            "kernels": [kernel for _, kernel in levels],
            "deep_supervision": deep,
        }
    if kind == "fcn":
        if len(levels) < 4:
            raise ConfigError(
                found=f"a patch with {len(levels)} levels for a network of kind 'fcn'",
                expected="four levels or more, of which the last three make the scores",
                fix="raise --memory-gb, or take --network dynunet",
            )
        reasons["model.network.kind"] = "as it was asked for; its last three levels make the scores"
        return {"kind": "fcn", "channels": channels, "strides": strides}
    return plan_mask_rcnn(things, spacing, levels, channels, reasons)


def memory_gb(patch: list[int], strides: list[list[int]], channels: list[int], batch: int, outputs: Outputs) -> float:
    """Estimate what one training step takes in 10^9 bytes.

    Activations of each level and the loss of each class, in float32, and the base.

    Examples
    --------
    >>> levels = [[1] * 3, [2] * 3, [2] * 3, [2] * 3], [16, 32, 64, 128]
    >>> [round(memory_gb([48, 48, 48], *levels, 2, Outputs(classes)), 2) for classes in (3, 105)]
    [1.0, 1.81]
    """
    voxels = math.prod(patch)
    values = voxels * outputs.values(len(strides)) / VALUES_PER_VOXEL
    for stride, channel in zip(strides, channels, strict=True):
        voxels //= math.prod(stride)
        values += voxels * channel
    return BASE_GB + 4e-9 * VALUES_PER_VOXEL * batch * values


def _input(channel: ChannelFacts, place: int, budget: Budget, reasons: dict[str, str]) -> dict[str, Any]:
    modality, why = _modality(channel, place, budget)
    low, median, high = channel.foreground_percentiles
    spread = f"0.5th to 99.5th percentile inside the structures ({low:.4g} to {high:.4g}, median {median:.4g})"
    if modality == "CT":
        normalise: dict[str, object] = {
            "method": "window",
            "low": round(low, 2),
            "high": round(high, 2),
            "mean": round(channel.foreground_mean, 3),
            "sd": round(max(channel.foreground_sd, 1e-3), 3),
        }
        how = f"Hounsfield units mean the same in each scan: clip to the {spread}, minus their mean, by their SD"
    elif modality == "PT":
        normalise = {
            "method": "window",
            "low": 0.0,
            "high": round(high, 3),
            "mean": round(channel.foreground_mean, 4),
            "sd": round(max(channel.foreground_sd, 1e-3), 4),
        }
        how = f"uptake has a natural zero: clip to 0 and the 99.5th percentile inside the structures ({high:.4g})"
    else:
        nonzero = channel.share_zero > 0.25
        normalise = {"method": "zscore", "nonzero": nonzero}
        how = "MR values have no unit: mean 0 and SD 1 in each image" + (
            f", of the voxels that are not 0 ({channel.share_zero:.0%} are)" if nonzero else ""
        )
    reasons["model.inputs"] = "; ".join(filter(None, [reasons.get("model.inputs"), f"{channel.name}: {why}; {how}"]))
    return {"name": channel.name, "modality": modality, "normalise": normalise}


def _modality(channel: ChannelFacts, place: int, budget: Budget) -> tuple[str, str]:
    if budget.modalities:
        if place >= len(budget.modalities):
            raise ConfigError(
                found=f"{len(budget.modalities)} modalities and more channels",
                expected="one modality for each channel, in their order",
                fix="repeat --modality",
            )
        return budget.modalities[place], f"{budget.modalities[place]}, as it was given"
    if channel.modality:
        return channel.modality, f"{channel.modality}, as the data set says"
    if channel.minimum < ONLY_CT_BELOW_HU:
        return "CT", f"CT, because values go down to {channel.minimum:g}"
    if channel.unit in ("SUVbw", "Bq/mL"):
        return "PT", f"PT, because the unit is {channel.unit}"
    return "MR", f"MR, because nothing says what it is and no value is below {ONLY_CT_BELOW_HU:g} (--modality sets it)"


def _spacing(fingerprint: Fingerprint, reasons: dict[str, str]) -> list[float]:
    spacing = list(fingerprint.spacing_mm)
    coarsest = int(np.argmax(spacing))
    others = [value for axis, value in enumerate(spacing) if axis != coarsest]
    reasons["model.spacing_mm"] = "the median of the cases along each axis"
    if spacing[coarsest] > ANISOTROPIC * max(others):
        spacing[coarsest] = max(fingerprint.fine_spacing_mm[coarsest], max(others))
        reasons["model.spacing_mm"] += (
            f"; along {'RAS'[coarsest]} the 10th percentile, because slices are thicker than "
            f"{ANISOTROPIC:g} times the other axes"
        )
    return spacing


def _fit(
    fingerprint: Fingerprint,
    spacing: list[float],
    width: int,
    outputs: Outputs,
    budget: Budget,
    reasons: dict[str, str],
) -> tuple[list[float], list[int], list[tuple[list[int], list[int]]]]:
    """Find the largest patch that fits; where it sees too little of an image, coarsen the finest axes."""
    native = list(spacing)
    while True:
        shape = [max(SMALLEST_LEVEL, round(e / s)) for e, s in zip(fingerprint.extent_mm, spacing, strict=True)]
        patch, levels = _patch(shape, spacing, width, outputs, budget)
        seen = math.prod(min(p, n) for p, n in zip(patch, shape, strict=True)) / math.prod(shape)
        if seen >= LEAST_VIEW:
            break
        finest = min(spacing)
        spacing = [max(value, finest * 1.1) for value in spacing]
    if spacing != native:
        reasons["model.spacing_mm"] += (
            f" ({', '.join(f'{value:.3g}' for value in native)} mm), coarsened until a patch that fits sees "
            f"{LEAST_VIEW:.0%} of a median image; more --memory-gb keeps it finer"
        )
    channels = [min(MOST_CHANNELS, width * 2**level) for level in range(len(levels))]
    estimate = memory_gb(patch, [stride for stride, _ in levels], channels, 2, outputs)
    reasons["model.window"] = (
        f"the largest patch, at most the median image ({' x '.join(map(str, shape))} voxels), whose step of two takes "
        f"no more than {budget.memory_gb:g} GB (estimated {estimate:.2g}), with at most {MOST_VOXELS[budget.device]} "
        f"voxels on {budget.device}; a multiple of the strides; it sees "
        f"{seen:.0%} of a median image"
    )
    reasons["model.network"] = (
        f"{len(levels)} levels: an axis is halved while {SMALLEST_LEVEL} voxels are left and its spacing is within "
        f"twice the finest; kernels are 1 across slices that are thicker; {width} channels at the top "
        f"{'because' if width > 16 else 'below'} 8 GB"
        + (" are there" if width > 16 else "")
        + f", doubled with each level; {outputs.classes} classes with the background"
    )
    return spacing, patch, levels


def _patch(
    shape: list[int], spacing: list[float], width: int, outputs: Outputs, budget: Budget
) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    wanted = [float(size) for size in shape]
    while True:
        levels = _levels([max(SMALLEST_LEVEL, round(size)) for size in wanted], spacing)
        divisor = [math.prod(stride[axis] for stride, _ in levels) for axis in range(3)]
        patch = [max(1, math.ceil(size / d - 1e-9)) * d for size, d in zip(wanted, divisor, strict=True)]
        channels = [min(MOST_CHANNELS, width * 2**level) for level in range(len(levels))]
        needed = memory_gb(patch, [stride for stride, _ in levels], channels, 2, outputs)
        if needed <= budget.memory_gb and math.prod(patch) <= MOST_VOXELS[budget.device]:
            return patch, levels
        longest = int(np.argmax([size * step for size, step in zip(wanted, spacing, strict=True)]))
        wanted[longest] *= 0.9
        if max(wanted) < 2 * SMALLEST_LEVEL:
            raise ConfigError(
                found=f"{budget.memory_gb:g} GB for training",
                expected=f"more than {BASE_GB:g} GB, of which the program itself takes most",
                fix="raise --memory-gb",
            )


def _levels(shape: list[int], spacing: list[float]) -> list[tuple[list[int], list[int]]]:
    """Strides and kernels of each level, from full resolution down; three levels at least."""
    size, step = list(shape), list(spacing)
    levels = [([1, 1, 1], [3 if s <= 2 * min(step) else 1 for s in step])]
    while len(levels) < MOST_LEVELS:
        halve = [n >= 2 * SMALLEST_LEVEL and s <= 2 * min(step) for n, s in zip(size, step, strict=True)]
        if not any(halve):
            break
        stride = [2 if half else 1 for half in halve]
        size = [math.ceil(n / k) for n, k in zip(size, stride, strict=True)]
        step = [s * k for s, k in zip(step, stride, strict=True)]
        levels.append((stride, [3 if s <= 2 * min(step) else 1 for s in step]))
    while len(levels) < 3:
        levels.append(([1, 1, 1], [3, 3, 3]))
    return levels


def _batch(
    patch: list[int],
    levels: list[tuple[list[int], list[int]]],
    channels: list[int],
    outputs: Outputs,
    budget: Budget,
    reasons: dict[str, str],
) -> int:
    strides = [stride for stride, _ in levels]
    batch = 2
    while batch < 4 and memory_gb(patch, strides, channels, batch + 1, outputs) <= budget.memory_gb:
        batch += 1
    each = f" for each of {budget.processes} processes" if budget.processes > 1 else ""
    reasons["batch_size"] = f"2 to 4{each}, as many as fit into {budget.memory_gb:g} GB"
    return batch * budget.processes


def _epochs(fingerprint: Fingerprint, batch: int, budget: Budget, reasons: dict[str, str]) -> int:
    if budget.epochs is not None:
        reasons["epochs"] = "as it was asked for"
        return budget.epochs
    steps = max(1, math.ceil(0.8 * fingerprint.n_cases / batch))
    epochs = min(1000, max(50, math.ceil(STEPS[budget.device] / steps)))
    reasons["epochs"] = f"about {STEPS[budget.device]} steps on {budget.device}, at {steps} an epoch; 50 to 1000 epochs"
    return epochs


def _flips(labels: LabelTable, reasons: dict[str, str]) -> list[int]:
    sided = [
        label.name
        for label in labels
        if label.laterality or re.search(r"(^|[_\W])(left|right|l|r)($|[_\W])", label.name)
    ]
    reasons["augment"] = (
        f"no mirror image, because {sided[0]} has a side"
        if sided
        else "mirror images from left to right, because no structure has a side"
    )
    return [] if sided else [0]


def _sampling(
    fingerprint: Fingerprint, patch: list[int], shape: list[int], reasons: dict[str, str]
) -> dict[str, object]:
    """How patches are placed: where they hold a whole image anywhere, else round structures, rare ones as often."""
    if all(p >= n for p, n in zip(patch, shape, strict=True)):
        reasons["foreground_fraction"] = "0, because a patch holds a whole median image"
        fraction = 0.0
    else:
        rarest = min(fingerprint.structures, key=lambda row: row.share)
        fraction = 0.5 if rarest.share < 1e-3 else 0.33
        reasons["foreground_fraction"] = (
            f"this share of the patches is centred on a structure, each structure of the case as often as the others; "
            f"the rarest ({rarest.name}) fills {rarest.share:.2%} of its images"
        )
    smallest = min(fingerprint.structures, key=lambda row: row.share)
    loss = "tversky" if smallest.share < 1e-4 else "dice_ce"
    reasons["loss"] = (
        f"Tversky, because {smallest.name} fills less than 0.01 % of its images: a missed voxel weighs more"
        if loss == "tversky"
        else "Dice and cross-entropy"
    )
    return {"foreground_fraction": fraction, "loss": loss}
