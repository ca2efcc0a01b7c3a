"""One study in a worker: read, segment, measure, write, and say what became of it."""

from __future__ import annotations

import functools
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from voxmetry._version import __version__
from voxmetry.config import StudySettings
from voxmetry.core.labels import LabelTable
from voxmetry.core.memory import resident_bytes
from voxmetry.core.records import StudyResult
from voxmetry.core.text import csv_cell
from voxmetry.errors import (
    ConfigError,
    InferenceError,
    InputError,
    MissingExtraError,
    ModelError,
    OutputError,
    VoxmetryError,
)
from voxmetry.io.atomic import write_text
from voxmetry.workflows.cohort.publish import Claim, publish, staging
from voxmetry.workflows.cohort.records import Fault, Outcome, Task

if TYPE_CHECKING:
    from voxmetry.classical import Baseline
    from voxmetry.nn import Composite, Predictor

STOPPING = (OutputError, ModelError, ConfigError, MissingExtraError)
"""Errors that are no fault of the study: the next study would meet them as well, so the run stops."""

_LOADING = threading.Lock()


@functools.lru_cache(maxsize=4)
def _load(path: str, sha256: str, how: str) -> tuple[Predictor | Composite | Baseline, threading.Lock]:
    from voxmetry.workflows.models import load_any

    model = load_any(path, StudySettings.model_validate_json(how))
    if model.weights.sha256 != sha256:
        raise ModelError(
            found=f"the model {model.spec.name} of this worker has other weights than the plan's",
            expected=f"weights with the SHA-256 {sha256}",
            fix="install the same version everywhere, or name a model folder that all machines share",
        )
    # One study at a time is in the network; others are read, restored and written meanwhile.
    return model, threading.Lock()


def loading_of(task: Task) -> tuple[str, str, str]:
    """Return what `load_once` takes: the model's path, its checksum, and as JSON the settings that it is loaded by."""
    how = task.settings.model_dump_json(include=set(StudySettings.OF_LOADING))
    return task.model_path, task.weights_sha256, how


def load_once(path: str, sha256: str, how: str) -> tuple[Predictor | Composite | Baseline, threading.Lock]:
    """Return a model that is loaded once in this process, and the lock of its network; arguments of `loading_of`."""
    with _LOADING:
        return _load(path, sha256, how)


def run_task(task: Task, tell: Callable[[str], None] | None = None) -> Outcome:
    """Do one study; `tell` is called with the name of each step as it begins.

    Returns
    -------
    Outcome
        Done, failed with the reason, or set aside where it took its workers down before.

    Raises
    ------
    VoxmetryError
        What stops the whole run: OUT cannot be written, the model cannot be used, versions differ.
    Superseded
        If another worker was given the study meanwhile.
    """
    _require_version(task)
    begin = time.perf_counter()
    claim = Claim(task)
    if task.max_starts is not None and claim.n_starts > task.max_starts:
        claim.release()
        return lost_worker(task, claim.n_starts - 1)
    try:
        outcome = _segment(task, claim, tell)
    except STOPPING:
        claim.release()
        raise
    except (InputError, InferenceError) as error:
        outcome = failed(task, error)
    except MemoryError as error:
        outcome = failed(task, _memory(error))
    claim.release()
    seconds = {**outcome.seconds, "study": round(time.perf_counter() - begin, 4)}
    return outcome.model_copy(update={"seconds": seconds, "n_starts": claim.n_starts, "resident_mb": resident_mb()})


def _segment(task: Task, claim: Claim, tell: Callable[[str], None] | None) -> Outcome:
    from voxmetry.workflows.segment import segment_study

    model, gate = load_once(*loading_of(task))
    before = [_state_of(path) for path in task.study]
    with staging(task) as folder:
        result = segment_study(
            task.study,
            folder,
            model,
            reference=task.reference,
            settings=task.settings,
            tell=tell,
            gate=gate,
            whole=True,
        )
        if [_state_of(path) for path in task.study] != before:
            raise _changed()
        if task.sidecar is not None:
            _write_sidecar(folder, task, model.spec.labels)
        files = publish(folder, task, claim)
    return _done(task, result).model_copy(update={"files": files})


def _state_of(path: str) -> list[tuple[str, int, int]]:
    """Return names, sizes and times of what a study is read from."""
    place = Path(path)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    found = []
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            found.append((file.name, -1, -1))
        else:
            found.append((file.name, facts.st_size, facts.st_mtime_ns))
    return found


def _changed() -> InputError:
    return InputError(
        found="its files changed while they were read: the numbers would be of neither state",
        expected="files that stay as they are during a run",
        fix="wait until all are copied, then give the same command again",
    )


def _write_sidecar(folder: Path, task: Task, labels: LabelTable) -> None:
    """Lay the BIDS sidecar and the table of labels beside the segmentation."""
    rows = [f"{label.value}\t{csv_cell(label.name)}\t{label.colour}" for label in labels]
    write_text(folder / "dseg.tsv", "\n".join(["index\tname\tcolor", *rows]) + "\n")
    write_text(folder / "dseg.json", json.dumps(task.sidecar, indent=1) + "\n")


def _done(task: Task, result: StudyResult) -> Outcome:
    made = result.provenance
    return Outcome(
        case=task.case,
        model=task.model,
        state="done",
        place=task.place,
        colours={label.name: label.colour for label in result.labels},
        measurements=result.measurements,
        lesions=result.lesions,
        others=result.others,
        comparisons=result.comparisons,
        flags=result.flags,
        seconds=made.seconds,
        peak_memory_mb=made.peak_memory_mb,
        worker=worker_name(),
        device=made.device,
        started=made.started,
        versions={"python": made.python, "platform": made.platform, **made.packages},
    )


def failed(task: Task, error: VoxmetryError) -> Outcome:
    """Return the outcome of a study that cannot be done, whoever tries."""
    return _not_done(task, "failed", Fault.model_validate(error.to_dict()))


def unforeseen(task: Task, error: BaseException) -> Outcome:
    """Return the outcome of a study that met an error nobody foresaw: its kind and place, not its words.

    The words may hold a path, or what a header says.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    fault = Fault(
        error=type(error).__name__,
        found=f"an error that was not foreseen: {type(error).__name__}{where}",
        expected="a study that can be done, or a refusal in words",
        fix="run it alone with `voxmetry segment`, which shows all of the error, and report it",
    )
    return _not_done(task, "failed", fault)


def lost_worker(task: Task, times: int, how: str = "") -> Outcome:
    """Return the outcome of a study that took its worker down too often."""
    fault = Fault(
        error="LostWorker",
        found=f"its worker was lost {times} times while it ran{f' ({how})' if how else ''}",
        expected="a worker that survives it",
        fix="it may need more memory than a worker has, or break a decoder: run it alone, or again with --only-failed",
    )
    return _not_done(task, "set aside", fault)


def _not_done(task: Task, state: Literal["failed", "set aside"], fault: Fault) -> Outcome:
    return Outcome(case=task.case, model=task.model, state=state, fault=fault, place=task.place, worker=worker_name())


def _memory(error: MemoryError) -> InferenceError:
    return InferenceError(
        found=f"the memory of the worker does not suffice ({type(error).__name__})",
        expected="room for the study: `voxmetry cohort plan` foresees how much",
        fix="run fewer studies at once (--in-flight 1, --workers 1), or on a machine with more memory",
    )


def _require_version(task: Task) -> None:
    if task.version != __version__:
        raise ConfigError(
            found=f"a worker with voxmetry {__version__}",
            expected=f"{task.version}, as where the run was started: other versions may give other numbers",
            fix="install the same version on every worker",
        )


def worker_name() -> str:
    """Name this process: host and process id."""
    return f"{platform.node()}:{os.getpid()}"


def resident_mb() -> float:
    """Return this process's resident memory in units of 10^6 bytes; nan where the system does not tell."""
    held = resident_bytes()
    return float("nan") if held is None else round(held / 1e6, 1)
