"""The training run, from top to bottom.

A run folder holds `settings.yaml`, `starts.json` (device and precision), `cases.json`, `split.json`, `checkpoint.pt`
(renewed after each epoch), `log.csv`, and at the end `model/`. Batches follow from the seed and the epoch alone and the
learning rate from the step alone, so a run that was killed continues from its last whole epoch to the weights that it
would have had.

Under `torchrun` each process goes through these same lines with its share of each batch; the first one alone writes.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from voxmetry.config import ModelSpec, TrainSettings
from voxmetry.errors import ConfigError, InferenceError
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.measurement.overlap import Overlap
from voxmetry.nn.networks.build import thing_classes
from voxmetry.nn.networks.dynunet import split_outputs
from voxmetry.nn.runtime import choose_for_training
from voxmetry.nn.window import window_scores
from voxmetry.train.batches import Batch, ahead
from voxmetry.train.cache import cached_cases, default_cache
from voxmetry.train.cases import DataSet
from voxmetry.train.dataset import require_structures
from voxmetry.train.devices import gather, open_fabric
from voxmetry.train.feed import CaseFeed, Feed, open_made
from voxmetry.train.finish import write_model
from voxmetry.train.folds import all_folds, chosen_on, hold_out
from voxmetry.train.initial_bias import set_initial_bias
from voxmetry.train.join import open_joined
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.losses import build_loss, on_grid_of
from voxmetry.train.state import (
    RunState,
    begin,
    begun_in,
    load_checkpoint,
    log_row,
    note_start,
    require_same_cases,
    require_unseen,
    save_checkpoint,
    start_folder,
)

GRADIENT_CLIP = 12.0
"""Norm that gradients are clipped to; as nnU-Net's (Isensee 2021, doi 10.1038/s41592-020-01008-z)."""


Watcher: TypeAlias = Callable[[Path, dict[str, float]], None]
"""Called after each epoch with the run folder and the epoch's row of the log, when both it and the checkpoint stand."""


def train(
    settings: TrainSettings,
    out: Path,
    *,
    data: Path | Sequence[Path] | DataSet,
    resume: bool = False,
    device: str = "cpu",
    cache: Path | None = None,
    watchers: Sequence[Watcher] = (),
    max_minutes: float | None = None,
    locate: Callable[[str], Path] = Path,
) -> Path:
    """Train a model and write its folder.

    Parameters
    ----------
    settings
        The run.
    out
        The run folder.
    data
        A data set, as `open_data` takes it, several that are joined, or one that was opened.
    resume
        Continue from the checkpoint in `out`; without one, start.
    device
        "cpu" or "cuda".
    cache
        Folder of prepared cases, which runs may share; None is `cache` beside the folds of a run, or in `out`.
    watchers
        Called after each epoch, in the first process.
    max_minutes
        End after the epoch in which so many minutes have passed, validation and those before a resumption counted in,
        and write the model. The learning rate falls to its end by then. A later call with more minutes, or none, goes
        on from there; such a run is not repeated bit for bit, as the clock decides its learning rate.
    locate
        Finds the paths of the block `synthesis`.

    Returns
    -------
    Path
        The model folder, `out`/model.

    Raises
    ------
    VoxmetryError
        If a case cannot be used, before the first step; if `out` holds another run; if the loss is no longer finite.
    """
    choice = choose_for_training(device, settings.precision, begun_in=begun_in(out) if resume else None)
    fabric = open_fabric(settings, choice)
    first, console = fabric.is_global_zero, Console(stderr=True, markup=False, emoji=False)
    found = data if isinstance(data, DataSet) else open_joined(data)
    names = hold_out(found, settings)
    require_unseen(settings, names[1])
    if first:
        start_folder(settings, out, resume=resume)
        note_start(choice, fabric.world_size, out)
        console.print(f"training on {choice}", highlight=False)
    state = begin(settings, fabric, tell=console.print if first else None)
    started = resume and load_checkpoint(state, out / "checkpoint.pt")
    table: dict[str, dict[str, float]] | None = None
    with progress_bars(shown=first) as progress:
        track = partial(progress.track, description="read and prepare")
        made = settings.synthesis is not None
        read = found.select(names[1]) if made else found
        cases = cached_cases(
            read, settings.model, make_folder(cache or default_cache(settings, out)), fabric=fabric, track=track
        )
        if not made:
            require_structures(all_folds(found, settings), {name: case.volume_ml for name, case in cases.items()})
        if first:
            require_same_cases({name: case.source for name, case in cases.items()}, out)
            write_text(out / "split.json", json.dumps({"training": names[0], "validation": names[1]}, indent=1))
        validation = [cases[name] for name in names[1]]
        feed: Feed = (
            open_made(settings, found, names[0], locate=locate, device=fabric.device)
            if made
            else CaseFeed([cases[name] for name in names[0]], settings)
        )
        if not started and settings.initial_bias == "frequency":
            set_initial_bias(state, feed.shares())
        clock = Clock(state, max_minutes)
        bar = progress.add_task("train", total=settings.epochs * feed.steps, completed=state.epoch * feed.steps)
        while state.epoch < settings.epochs and not clock.is_over:
            table = None
            row = run_epoch(state, settings, feed, lambda: progress.advance(bar), clock=clock)
            last = state.epoch == settings.epochs or clock.is_over
            if validation and (state.epoch % settings.validate_every == 0 or last):
                table = validate_together(state, validation, settings.model)
                row |= {f"dice_{name}": round(mean_dice(table, name), 4) for name in settings.model.labels.names}
            clock.note()
            if first:
                note_epoch(state, row, out, watchers, say=progress.console.print)
    if table is None:  # resumed after the last epoch, which validates like any that is due
        table = validate_together(state, validation, settings.model)
    if first:
        write_model(
            state.averaged,
            settings,
            out,
            feed=feed,
            validation=table,
            patients=found.patients,
            chosen_on=chosen_on(found, settings),
        )
    fabric.barrier()
    return out / "model"


def note_epoch(
    state: RunState, row: dict[str, float], out: Path, watchers: Sequence[Watcher], *, say: Callable[[str], None]
) -> None:
    """Say an epoch's row of the log, write it and the checkpoint, and call those who watch."""
    shown = {key: value for key, value in row.items() if not key.startswith("overlap_")}
    say("  ".join(f"{key} {value:g}" for key, value in shown.items()))
    log_row(row, out / "log.csv")
    save_checkpoint(state, out / "checkpoint.pt")
    for watch in watchers:
        watch(out, row)


class Clock:
    """How far a run is: by its steps, or by the minutes that it may take, whichever is further.

    Of several processes the first one's clock counts for all: they end together, and learn at one rate.

    Parameters
    ----------
    state
        The run; `state.seconds` are those of its epochs that are done, validation included.
    max_minutes
        None: the steps alone decide.
    """

    def __init__(self, state: RunState, max_minutes: float | None) -> None:
        self.state, self.limit = state, None if max_minutes is None else 60 * max_minutes
        self.began = time.perf_counter()

    def note(self) -> None:
        """Count what has passed since the last time into the run's seconds."""
        now = time.perf_counter()
        self.state.seconds = self._of_the_first(self.state.seconds + now - self.began)
        self.began = now

    @property
    def is_over(self) -> bool:
        """Whether what was counted took all the time that there was."""
        return self.limit is not None and self.state.seconds >= self.limit

    def share(self, step: int, total: int) -> float:
        """Return the share of the run that is behind it, 0 to 1."""
        by_steps = step / total
        if self.limit is None:
            return by_steps
        spent = self.state.seconds + time.perf_counter() - self.began
        return self._of_the_first(min(1.0, max(by_steps, spent / self.limit if self.limit else 1.0)))

    def _of_the_first(self, value: float) -> float:
        fabric = self.state.fabric
        return float(fabric.broadcast(value)) if fabric.world_size > 1 else value


def run_epoch(
    state: RunState, settings: TrainSettings, feed: Feed, tick: Callable[[], None], *, clock: Clock
) -> dict[str, float]:
    """Show one epoch's batches to the network.

    Returns
    -------
    dict
        The log's row: loss, rate, seconds in all and spent on data, and as overlap_NAME how well each structure is met
        in the training batches (soft Dice, or Tversky's index).
    """
    fabric, began, waited, losses, overlaps = state.fabric, time.perf_counter(), 0.0, [], []
    steps = feed.steps
    criterion = build_loss(settings.loss)
    waiting = ahead(feed.batches(state.epoch, (fabric.global_rank, fabric.world_size)))
    for place in range(steps):
        asked = time.perf_counter()
        batch = next(waiting)
        waited += time.perf_counter() - asked
        step = state.epoch * steps + place
        share = clock.share(step, settings.epochs * steps)
        rate = learning_rate(share * settings.epochs * steps, settings.epochs * steps, settings.learning_rate)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        losses.append(train_step(state, settings, criterion, batch, step))
        if criterion.overlap is not None:
            overlaps.append(criterion.overlap.cpu().numpy())
        tick()
    state.epoch += 1
    seconds = time.perf_counter() - began
    clock.note()
    return {
        "epoch": state.epoch,
        "loss": round(float(fabric.all_reduce(torch.tensor(np.mean(losses)), reduce_op="mean")), 5),
        "learning_rate": round(rate, 8),
        "seconds": round(seconds, 2),
        "seconds_data": round(waited, 2),
        **_mean_overlaps(overlaps, settings.model.labels.names),
    }


def _mean_overlaps(overlaps: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, float]:
    """Mean of each structure over the steps that had it."""
    found = {}
    for place, name in enumerate(names if len(overlaps) else ()):
        values = np.array([row[place] for row in overlaps])
        values = values[~np.isnan(values)]
        found[f"overlap_{name}"] = round(float(values.mean()), 4) if len(values) else math.nan
    return found


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


def learning_rate(step: float, total: int, peak: float) -> float:
    """One cycle: a cosine rise over the first tenth from peak / 25, then a cosine fall towards peak / 10,000.

    Smith and Topin 2017, arXiv 1708.07120. A function of the step alone, so that nothing needs to be resumed.

    Examples
    --------
    >>> [round(learning_rate(step, 100, 1.0), 4) for step in (0, 10, 99)]
    [0.04, 1.0, 0.0004]
    """
    rise = max(1, total // 10)
    if step < rise:
        low, share = peak / 25, step / rise
        return low + (peak - low) * (1 - math.cos(math.pi * share)) / 2
    low, share = peak / 10_000, (step - rise) / max(1, total - rise)
    return low + (peak - low) * (1 + math.cos(math.pi * share)) / 2


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


def progress_bars(*, shown: bool) -> Progress:
    """Bars with count, time spent and time left, on stderr so that a pipe carries results only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, emoji=False),
        disable=not shown,
    )
