"""The last layer's first bias: each class as likely as it is, before anything is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from voxmetry.train.labelled_cases import LabelledCase
    from voxmetry.train.state import RunState

LEAST_SHARE = 1e-6
"""A class of fewer voxels starts as if it had these."""


def class_shares(cases: Sequence[LabelledCase], n_classes: int) -> np.ndarray:
    """Return the share of each class among the voxels where it was looked for, (classes,), with the sum 1.

    The background's is what the others leave.
    """
    inside, looked_at = np.zeros(n_classes), np.zeros(n_classes)
    for case in cases:
        counts = np.bincount(case.label[0].ravel(), minlength=n_classes)[:n_classes]
        rows = np.bincount(case.label[1].ravel()) if len(case.label) > 1 else np.array([counts.sum()])
        absent = case.absent[: len(rows)] if len(case.absent) else np.zeros((len(rows), n_classes), bool)
        looked_at += (rows[:, None] * ~absent).sum(0)
        inside += counts
    shares = np.maximum(inside / np.maximum(looked_at, 1), LEAST_SHARE)
    shares[0] = max(LEAST_SHARE, 1 - shares[1:].sum())
    found: np.ndarray = shares / shares.sum()
    return found


@torch.no_grad()
def set_initial_bias(state: RunState, shares: np.ndarray) -> None:
    """Set the bias of each output layer to the logarithm of the classes' shares, in the network and in its average."""
    for network in (state.network, state.averaged):
        for layer in output_layers(network):
            if layer.bias is not None:
                repeats = layer.bias.numel() // len(shares)
                bias = torch.as_tensor(np.log(shares), dtype=layer.bias.dtype, device=layer.bias.device)
                layer.bias.copy_(bias.repeat_interleave(repeats))


def output_layers(network: nn.Module) -> list[nn.Conv3d]:
    """Return the layers that make the scores: the last one and those of the coarser levels."""
    return [
        module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d) and any(part in name for part in ("output_block", "deep_supervision_heads"))
    ]
