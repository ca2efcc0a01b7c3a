"""One step of training: the loss of a batch, its gradients, and the average that follows the weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import nn

from voxmetry.config import TrainSettings
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.networks.build import thing_classes
from voxmetry.nn.networks.dynunet import split_outputs
from voxmetry.train.batches import Batch
from voxmetry.train.losses import on_grid_of
from voxmetry.train.state import RunState

GRADIENT_CLIP = 12.0
"""Norm that gradients are clipped to; as nnU-Net's (Isensee 2021, doi 10.1038/s41592-020-01008-z)."""


def train_step(
    state: RunState,
    settings: TrainSettings,
    criterion: nn.Module,
    batch: Batch,
    step: int,
) -> float:
    """Move the weights and their average by one step; return the loss."""
    state.network.train()
    loss = instance_loss(state, settings, criterion, batch, step) if batch.instances is not None else None
    if loss is None:
        loss = semantic_loss(state, settings, criterion, batch)
    value = loss.item()
    if not math.isfinite(value):
        raise InferenceError(
            found=f"a loss of {value} in step {step}",
            expected="a finite loss",
            fix="lower learning_rate, or use --precision float32; the last checkpoint is kept",
        )
    state.optimiser.zero_grad(set_to_none=True)
    state.fabric.backward(loss)
    nn.utils.clip_grad_norm_(state.network.parameters(), GRADIENT_CLIP)
    state.optimiser.step()
    # A short memory at first, so that the average forgets where the weights began.
    keep = min(settings.ema_decay, (1 + step) / (10 + step)) if settings.ema_decay else 0.0
    follow(state.averaged, state.network, keep)
    return value


def semantic_loss(state: RunState, settings: TrainSettings, criterion: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the loss of a network that returns scores, one output or several on coarser grids."""
    image, label = state.fabric.to_device((batch.image, batch.label))
    absent = state.fabric.to_device(batch.absent) if batch.absent is not None else None
    outputs = state.network(image)  # in the precision that the settings ask for
    weighted = split_outputs(outputs, levels=settings.model.network.deep_supervision)
    parts = []
    for weight, output in reversed(weighted):  # the finest last, whose overlap the log is to have
        parts.append(weight * criterion(output.float(), *on_grid_of(output, label, absent)))
    return torch.stack(parts).sum()


def instance_loss(
    state: RunState, settings: TrainSettings, criterion: nn.Module, batch: Batch, step: int
) -> torch.Tensor:
    """Return the loss of a network that tells instances apart; see `instance_losses`."""
    from voxmetry.train.instance_losses import InstanceLoss, targets_of

    image, label, instances = state.fabric.to_device((batch.image, batch.label, batch.instances))
    if batch.absent is not None:
        raise ConfigError(
            found="cases in which some structures were not looked for, and a network of kind 'maskrcnn'",
            expected="label maps that say everything: what was not drawn would be learnt as not there",
            fix="take these cases out of the data set, or train a network of kind 'dynunet'",
        )
    targets = targets_of(instances, label, thing_classes(settings.model))
    seed = int(np.random.SeedSequence([settings.seed, step, state.fabric.global_rank]).generate_state(1)[0])
    learn = InstanceLoss(targets, criterion, label, seed=seed)
    loss: torch.Tensor = state.network(image, learn)
    return loss


@torch.no_grad()
def follow(averaged: nn.Module, network: nn.Module, keep: float) -> None:
    """Move an exponential moving average in place: of each weight, `keep` stays and the rest is the network's.

    Each tensor moves once, under however many names a network holds it (DynUNet: two for most).
    """
    tensors = zip(
        itertools.chain(averaged.parameters(), averaged.buffers()),
        itertools.chain(network.parameters(), network.buffers()),
        strict=True,
    )
    for mean, now in tensors:
        if mean.is_floating_point():
            mean.lerp_(now, 1 - keep)
        else:
            mean.copy_(now)
