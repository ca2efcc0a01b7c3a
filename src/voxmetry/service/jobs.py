"""The queue of the service: jobs in, results out, and nothing lost or done twice in between.

A job is written down before its client hears of it. Workers are those of a cohort, with their models loaded once; a
study is moved into its place in one step, its result last, so that after a kill a job is either finished, which is
seen from its folder, or runs again as if it had never begun.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from voxmetry._version import __version__
from voxmetry.config import StudySettings
from voxmetry.config.service import ServiceSettings
from voxmetry.core.records import StudyResult
from voxmetry.errors import ConfigError, OutputError, VoxmetryError
from voxmetry.io.atomic import make_folder
from voxmetry.service.delivery import Deliver, Deliveries
from voxmetry.service.errors import BusyError, NoRoomError, QueueFullError, not_found
from voxmetry.service.records import Counts, Job, JobEvent
from voxmetry.service.retention import Retirement, sweep_uploads
from voxmetry.service.store import NAME, JobStore, now
from voxmetry.workflows.cohort.executor import Again, Event, Executor, Finished, Lost, Step, Stopped
from voxmetry.workflows.cohort.layout import WORK
from voxmetry.workflows.cohort.lock import run_lock
from voxmetry.workflows.cohort.model_index import KnownModel, check_names, load_known_model
from voxmetry.workflows.cohort.publish import LAST, sweep, withdraw
from voxmetry.workflows.cohort.records import Fault, FileMark, Outcome, RunSettings, Task
from voxmetry.workflows.cohort.run import MOST_LOSSES, make_executor
from voxmetry.workflows.cohort.task import lost_worker

RESULTS, UPLOADS = "results", "uploads"
"""Folders inside the data folder."""
MOST_REFUSALS = 3
"""A job that a worker refuses to write this often, with room on the disk, has failed."""
PAUSE_SECONDS = 5.0
"""How long no job starts after one could not be written; twice and three times as long after the next."""
LOG = logging.getLogger("voxmetry.service")


@dataclass(frozen=True)
class Health:
    """How the service is.

    Parameters
    ----------
    ok
        Whether jobs are accepted and run.
    words
        Why not.
    n_lost
        Workers lost since the start.
    """

    ok: bool
    words: str = ""
    n_lost: int = 0


class JobQueue:
    """Jobs of one data folder, and the workers that do them. Use it as a context, or call `start` and `stop`.

    Parameters
    ----------
    settings
        Of the service: data folder, models, limits, workers.
    deliver
        Sends files to a named peer, for jobs that are done and have somewhere to go (`send_to`); it is called in
        threads of its own, again later where it fails, and twice for a file where a kill came between the sending
        and the record of it.

    Raises
    ------
    ConfigError, ModelError
        If a model cannot be used.
    LockedError
        On `start`, if another process serves this folder.
    """

    def __init__(self, settings: ServiceSettings, *, deliver: Deliver | None = None) -> None:
        self.settings = settings
        self.root = Path(settings.data).absolute()
        known = {name: load_known_model(name) for name in settings.models}
        check_names(known)
        self.models: Mapping[str, KnownModel] = {model.spec.name: model for model in known.values()}
        self._aliases = {name: model.spec.name for name, model in known.items()}
        self._run = secrets.token_hex(8)
        self._executor: Executor | None = None
        self._under_way: dict[tuple[str, str], Task] = {}
        self._refusals: dict[str, int] = {}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._held = contextlib.ExitStack()
        self._thread: threading.Thread | None = None
        self._fault, self._not_before = "", 0.0
        self._n_lost = 0
        self._deliveries = Deliveries(self, deliver) if deliver is not None else None
        self._retention = Retirement(self)
        self.store: JobStore

    # --- life

    def start(self) -> None:
        """Hold the data folder, put in order what a kill left, and begin to work."""
        make_folder(self.root / WORK)
        self._held.enter_context(run_lock(self.root / WORK))
        self.store = JobStore(self.root / NAME)
        self._held.callback(self.store.close)
        sweep(self.root)
        for folder in (RESULTS, UPLOADS):
            make_folder(self.root / folder)
        for job in self.store.in_state("running"):
            self._take_back(job)
        sweep_uploads(self.root / UPLOADS, self.store)
        self._thread = threading.Thread(target=self._work, name="voxmetry-jobs", daemon=True)
        self._thread.start()
        if self._deliveries is not None:
            self._deliveries.start()

    def stop(self) -> None:
        """Give up what is under way, which runs again after the next start, and free everything."""
        self._stopping.set()
        self._wake.set()
        if self._deliveries is not None:
            self._deliveries.stop()
        if self._thread is not None:
            self._thread.join()
        self._held.close()

    def __enter__(self) -> JobQueue:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what clients ask for

    def submit(
        self,
        source: Path | Sequence[Path],
        model: str,
        *,
        settings: StudySettings | None = None,
        priority: int = 5,
        origin: str = "",
        route: str | None = None,
        send_to: Sequence[str] = (),
        label: str = "",
        image: str | None = None,
        owned: bool = False,
        once: str | None = None,
    ) -> Job:
        """Take a job; when this returns, it is written down and will be done.

        Parameters
        ----------
        source
            A DICOM folder or file, another image file, or one path for each input of the model.
        model
            One of the models of the service.
        settings
            How the study is read and run; None takes the service's.
        priority
            0 to 9; the highest runs first.
        origin, route
            What brought it, and by which route, for the record.
        send_to
            Names of the peers that receive its results.
        label
            What a client calls it. It is shown to every user: no identity belongs in it.
        image
            Identity of the image in the datastore.
        owned
            Whether the source is the service's own and goes when the job goes. It lies in the folder `uploads`.
        once
            A name for the request: a second call with the same name returns the first call's job.

        Raises
        ------
        ConfigError
            If the service has no such model.
        QueueFullError
            If as many jobs wait as may.
        NoRoomError
            If the disk has too little room.
        """
        name = self.model_name(model)
        self.require_room()
        if self.store.n_waiting() >= self.settings.limits.waiting_jobs:
            raise QueueFullError(
                found=f"{self.settings.limits.waiting_jobs} jobs wait already",
                expected="room in the queue (limits.waiting_jobs)",
                fix="try again later",
            )
        paths = (source,) if isinstance(source, Path) else tuple(source)
        job = self.store.add(
            Job(
                id=secrets.token_hex(8),
                state="waiting",
                model=name,
                settings=settings or self.settings.settings,
                source=tuple(str(path.absolute()) for path in paths),
                owned=owned,
                priority=priority,
                origin=origin,
                route=route,
                send_to=tuple(send_to),
                label=label,
                image=image,
                created=now(),
            ),
            once=once,
        )
        self._tell_all()
        self._wake.set()
        return job

    def model_name(self, model: str) -> str:
        """Return the name of one of the service's models, which may be named as in the settings.

        Raises
        ------
        ConfigError
            If it is none of them.
        """
        name = self._aliases.get(model, model)
        if name not in self.models:
            raise ConfigError(
                found="a model that this service does not have",
                expected=f"one of {', '.join(self.models)}",
                fix="name one of them, or add it to models in the settings of the service",
            )
        return name

    def require_room(self) -> None:
        """Raise `NoRoomError` where the disk has less room than `limits.free_mb`."""
        free = shutil.disk_usage(self.root).free / 1e6
        least = self.settings.limits.free_mb
        if free < least:
            raise NoRoomError(
                found=f"{free:.0f} MB free on the disk of the service",
                expected=f"at least {least:.0f} MB (limits.free_mb)",
                fix="free some space, or let retention delete older results; then try again",
            )

    def get(self, job: str) -> Job:
        """Return a job.

        Raises
        ------
        NotFoundError
            If there is none of this id.
        """
        found = self.store.get(job)
        if found is None:
            raise not_found("job", "list the jobs: GET /v1/jobs")
        return found

    def folder(self, job: str) -> Path:
        """Return the folder of a job's results; `job` is the id of a job that there is."""
        return self.root / RESULTS / self.get(job).id

    def result(self, job: str) -> StudyResult | None:
        """Return what was found by a job; None where its result is not there."""
        return self._read_result(self.get(job))

    def wait(self, job: str, seconds: float) -> Job:
        """Wait until a job is over, at most this long, and return it as it is then."""
        with self._changed:
            self._changed.wait_for(lambda: self.get(job).is_over or self._stopping.is_set(), timeout=seconds)
        return self.get(job)

    def cancel(self, job: str) -> Job:
        """Give a job up. One that runs stops at its next step that writes; what it has by then is dropped."""
        found = self.get(job)
        with self.store.all_or_nothing():
            found = self.get(job)
            if found.state == "waiting":
                self.store.change(job, tell=("cancelled", ""), state="cancelled", finished=now())
            elif found.state == "running":
                self.store.change(job, cancel=True)
        if found.state == "running":
            withdraw(self.root, (found.id, found.model))
        self._tell_all()
        return self.get(job)

    def remove(self, job: str) -> None:
        """Delete a job that is over, with its results and what was uploaded for it.

        Raises
        ------
        BusyError
            If it is not over.
        """
        found = self.get(job)
        if not found.is_over:
            raise BusyError(found=f"a job that is {found.state}", expected="one that is over", fix="cancel it first")
        shutil.rmtree(self.root / RESULTS / found.id, ignore_errors=True)
        self.remove_source(found)
        self.store.forget(found.id)
        self._tell_all()

    def remove_source(self, job: Job) -> None:
        """Delete what was uploaded for a job, unless another job still reads it."""
        uploads = self.root / UPLOADS
        for path in map(Path, job.source if job.owned else ()):
            # An upload is a folder of its own; nothing outside is ever deleted.
            if uploads in path.parents and not self.store.uses(str(path)):
                shutil.rmtree(uploads / path.relative_to(uploads).parts[0], ignore_errors=True)

    def remove_results(self, job: Job) -> None:
        """Delete the results of a job that is over; its row stays until `remove`."""
        shutil.rmtree(self.root / RESULTS / job.id, ignore_errors=True)

    def counts(self) -> Counts:
        """Return how many jobs are in each state."""
        return self.store.counts()

    def events(self, *, after: int = 0, job: str | None = None) -> list[JobEvent]:
        """Return what happened after an event, to one job or to all."""
        return self.store.events(after=after, job=job)

    def health(self) -> Health:
        """Return how the service is."""
        alive = self._thread is not None and self._thread.is_alive()
        words = self._fault or ("" if alive else "the queue has stopped")
        with contextlib.suppress(FileNotFoundError):
            words = words or self._shortage()
        return Health(not words, words, self._n_lost)

    def _shortage(self) -> str:
        try:
            self.require_room()
        except NoRoomError as error:
            return error.found
        return ""

    # --- work

    def _work(self) -> None:
        """Run jobs until `stop`; what stops the workers is told in `health`, and they are started again."""
        pause = 1.0
        while not self._stopping.is_set():
            try:
                self._work_with(self._workers())
                pause = 1.0
            except VoxmetryError as error:
                self._fault = error.found
                LOG.error("the queue pauses: %s", error.found)
                self._give_back()
                self._stopping.wait(pause)
                pause = min(60.0, 2 * pause)
        self._close_workers()

    def _workers(self) -> Executor:
        if self._executor is None:
            how = self.settings
            run = RunSettings(study=how.settings, workers=how.workers, in_flight=how.in_flight, scheduler=how.scheduler)
            probe = [self._task(Job(id="none", state="waiting", model=name, settings=how.settings, source=()))
                     for name in self.models]  # fmt: skip
            self._executor = make_executor(run, probe)
        return self._executor

    def _close_workers(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _work_with(self, workers: Executor) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            self._retention.apply()
            self._hand_out_all(workers)
            # With nothing under way a new job is heard of at once; else the workers are listened to.
            event = workers.wait(0.1 if self._under_way else 0.0)
            if event is not None:
                self._take(event)
            elif not self._under_way:
                self._wake.wait(0.5)

    def _hand_out_all(self, workers: Executor) -> None:
        if time.monotonic() < self._not_before or self._shortage():
            return
        self._fault = ""
        while workers.room(alone=False) and (job := self.store.next_waiting(lost=False)):
            self._hand_out(job, workers, alone=False)
        # A job whose worker was lost runs last and by itself: then it is known whose doing it was.
        while workers.room(alone=True) and (job := self.store.next_waiting(lost=True)):
            self._hand_out(job, workers, alone=True)

    def _hand_out(self, job: Job, workers: Executor, *, alone: bool) -> None:
        task = self._task(job).model_copy(update={"max_starts": workers.max_starts})
        self.store.change(
            job.id, tell=("running", ""), state="running", started=now(), step="", n_starts=job.n_starts + 1
        )
        self._under_way[task.key] = task
        workers.submit(task, alone=alone)
        self._tell_all()

    def _task(self, job: Job) -> Task:
        model = self.models[job.model]
        return Task(
            case=job.id,
            model=job.model,
            model_path=model.path,
            study=job.source,
            reference=None,
            settings=job.settings,
            root=str(self.root),
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
                self.store.change(key[0], tell=("step", event.words), step=event.words)
                self._tell_all()
            return
        task = self._under_way.pop(key, None)
        job = self.store.get(key[0])
        if task is None or job is None:
            return
        if isinstance(event, Finished):
            self._finish(job, event.outcome)
        elif isinstance(event, Lost):
            self._lose(job, task, event)
        elif isinstance(event, Stopped):
            self._refuse(job, event.error)
        elif isinstance(event, Again):
            self._take_back(job)
        self._tell_all()

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if job.cancel:
            self._drop(job)
            return
        self.store.change(
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
        if self._deliveries is not None:
            self._deliveries.wake()

    def _drop(self, job: Job) -> None:
        shutil.rmtree(self.root / RESULTS / job.id, ignore_errors=True)
        self.store.change(job.id, tell=("cancelled", ""), state="cancelled", finished=now(), step="")

    def _lose(self, job: Job, task: Task, loss: Lost) -> None:
        self._n_lost += 1
        # Beside others nobody knows whose doing it was: it counts once at most.
        n = job.n_losses + 1 if loss.alone or job.n_losses == 0 else job.n_losses
        self.store.change(job.id, tell=("lost", loss.how), n_losses=n)
        if n >= MOST_LOSSES and loss.alone and not self._is_finished(job):
            self._finish(job, lost_worker(task, n, loss.how))
        else:
            self._take_back(job.model_copy(update={"n_losses": n}))

    def _refuse(self, job: Job, error: VoxmetryError) -> None:
        """Take an error that would stop a cohort: a full disk pauses all jobs, anything else is this job's own."""
        n = self._refusals[job.id] = self._refusals.get(job.id, 0) + 1
        if isinstance(error, OutputError) and n < MOST_REFUSALS:
            self._fault, self._not_before = error.found, time.monotonic() + PAUSE_SECONDS * n
            self._take_back(job)
            return
        fault = Fault.model_validate(error.to_dict())
        outcome = Outcome(case=job.id, model=job.model, state="failed", fault=fault, place=f"{RESULTS}/{job.id}")
        self._finish(job, outcome)

    def _give_back(self) -> None:
        """Take everything from the workers, and end them."""
        self._close_workers()
        for case, _ in list(self._under_way):
            if job := self.store.get(case):
                with contextlib.suppress(OutputError):
                    self._take_back(job)
        self._under_way.clear()

    def _take_back(self, job: Job) -> None:
        """Put a job that nobody works on any more where it belongs: finished, if its result stands, or waiting."""
        if job.cancel:
            self._drop(job)
        elif (result := self._read_result(job)) is not None:
            self._finish(job, self._outcome_of(job, result))
        else:
            self.store.change(job.id, tell=("waiting", ""), state="waiting", step="")

    def _is_finished(self, job: Job) -> bool:
        return self._read_result(job) is not None

    def _read_result(self, job: Job) -> StudyResult | None:
        try:
            text = (self.root / RESULTS / job.id / LAST).read_text(encoding="utf-8")
            return StudyResult.model_validate_json(text)
        except (OSError, UnicodeDecodeError, ValidationError):
            return None

    def _outcome_of(self, job: Job, result: StudyResult) -> Outcome:
        place = f"{RESULTS}/{job.id}"
        names = sorted(entry.name for entry in (self.root / place).iterdir())
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

    def listen(self, tell: Callable[[], None]) -> None:
        """Have something called, by any thread, whenever anything changes; it must not wait."""
        self._listeners.append(tell)

    def _tell_all(self) -> None:
        with self._changed:
            self._changed.notify_all()
        for tell in self._listeners:
            tell()
