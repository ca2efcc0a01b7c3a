"""Spacing, patch, batch and network of a plan: the largest that fit."""

from __future__ import annotations

import math

import numpy as np

from voxmetry.errors import ConfigError
from voxmetry.train.fingerprint import Fingerprint
from voxmetry.train.plan_instances import plan_mask_rcnn
from voxmetry.train.plan_memory import BASE_GB, Budget, Outputs, coarser_outputs, memory_gb

ANISOTROPIC = 3.0
SMALLEST_LEVEL = 4
MOST_LEVELS, MOST_CHANNELS = 6, 320
LEAST_VIEW = 0.03
"""Smallest share of a median image that one patch may see."""
MOST_VOXELS = {"cpu": 64**3, "cuda": 192**3}
"""Voxels of a patch, so that a step takes seconds on a processor."""


def median_spacing(fingerprint: Fingerprint, reasons: dict[str, str]) -> list[float]:
    """Return the median of the cases along each axis; finer along one whose slices are much thicker."""
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


def fit_patch(
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


def choose_batch(
    patch: list[int],
    levels: list[tuple[list[int], list[int]]],
    channels: list[int],
    outputs: Outputs,
    budget: Budget,
    reasons: dict[str, str],
) -> int:
    """Return the samples of a batch of all processes: 2 to 4 each, as many as fit."""
    strides = [stride for stride, _ in levels]
    batch = 2
    while batch < 4 and memory_gb(patch, strides, channels, batch + 1, outputs) <= budget.memory_gb:
        batch += 1
    each = f" for each of {budget.processes} processes" if budget.processes > 1 else ""
    reasons["batch_size"] = f"2 to 4{each}, as many as fit into {budget.memory_gb:g} GB"
    return batch * budget.processes


def describe_network(
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
