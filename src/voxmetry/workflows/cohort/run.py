"""Run a cohort: plan it, hold the folder, hand out the studies, write down what becomes of each, and yield it."""

from __future__ import annotations

import dataclasses
import os
import platform
import secrets
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from voxmetry._version import __version__
from voxmetry.core.text import as_disks_compare
from voxmetry.errors import VoxmetryError
from voxmetry.io.atomic import make_folder
from voxmetry.workflows.cohort.bids import read_sidecar
from voxmetry.workflows.cohort.database import CohortRecord
from voxmetry.workflows.cohort.executor import Executor, Finished, Lost, Step, Stopped
from voxmetry.workflows.cohort.layout import WORK, bids_place, bids_sidecar, folders_place, write_bids_description
from voxmetry.workflows.cohort.lock import run_lock
from voxmetry.workflows.cohort.model_index import KnownModel, load_known_model
from voxmetry.workflows.cohort.publish import sweep
from voxmetry.workflows.cohort.records import CohortPlan, Outcome, PlannedStudy, RunSettings, Task
from voxmetry.workflows.cohort.rules import settings_of
from voxmetry.workflows.cohort.task import loading_of, lost_worker

MOST_LOSSES = 3
"""A study whose worker is lost this often is set aside. Two losses happen to a sound study too, where something
else kills workers: nobody can tell that from a study that breaks its worker."""

PATIENCE_SECONDS = 0.5


@dataclasses.dataclass
class Tally:
    """How far a run is."""

    total: int
    done: int = 0
    failed: int = 0
    flagged: int = 0
    lost_workers: int = 0

    @property
    def finished(self) -> int:
        """Studies that need nothing more."""
        return self.done + self.failed


def run_plan(
    make_plan: Callable[[], CohortPlan],
    out: Path,
    settings: RunSettings,
    *,
    tell: Callable[[str], None] | None = None,
    tally: Tally | None = None,
    source: Path | None = None,
) -> Generator[Outcome, None, None]:
    """Run what a plan says and yield each study's outcome as it comes.

    Parameters
    ----------
    make_plan
        Called once the folder is held, so that two runs cannot plan the same studies.
    out
        Folder of the results.
    settings
        How it is run.
    tell
        Called with a sentence about anything unusual.
    tally
        Counted up as studies come back, for a progress display.
    source
        Root of a BIDS data set, for sidecars.

    Raises
    ------
    VoxmetryError
        If the run cannot start or go on. What is done stays done, and the same call goes on from there.
    """
    make_folder(out)
    make_folder(out / WORK)
    tally = tally or Tally(0)
    with ExitStack() as stack:
        stack.enter_context(run_lock(out / WORK, force=settings.break_lock, tell=tell))
        plan = make_plan()
        if tell:
            for note in plan.notes:
                tell(note)
        sweep(out)
        if plan.layout == "bids":
            write_bids_description(out)
        record = stack.enter_context(CohortRecord(out))
        run = secrets.token_hex(8)
        record.begin(
            run,
            settings=settings.model_dump_json(),
            host=platform.node(),
            pid=os.getpid(),
            studies=plan.studies,
        )
        tally.total = len(plan.of("waiting"))
        known = {model.spec.name: model for model in map(load_known_model, plan.models)}
        alike = _alike(plan)
        tasks = [
            task_of(study, known[study.model], plan, settings, run, source, alike=study.key in alike)
            for study in plan.of("waiting")
        ]
        how = "stopped"
        try:
            if tasks:
                workers = stack.enter_context(closing(make_executor(settings, tasks)))
                for outcome in _work(tasks, workers, record, tally, tell):
                    record.finished(outcome, run=run)
                    yield outcome
            how = "finished"
        except VoxmetryError as error:
            how = f"{type(error).__name__}: {error.found}"
            raise
        finally:
            _end(record, run, how)


def _end(record: CohortRecord, run: str, how: str) -> None:
    try:
        record.end(run, how)
    except VoxmetryError:
        # The disk that stopped the run may refuse this as well; the next run finds that this one did not end well.
        return


def _work(
    tasks: Sequence[Task],
    workers: Executor,
    record: CohortRecord,
    tally: Tally,
    tell: Callable[[str], None] | None,
) -> Iterator[Outcome]:
    """Keep the workers busy, and yield what comes back. Suspects, whose worker was lost, run last and by themselves."""
    waiting = deque(task.model_copy(update={"max_starts": workers.max_starts}) for task in tasks)
    suspects: deque[Task] = deque()
    under_way: dict[tuple[str, str], Task] = {}
    losses: dict[tuple[str, str], int] = {}
    while waiting or suspects or under_way:
        while waiting and workers.room(alone=False):
            _hand_out(waiting.popleft(), workers, record, under_way, alone=False)
        while suspects and not waiting and workers.room(alone=True):
            _hand_out(suspects.popleft(), workers, record, under_way, alone=True)
        event = workers.wait(PATIENCE_SECONDS)
        if event is None or isinstance(event, Step):
            continue
        if isinstance(event, Stopped):
            raise event.error
        key = event.outcome.key if isinstance(event, Finished) else event.key
        task = under_way.pop(key, None)
        if task is None:
            continue
        if isinstance(event, Finished):
            _count(event.outcome, tally)
            yield event.outcome
            continue
        record.waiting(*key)
        if isinstance(event, Lost):
            tally.lost_workers += 1
            # Beside others nobody knows whose doing it was: it counts once at most.
            losses[key] = losses[key] + 1 if event.alone and key in losses else 1
            if losses[key] >= MOST_LOSSES:
                outcome = lost_worker(task, losses[key], event.how)
                _count(outcome, tally)
                yield outcome
                continue
            if tell:
                tell(f"The worker of {task.case} was lost ({event.how}); it is tried again.")
        suspects.append(task)


def _hand_out(
    task: Task, workers: Executor, record: CohortRecord, under_way: dict[tuple[str, str], Task], *, alone: bool
) -> None:
    record.started(*task.key)
    under_way[task.key] = task
    workers.submit(task, alone=alone)


def _count(outcome: Outcome, tally: Tally) -> None:
    tally.done += outcome.state == "done"
    tally.failed += outcome.state != "done"
    tally.flagged += outcome.needs_review


def make_executor(settings: RunSettings, tasks: Sequence[Task]) -> Executor:
    """Return this machine's worker processes, or a cluster's."""
    if settings.scheduler is not None:
        from voxmetry.workflows.cohort.cluster import DaskWorkers

        return DaskWorkers(settings, tasks[0])
    from voxmetry.workflows.cohort.local import LocalWorkers

    return LocalWorkers(settings, list(dict.fromkeys(map(loading_of, tasks))))


def _alike(plan: CohortPlan) -> set[tuple[str, str]]:
    """Return the studies of one model whose names a disk may take for that of another."""
    keys = {study.key for study in plan.studies}
    count = Counter((as_disks_compare(case), model) for case, model in keys)
    return {(case, model) for case, model in keys if count[as_disks_compare(case), model] > 1}


def task_of(
    study: PlannedStudy,
    model: KnownModel,
    plan: CohortPlan,
    settings: RunSettings,
    run: str,
    source: Path | None,
    *,
    alike: bool = False,
) -> Task:
    """Turn a planned study into what a worker needs; `alike`: as of `folders_place`."""
    candidate = study.candidate
    sidecar, stem = None, None
    if plan.layout == "bids":
        place, stem = bids_place(study.model, candidate)
        if source is not None:
            inside = [Path(image.path).relative_to(source.absolute()).as_posix() for image in candidate.images]
            known = read_sidecar(Path(candidate.path), source.absolute())
            sidecar = bids_sidecar(known, inside=inside, model=study.model, sha256=model.sha256)
    else:
        place = folders_place(study.model, study.case, alike=alike)
    return Task(
        case=study.case,
        model=study.model,
        model_path=model.path,
        study=tuple(image.path for image in candidate.images),
        reference=candidate.reference,
        settings=settings_of(candidate, settings.study),
        root=plan.out,
        place=place,
        stem=stem,
        sidecar=sidecar,
        run=run,
        version=__version__,
        weights_sha256=model.sha256,
    )
