"""How fast studies go: from the record of earlier runs, or timed on this machine."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Iterable, Mapping

import numpy as np

from voxmetry.config import ModelSpec, StudySettings
from voxmetry.workflows.cohort.forecast import work_of
from voxmetry.workflows.cohort.model_index import KnownModel
from voxmetry.workflows.cohort.progress import Progress
from voxmetry.workflows.cohort.records import Candidate, PlannedStudy, RunSettings


def rates_of(
    before: dict[tuple[str, str], Progress], studies: Iterable[PlannedStudy], known: dict[str, KnownModel]
) -> dict[str, list[tuple[float, float]]]:
    """Return, by model, work and seconds of what the record holds as done.

    Several studies are under way at once, so that the seconds of all add up to more than their run took: they are
    scaled to that.
    """
    specs = {model.spec.name: model.spec for model in known.values()}
    share = {run: elapsed / busy for run, (elapsed, busy) in _runs(before.values()).items() if busy > 0}
    rates: dict[str, list[tuple[float, float]]] = {}
    for study in studies:
        progress = before.get(study.key)
        if progress and progress.state == "done" and progress.run in share and study.model in specs:
            pair = (work_of(study.candidate, specs[study.model]), progress.seconds * share[progress.run])
            rates.setdefault(study.model, []).append(pair)
    return rates


def _runs(before: Iterable[Progress]) -> dict[str, tuple[float, float]]:
    """Return, by run, the seconds from its first study's start to its last one's end, and those of all added up."""
    ends: dict[str, list[str]] = {}
    busy: dict[str, float] = {}
    for progress in before:
        if progress.state == "done" and progress.seconds > 0 and all(progress.span):
            ends.setdefault(progress.run, []).extend(progress.span)
            busy[progress.run] = busy.get(progress.run, 0.0) + progress.seconds
    moment = datetime.datetime.fromisoformat
    return {run: ((moment(max(at)) - moment(min(at))).total_seconds(), busy[run]) for run, at in ends.items()}


def measured_rates(known: dict[str, KnownModel], settings: RunSettings) -> dict[str, list[tuple[float, float]]]:
    """Time each model on one patch, on this machine; a baseline has none and is left to its foreseen speed."""
    return {
        model.spec.name: [time_one_patch(model.path, model.spec, settings.study)]
        for model in known.values()
        if isinstance(model.spec, ModelSpec)
    }


def basis_of(rates: Mapping[str, object], *, measured: bool) -> str:
    """Say what a forecast is taken from; empty where there is no rate."""
    if measured:
        return "one patch of each model, timed on this machine: reading and writing come on top, beside the network"
    return "the rate of the studies that this folder's record holds" if rates else ""


def time_one_patch(path: str, spec: ModelSpec, settings: StudySettings) -> tuple[float, float]:
    """Run a model on noise of the size of one patch; return its work in multiplications and the seconds it took.

    It loads the network, and runs it twice: the first time is longer than all that follow.

    Raises
    ------
    VoxmetryError
        If the model cannot be loaded, or the device is not there.
    """
    from voxmetry.core.geometry import Geometry
    from voxmetry.core.volume import Volume
    from voxmetry.nn import Predictor

    model = Predictor(path, device=settings.device, precision=settings.precision, memory_gb=settings.memory_gb)
    grid = Geometry(np.diag([*spec.spacing_mm, 1.0]), spec.window.patch)
    noise = np.random.default_rng(0).integers(1, 100, grid.shape).astype(np.int16)
    seconds = math.inf
    for _ in range(2):
        begin = time.perf_counter()
        model([Volume(noise, grid) for _ in spec.inputs])
        seconds = time.perf_counter() - begin
    one = Candidate(case="", path="", shape=grid.shape, spacing_mm=grid.spacing_mm)
    return work_of(one, spec), seconds
