"""How well a network does on held-out cases while it is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.measurement.overlap import Overlap
from voxmetry.nn.window import window_scores
from voxmetry.train.devices import gather
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.state import RunState


def validate_together(state: RunState, cases: Sequence[LabelledCase], spec: ModelSpec) -> dict[str, dict[str, float]]:
    """Validate the averaged weights, each process its share of the cases; each gets the whole table."""
    fabric = state.fabric
    mine = cases[fabric.global_rank :: fabric.world_size]
    return gather(fabric, validate(state.averaged, mine, spec, str(fabric.device)))


def validate(
    network: nn.Module, cases: Sequence[LabelledCase], spec: ModelSpec, device: str
) -> dict[str, dict[str, float]]:
    """Dice of each structure for each case on the model's grid, before post-processing: {case: {structure: Dice}}.

    A structure counts where it was looked for. One that neither the label nor the network has there, or that was looked
    for nowhere, is nan.
    """
    network.eval()
    table: dict[str, dict[str, float]] = {}
    for case in cases:
        scores = window_scores(network, torch.from_numpy(np.array(case.image[None])).to(device), spec.window)
        found, truth = scores[0].argmax(0).cpu().numpy(), case.label[0]
        rows = np.zeros_like(truth) if len(case.label) == 1 else case.label[1]
        table[case.name] = {}
        for index, name in enumerate(spec.labels.names, start=1):
            known = True if not len(case.absent) else ~case.absent[:, index][rows]
            overlap = Overlap.of_masks(prediction=(found == index) & known, reference=(truth == index) & known)
            table[case.name][name] = overlap.dice if np.any(known) else math.nan
    return table


def mean_dice(table: dict[str, dict[str, float]], name: str) -> float:
    """Mean over the cases of a table that have the structure; nan if none has."""
    values = [row[name] for row in table.values() if not math.isnan(row[name])]
    return float(np.mean(values)) if values else math.nan
