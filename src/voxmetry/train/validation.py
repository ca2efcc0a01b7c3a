"""How well a network does on held-out cases while it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn

from voxmetry.config import ModelSpec
from voxmetry.measurement.overlap import Overlap
from voxmetry.nn.window import stream_scores
from voxmetry.train.devices import gather
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.state import RunState


def validate_together(state: RunState, cases: Sequence[LabelledCase], spec: ModelSpec) -> dict[str, dict[str, float]]:
    """Validate the averaged weights, each process its share of the cases; each gets the whole table."""
    fabric = state.fabric
    mine = cases[fabric.global_rank :: fabric.world_size]
    return gather(fabric, validate(state.averaged, mine, spec, str(fabric.device), autocast=fabric.autocast))


def validate(
    network: nn.Module,
    cases: Sequence[LabelledCase],
    spec: ModelSpec,
    device: str,
    *,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> dict[str, dict[str, float]]:
    """Dice of each structure for each case on the model's grid, before post-processing: {case: {structure: Dice}}.

    A structure counts where it was looked for. One that neither the label nor the network has there, or that was looked
    for nowhere, is nan.
    """
    network.eval()
    table: dict[str, dict[str, float]] = {}
    for case in cases:
        found, truth = classes_of(network, case, spec, device, autocast), case.label[0]
        rows = np.zeros_like(truth) if len(case.label) == 1 else case.label[1]
        table[case.name] = {}
        for index, name in enumerate(spec.labels.names, start=1):
            known = True if not len(case.absent) else ~case.absent[:, index][rows]
            overlap = Overlap.of_masks(prediction=(found == index) & known, reference=(truth == index) & known)
            table[case.name][name] = overlap.dice if np.any(known) else math.nan
    return table


@torch.inference_mode()
def classes_of(
    network: nn.Module,
    case: LabelledCase,
    spec: ModelSpec,
    device: str,
    autocast: Callable[[], AbstractContextManager[object]],
) -> np.ndarray:
    """Return the class of each voxel of a case (I, J, K), chosen slab by slab: no scores of the whole case are held."""

    def run(patches: torch.Tensor) -> torch.Tensor:
        with autocast():
            scores: torch.Tensor = network(patches)
        return scores.float()

    image = torch.from_numpy(np.array(case.image[None], dtype=np.float32)).to(device)
    parts, axis = [], 0
    for slab in stream_scores(run, image, spec.window, n_outputs=spec.n_classes):
        axis = slab.axis
        sums = slab.sums.narrow(axis + 1, slab.fresh - slab.start, slab.stop - slab.fresh)
        # Sums of weighted scores; a voxel's weight is the same for each class.
        parts.append(sums.argmax(0).to(torch.uint8).cpu())
    return torch.cat(parts, axis).numpy()


def mean_dice(table: dict[str, dict[str, float]], name: str) -> float:
    """Mean over the cases of a table that have the structure; nan if none has."""
    values = [row[name] for row in table.values() if not math.isnan(row[name])]
    return float(np.mean(values)) if values else math.nan
