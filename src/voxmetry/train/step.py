"""One step of training: the loss of a batch, its gradients, and the average that follows the weights."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from voxmetry.config import TrainSettings
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.nn.device_memory import OutOfMemory, out_of_memory
from voxmetry.nn.networks.build import thing_classes
from voxmetry.nn.networks.dynunet import split_outputs
from voxmetry.train.batches import Batch
from voxmetry.train.clicks import with_simulated_clicks
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
) -> torch.Tensor:
    """Move the weights and their average by one step; return the loss, which nothing has waited for."""
    fabric, network = state.fabric, state.network
    network.train()
    # What is computed twice passes the hooks of DDP twice: the gradients are averaged here instead.
    own = settings.accumulate > 1 and fabric.world_size > 1
    with fabric.no_backward_sync(network, enabled=own):
        if batch.instances is not None:
            loss = instance_loss(state, settings, criterion, batch, step)
        else:
            loss = semantic_loss(state, settings, criterion, batch, step)
        state.optimiser.zero_grad(set_to_none=True)
        fabric.backward(loss)
    for parameter in network.parameters() if own else ():
        if parameter.grad is not None:
            parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
    fabric.clip_gradients(network, state.optimiser, max_norm=GRADIENT_CLIP, error_if_nonfinite=False)
    state.optimiser.step()
    # A short memory at first, so that the average forgets where the weights began.
    keep = min(settings.ema_decay, (1 + step) / (10 + step)) if settings.ema_decay else 0.0
    follow(state.averaged, network, keep)
    return loss.detach()


def require_finite(loss: torch.Tensor, step: int) -> float:
    """Return the loss of a step; on a GPU, wait for it.

    Raises
    ------
    InferenceError
        If it is no number.
    """
    value = float(loss)
    if not math.isfinite(value):
        raise InferenceError(
            found=f"a loss of {value} in step {step}",
            expected="a finite loss",
            fix="start a new run with a lower learning_rate, or with --precision float32 (precision: float32)",
        )
    return value


@contextlib.contextmanager
def memory_is_told(settings: TrainSettings, step: int) -> Iterator[None]:
    """Turn memory that runs out in a step into `InferenceError`, which says what takes less."""
    try:
        with out_of_memory():
            yield
    except OutOfMemory as error:
        more = 2 * settings.accumulate
        parts = f"accumulate: {more}" if settings.batch_size >= more else "a smaller batch_size or window.patch"
        raise InferenceError(
            found=f"no memory left in step {step} of training",
            expected=f"room for {settings.batch_size // settings.accumulate} patches of "
            f"{' x '.join(map(str, settings.model.window.patch))} voxels in the network",
            fix=f"end other programs that use this device; or start a new run with {parts}, or one that "
            "is planned for less --memory-gb",
        ) from error


def outputs_of(network: nn.Module, image: torch.Tensor, parts: int) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """Return what a network says of a batch, which passes it in so many parts.

    Of each part the output alone is kept; what its gradient needs is computed once more, part by part, when the
    gradient goes back. So a step holds the activations of one part, takes about a third longer, and is the step of the
    whole batch up to rounding: the Dice of a batch is not the mean of its parts'.
    """
    if parts == 1:
        found: torch.Tensor | tuple[torch.Tensor, ...] = network(image)
        return found
    pieces = [checkpoint(network, piece, use_reentrant=False) for piece in image.split(-(-len(image) // parts))]
    if isinstance(pieces[0], torch.Tensor):
        return torch.cat(pieces)
    return tuple(torch.cat(level) for level in zip(*pieces, strict=True))


def semantic_loss(
    state: RunState, settings: TrainSettings, criterion: nn.Module, batch: Batch, step: int
) -> torch.Tensor:
    """Return the loss of a network that returns scores, one output or several on coarser grids."""
    image, label = state.fabric.to_device((batch.image, batch.label))
    absent = state.fabric.to_device(batch.absent) if batch.absent is not None else None
    if settings.model.clicks is not None:
        if absent is not None:
            raise ConfigError(
                found="cases in which some structures were not looked for, and a model with clicks",
                expected="label maps that say everything: clicks are made where the network is wrong",
                fix="take these cases out of the data set, or leave model.clicks out",
            )
        seed = (settings.seed, step, state.fabric.global_rank)
        image = with_simulated_clicks(state.network, image, label, settings.model, seed)
    outputs = outputs_of(state.network, image, settings.accumulate)  # in the precision that the settings ask for
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
    means, now = [], []
    for mean, tensor in tensors:
        if mean.is_floating_point():
            means.append(mean)
            now.append(tensor)
        else:
            mean.copy_(tensor)
    torch._foreach_lerp_(means, now, 1 - keep)  # a few launches on a GPU for all of them
