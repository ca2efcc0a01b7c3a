"""The workers of the queue, and what becomes of each job: handed out, finished, lost, refused or taken back."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from voxmetry._version import __version__
from voxmetry.core.records import StudyResult
from voxmetry.errors import ConfigError, OutputError, VoxmetryError
from voxmetry.service.records import Job
from voxmetry.service.store import now
from voxmetry.workflows.cohort.executor import Again, Event, Executor, Finished, Lost, Step, Stopped
from voxmetry.workflows.cohort.publish import LAST
from voxmetry.workflows.cohort.records import Fault, FileMark, Outcome, RunSettings, Task
from voxmetry.workflows.cohort.run import MOST_LOSSES, make_executor
from voxmetry.workflows.cohort.task import lost_worker

if TYPE_CHECKING:
    from voxmetry.service.jobs import JobQueue

RESULTS = "results"
"""Folder inside the data folder: a folder of each job."""
MOST_REFUSALS = 3
"""A job that a worker refuses to write this often, with room on the disk, has failed."""
PAUSE_SECONDS = 5.0
"""How long no job starts after one could not be written; twice and three times as long after the next."""
LOG = logging.getLogger("voxmetry.service")


class Runner:
    """A thread that keeps workers busy with the jobs of a queue.

    Parameters
    ----------
    queue
        The jobs.

    Attributes
    ----------
    fault
        Why no job starts now; empty where they do.
    n_lost
        Workers lost since the start.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self.fault, self.n_lost = "", 0
        self._run = secrets.token_hex(8)
        self._executor: Executor | None = None
        self._under_way: dict[tuple[str, str], Task] = {}
        self._refusals: dict[str, int] = {}
        self._not_before = 0.0
        self._stopping, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="voxmetry-jobs", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are run at all."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once whether a job waits."""
        self._wake.set()

    def stop(self) -> None:
        """Give up what is under way, and end the workers."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the thread

    def _work(self) -> None:
        """Run jobs until `stop`; what stops the workers is told in `health`, and they are started again."""
        pause = 1.0
        while not self._stopping.is_set():
            try:
                self._work_with(self._workers())
                pause = 1.0
            except VoxmetryError as error:
                self.fault = error.found
                LOG.error("the queue pauses: %s", error.found)
                self._give_back()
                self._stopping.wait(pause)
                pause = min(60.0, 2 * pause)
        self._close_workers()

    def _workers(self) -> Executor:
        if self._executor is None:
            how = self._queue.settings
            run = RunSettings(study=how.settings, workers=how.workers, in_flight=how.in_flight, scheduler=how.scheduler)
            probe = [self._task(Job(id="none", state="waiting", model=name, settings=how.settings, source=()))
                     for name in self._queue.models]  # fmt: skip
            self._executor = make_executor(run, probe)
        return self._executor

    def _close_workers(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _work_with(self, workers: Executor) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self._retire()
            self._hand_out_all(workers)
            # With nothing under way a new job is heard of at once; else the workers are listened to.
            event = workers.wait(0.1 if self._under_way else 0.0)
            if event is not None:
                self._take(event)
            elif not self._under_way:
                self._wake.wait(0.5)

    def _retire(self) -> None:
        try:
            self._queue.retention.apply()
        except VoxmetryError as error:
            # What could not be deleted now, or was deleted meanwhile, is for later; no job waits for it.
            LOG.error("retention: %s", error.found)

    def _hand_out_all(self, workers: Executor) -> None:
        if time.monotonic() < self._not_before or self._queue.shortage():
            return
        self.fault = ""
        while workers.room(alone=False) and (job := self._queue.store.next_waiting(lost=False)):
            self._hand_out(job, workers, alone=False)
        # A job whose worker was lost runs last and by itself: then it is known whose doing it was.
        while workers.room(alone=True) and (job := self._queue.store.next_waiting(lost=True)):
            self._hand_out(job, workers, alone=True)

    def _hand_out(self, job: Job, workers: Executor, *, alone: bool) -> None:
        if job.model not in self._queue.models:
            self._fail(job, _no_model(job.model))
            return
        task = self._task(job).model_copy(update={"max_starts": workers.max_starts})
        self._queue.store.change(
            job.id, tell=("running", ""), state="running", started=now(), step="", n_starts=job.n_starts + 1
        )
        self._under_way[task.key] = task
        workers.submit(task, alone=alone)
        self._queue.tell_all()

    def _task(self, job: Job) -> Task:
        model = self._queue.models[job.model]
        return Task(
            case=job.id,
            model=job.model,
            model_path=model.path,
            study=job.source,
            reference=None,
            settings=job.settings,
            root=str(self._queue.root),
            place=f"{RESULTS}/{job.id}",
            run=self._run,
            version=__version__,
            weights_sha256=model.sha256,
            max_starts=None,
        )

    def _take(self, event: Event) -> None:
        key = event.outcome.key if isinstance(event, Finished) else event.key
        if isinstance(event, Step):
            if key in self._under_way and not event.words.startswith("warning"):
                self._queue.store.change(key[0], tell=("step", event.words), step=event.words)
                self._queue.tell_all()
            return
        task = self._under_way.pop(key, None)
        job = self._queue.store.get(key[0])
        if task is None or job is None:
            return
        if isinstance(event, Finished):
            self._finish(job, event.outcome)
        elif isinstance(event, Lost):
            self._lose(job, task, event)
        elif isinstance(event, Stopped):
            self._refuse(job, event.error)
        elif isinstance(event, Again):
            self.take_back(job)
        self._queue.tell_all()

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if job.cancel:
            self._drop(job)
            return
        self._queue.store.change(
            job.id,
            tell=(outcome.state, outcome.fault.found if outcome.fault else ""),
            state=outcome.state,
            finished=now(),
            step="",
            fault=outcome.fault,
            needs_review=outcome.needs_review,
            flags=outcome.flags,
            seconds=outcome.seconds.get("study"),
            files=sorted(Path(name).name for name in outcome.files),
            delivery="waiting" if outcome.state == "done" and job.send_to else "none",
        )
        self._refusals.pop(job.id, None)
        self._queue.deliver_soon()

    def _drop(self, job: Job) -> None:
        shutil.rmtree(self._queue.root / RESULTS / job.id, ignore_errors=True)
        self._queue.store.change(job.id, tell=("cancelled", ""), state="cancelled", finished=now(), step="")

    def _lose(self, job: Job, task: Task, loss: Lost) -> None:
        self.n_lost += 1
        # Beside others nobody knows whose doing it was: it counts once at most.
        n = job.n_losses + 1 if loss.alone or job.n_losses == 0 else job.n_losses
        self._queue.store.change(job.id, tell=("lost", loss.how), n_losses=n)
        if n >= MOST_LOSSES and loss.alone and not self._is_finished(job):
            self._finish(job, lost_worker(task, n, loss.how))
        else:
            self.take_back(job.model_copy(update={"n_losses": n}))

    def _refuse(self, job: Job, error: VoxmetryError) -> None:
        """Take an error that would stop a cohort: a full disk pauses all jobs, anything else is this job's own."""
        n = self._refusals[job.id] = self._refusals.get(job.id, 0) + 1
        if isinstance(error, OutputError) and n < MOST_REFUSALS:
            self.fault, self._not_before = error.found, time.monotonic() + PAUSE_SECONDS * n
            self.take_back(job)
            return
        self._fail(job, error)

    def _fail(self, job: Job, error: VoxmetryError) -> None:
        fault = Fault.model_validate(error.to_dict())
        outcome = Outcome(case=job.id, model=job.model, state="failed", fault=fault, place=f"{RESULTS}/{job.id}")
        self._finish(job, outcome)
        self._queue.tell_all()

    def _give_back(self) -> None:
        """Take everything from the workers, and end them."""
        self._close_workers()
        for case, _ in list(self._under_way):
            if job := self._queue.store.get(case):
                with contextlib.suppress(OutputError):
                    self.take_back(job)
        self._under_way.clear()

    def take_back(self, job: Job) -> None:
        """Put a job that nobody works on any more where it belongs: finished, if its result stands, or waiting."""
        if job.cancel:
            self._drop(job)
        elif (result := read_result(self._queue.root, job)) is not None:
            self._finish(job, self._outcome_of(job, result))
        else:
            self._queue.store.change(job.id, tell=("waiting", ""), state="waiting", step="")

    def _is_finished(self, job: Job) -> bool:
        return read_result(self._queue.root, job) is not None

    def _outcome_of(self, job: Job, result: StudyResult) -> Outcome:
        place = f"{RESULTS}/{job.id}"
        names = sorted(entry.name for entry in (self._queue.root / place).iterdir())
        # The checksums are of no use here: only the names are kept.
        files = {f"{place}/{name}": FileMark(sha256="", n_bytes=0) for name in names}
        return Outcome(
            case=job.id,
            model=job.model,
            state="done",
            place=place,
            files=files,
            flags=result.flags,
            seconds={"study": result.provenance.seconds.get("total", math.nan)},
        )


def _no_model(name: str) -> ConfigError:
    return ConfigError(
        found=f"a job of the model {name}, which this service does not have any more",
        expected="a model of its settings",
        fix="add the model to models in the settings of the service, or submit the study with another one",
    )


def read_result(root: Path, job: Job) -> StudyResult | None:
    """Return what a job found; None where its result is not there, or not whole."""
    try:
        text = (root / RESULTS / job.id / LAST).read_text(encoding="utf-8")
        return StudyResult.model_validate_json(text)
    except (OSError, UnicodeDecodeError, ValidationError):
        return None
