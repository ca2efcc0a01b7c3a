"""Load a model while the study is read: both wait for disks most of the time, and for each other's libraries."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from voxmetry.classical import is_baseline
from voxmetry.config import ModelSpec, StudySettings
from voxmetry.errors import VoxmetryError
from voxmetry.models import find_model, read_any_spec
from voxmetry.workflows.inputs import AnySpec
from voxmetry.workflows.models import Chosen, Ready, load_any
from voxmetry.workflows.provenance import Clock

T = TypeVar("T")


def load_beside(
    model: Chosen | Sequence[str | Path],
    settings: StudySettings,
    clock: Clock,
    tell: Callable[[str], None] | None,
    *,
    check: Callable[[Ready], None],
    read: Callable[[AnySpec], T],
    first: Callable[[], object] = lambda: None,
) -> tuple[Ready, T]:
    """Load a model and read what it takes, at the same time where its specification is known before it is loaded.

    Parameters
    ----------
    model, settings, tell
        As for `load_any`.
    clock
        Takes the seconds of both; where they ran beside each other, their sum is more than what passed.
    check
        Refuses a model that cannot do what is asked for.
    read
        Reads the study for a model.
    first
        Called before both where the model is there: refuses what needs no model to be refused.

    Returns
    -------
    Ready, T
        The model, and what was read.

    Raises
    ------
    VoxmetryError
        That of `first` where the model is there; else as one after the other: that of loading first, then that of
        `check`, then that of reading.
    """
    spec = spec_beforehand(model)
    if spec is None:
        with clock.step("load model"):
            ready = load_any(model, settings, tell)
            check(ready)
        with clock.step("read"):
            return ready, read(ready.spec)
    first()
    relay = _Relay(tell) if tell is not None else None

    def load() -> tuple[Ready, float]:
        begin = time.perf_counter()
        found = load_any(model, settings, relay)
        return found, time.perf_counter() - begin

    with ThreadPoolExecutor(1, thread_name_prefix="load-model") as pool:
        with clock.step("load model"):
            loading = pool.submit(load)
        found: T | VoxmetryError
        with clock.step("read"):
            try:
                found = read(spec)
            except VoxmetryError as error:
                # A model that cannot be used is said first.
                found = error
        ready, seconds = loading.result()
    clock.seconds["load model"] = round(seconds, 4)
    if relay is not None:
        relay.begin()
    check(ready)
    if isinstance(found, VoxmetryError):
        raise found
    return ready, found


class _Relay:
    """Passes lines on; those of the time before it begins are kept until then, as another thread says them."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._waiting: list[str] | None = []

    def __call__(self, line: str) -> None:
        if self._waiting is None:
            self._tell(line)
        else:
            self._waiting.append(line)

    def begin(self) -> None:
        """Pass on what is kept, and all that comes."""
        kept, self._waiting = self._waiting or [], None
        for line in kept:
            self._tell(line)


def spec_beforehand(model: Chosen | Sequence[str | Path]) -> ModelSpec | None:
    """Return the specification of a network that is named and not loaded; None of anything else, or if it is unfit."""
    if isinstance(model, Sequence) and not isinstance(model, str) and len(model) == 1:
        model = model[0]
    if not isinstance(model, (str, Path)) or is_baseline(model):
        return None
    try:
        spec = read_any_spec(find_model(model))
    except VoxmetryError:
        # Loading says why.
        return None
    return spec if isinstance(spec, ModelSpec) else None
