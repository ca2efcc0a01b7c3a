"""The training run, from top to bottom.

A run folder holds `settings.yaml`, `starts.json` (device and precision), `cases.json`, `split.json`, `checkpoint.pt`
(renewed after each epoch), `log.csv`, and at the end `model/`. Batches follow from the seed and the epoch alone and the
learning rate from the step alone, so a run that was killed continues from its last whole epoch to the weights that it
would have had.

Under `torchrun` each process goes through these same lines with its share of each batch; the first one alone writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from voxmetry.config import TrainSettings
from voxmetry.io import output_folder
from voxmetry.io.atomic import make_folder, write_text
from voxmetry.nn.runtime import choose_for_training
from voxmetry.train.batches import ahead
from voxmetry.train.cache import cached_cases, default_cache
from voxmetry.train.cases import Case, DataSet
from voxmetry.train.dataset import require_structures
from voxmetry.train.devices import open_fabric
from voxmetry.train.feed import CaseFeed, Feed, open_made
from voxmetry.train.finish import write_model
from voxmetry.train.folds import all_folds, chosen_on, hold_out, require_apart
from voxmetry.train.initial_bias import set_initial_bias
from voxmetry.train.join import open_joined
from voxmetry.train.labelled_cases import LabelledCase
from voxmetry.train.losses import build_loss
from voxmetry.train.run_settings import keep_places, start_folder
from voxmetry.train.schedule import Clock, learning_rate
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
)
from voxmetry.train.step import memory_is_told, require_finite, train_step
from voxmetry.train.validation import mean_dice, validate_together

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
    output_folder.require_apart(out, found.folders)
    names = hold_out(found, settings)
    require_unseen(settings, names[1])
    if first:
        start_folder(settings, out, resume=resume, data=data, locate=locate)
        note_start(choice, fabric.world_size, out)
        console.print(f"training on {choice}", highlight=False)
    state = begin(settings, fabric, tell=console.print if first else None)
    started = resume and load_checkpoint(state, out / "checkpoint.pt")
    with progress_bars(shown=first) as progress:
        track = partial(progress.track, description="read and prepare")
        cases = _prepared(settings, found, names, make_folder(cache or default_cache(settings, out)), state, track)
        if first:
            require_same_cases({name: case.source for name, case in cases.items()}, out)
            keep_places(settings, out, data=data, locate=locate)
            write_text(out / "split.json", json.dumps({"training": names[0], "validation": names[1]}, indent=1))
        if settings.synthesis is None:
            require_apart(cases, *names)
        validation = [cases[name] for name in names[1]]
        feed: Feed = (
            CaseFeed([cases[name] for name in names[0]], settings, device=fabric.device)
            if settings.synthesis is None
            else open_made(settings, found, names[0], locate=locate, device=fabric.device)
        )
        if not started and settings.initial_bias == "frequency":
            set_initial_bias(state, feed.shares())
        note = partial(note_epoch, out=out, watchers=watchers, say=progress.console.print)
        bar = progress.add_task("train", total=settings.epochs * feed.steps, completed=state.epoch * feed.steps)
        clock = Clock(state, max_minutes)
        table = run_epochs(
            state, settings, feed, validation, clock=clock, tick=lambda: progress.advance(bar), note=note
        )
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


def _prepared(
    settings: TrainSettings,
    data: DataSet,
    names: tuple[Sequence[str], Sequence[str]],
    cache: Path,
    state: RunState,
    track: Callable[[Sequence[Case]], Iterable[Case]],
) -> dict[str, LabelledCase]:
    """Return the cases that a run reads, by name: all, or where its images are made those held out."""
    if settings.synthesis is not None:
        return cached_cases(data.select(names[1]), settings.model, cache, fabric=state.fabric, track=track)
    cases = cached_cases(data, settings.model, cache, fabric=state.fabric, track=track)
    require_structures(all_folds(data, settings), {name: case.volume_ml for name, case in cases.items()})
    return cases


def run_epochs(
    state: RunState,
    settings: TrainSettings,
    feed: Feed,
    validation: Sequence[LabelledCase],
    *,
    clock: Clock,
    tick: Callable[[], object],
    note: Callable[[RunState, dict[str, float]], None],
) -> dict[str, dict[str, float]]:
    """Go through the epochs that are left.

    Parameters
    ----------
    state, settings, feed, validation
        The run.
    clock
        Ends it.
    tick
        Called after each step.
    note
        Called after each epoch with its row of the log, in the first process.

    Returns
    -------
    dict
        The last validation.
    """
    table: dict[str, dict[str, float]] | None = None
    while state.epoch < settings.epochs and not clock.is_over:
        table = None
        row = run_epoch(state, settings, feed, tick, clock=clock)
        last = state.epoch == settings.epochs or clock.is_over
        if validation and (state.epoch % settings.validate_every == 0 or last):
            table = validate_together(state, validation, settings.model)
            row |= {f"dice_{name}": round(mean_dice(table, name), 4) for name in settings.model.labels.names}
        clock.note()
        if state.fabric.is_global_zero:
            note(state, row)
    # After a resumption past the last epoch there is none yet; it validates like any that is due.
    return validate_together(state, validation, settings.model) if table is None else table


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


def run_epoch(
    state: RunState, settings: TrainSettings, feed: Feed, tick: Callable[[], object], *, clock: Clock
) -> dict[str, float]:
    """Show one epoch's batches to the network.

    Returns
    -------
    dict
        The log's row: loss, rate, seconds in all and spent on data, and as overlap_NAME how well each structure is met
        in the training batches (soft Dice, or Tversky's index).
    """
    fabric, began, waited = state.fabric, time.perf_counter(), 0.0
    losses: list[torch.Tensor] = []
    values: list[float] = []
    overlaps: list[torch.Tensor] = []
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
        with memory_is_told(settings, step):
            losses.append(train_step(state, settings, criterion, batch, step))
        if place:  # the one before: a GPU has the next one to do by now
            values.append(require_finite(losses[-2], step - 1))
        if criterion.overlap is not None:
            overlaps.append(criterion.overlap)
        tick()
    values.append(require_finite(losses[-1], step))
    state.epoch += 1
    seconds = time.perf_counter() - began
    clock.note()
    return {
        "epoch": state.epoch,
        "loss": round(float(fabric.all_reduce(torch.tensor(np.mean(values)), reduce_op="mean")), 5),
        "learning_rate": round(rate, 8),
        "seconds": round(seconds, 2),
        "seconds_data": round(waited, 2),
        **_mean_overlaps(overlaps, settings.model.labels.names),
    }


def _mean_overlaps(overlaps: Sequence[torch.Tensor], names: Sequence[str]) -> dict[str, float]:
    """Mean of each structure over the steps that had it."""
    found = {}
    table = torch.stack(list(overlaps)).cpu().numpy() if overlaps else np.empty((0, 0))
    for place, name in enumerate(names if len(overlaps) else ()):
        values = table[:, place]
        values = values[~np.isnan(values)]
        found[f"overlap_{name}"] = round(float(values.mean()), 4) if len(values) else math.nan
    return found


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
