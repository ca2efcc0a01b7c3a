"""The queue of the service: jobs in, results out, and nothing lost or done twice in between.

A job is written down before its client hears of it. Workers are those of a cohort, with their models loaded once; a
study is moved into its place in one step, its result last, so that after a kill a job is either finished, which is
seen from its folder, or runs again as if it had never begun.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voxmetry.config import StudySettings
from voxmetry.config.service import ServiceSettings
from voxmetry.core.records import StudyResult
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import make_folder
from voxmetry.service.delivery import Deliver, Deliveries
from voxmetry.service.errors import BusyError, NoRoomError, QueueFullError, not_found
from voxmetry.service.records import Counts, Job, JobEvent
from voxmetry.service.retention import INCOMING, Retirement, sweep_uploads
from voxmetry.service.runner import RESULTS, Runner, read_result
from voxmetry.service.store import NAME, JobStore, now
from voxmetry.workflows.cohort.layout import WORK
from voxmetry.workflows.cohort.lock import run_lock
from voxmetry.workflows.cohort.model_index import KnownModel, check_names, load_known_model
from voxmetry.workflows.cohort.publish import sweep, withdraw

UPLOADS = "uploads"
"""Folder inside the data folder: a folder of each upload."""


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
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._held = contextlib.ExitStack()
        self._is_stopping = False
        self._runner = Runner(self)
        self._deliveries = Deliveries(self, deliver) if deliver is not None else None
        self.retention = Retirement(self)
        self.store: JobStore

    # --- life

    def start(self) -> None:
        """Hold the data folder, put in order what a kill left, and begin to work."""
        try:
            self._begin()
            self._runner.start()
            if self._deliveries is not None:
                self._deliveries.start()
        except BaseException:
            self.stop()
            raise

    def _begin(self) -> None:
        make_folder(self.root / WORK)
        fix = "stop that one first, or name another folder as data in the settings"
        self._held.enter_context(run_lock(self.root / WORK, what="serves this folder", fix=fix))
        self.store = JobStore(self.root / NAME)
        self._held.callback(self.store.close)
        sweep(self.root)
        for folder in (RESULTS, UPLOADS):
            make_folder(self.root / folder)
        for job in self.store.in_state("running"):
            self._runner.take_back(job)
        sweep_uploads(self.root / UPLOADS, self.store, self.root / INCOMING)

    def stop(self) -> None:
        """Give up what is under way, which runs again after the next start, and free everything."""
        self._is_stopping = True
        self.tell_all()
        if self._deliveries is not None:
            self._deliveries.stop()
        self._runner.stop()
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
        if once is not None and (known := self.store.named(once)) is not None:
            return known
        self.require_place()
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
        self.tell_all()
        self._runner.wake()
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

    def require_place(self) -> None:
        """Raise what a job would be refused with now: `NoRoomError`, or `QueueFullError` where as many wait as may."""
        self.require_room()
        if self.store.n_waiting() >= self.settings.limits.waiting_jobs:
            raise QueueFullError(
                found=f"{self.settings.limits.waiting_jobs} jobs wait already",
                expected="room in the queue (limits.waiting_jobs)",
                fix="try again later",
            )

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
        return read_result(self.root, self.get(job))

    def wait(self, job: str, seconds: float) -> Job:
        """Wait until a job is over, at most this long, and return it as it is then."""
        with self._changed:
            self._changed.wait_for(lambda: self.get(job).is_over or self._is_stopping, timeout=seconds)
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
        self.tell_all()
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
        self.tell_all()

    def remove_source(self, job: Job) -> None:
        """Delete what was uploaded for a job, unless another job still reads it."""
        if job.owned:
            self.let_go([Path(path) for path in job.source])

    def let_go(self, paths: Sequence[Path]) -> None:
        """Delete uploads that no job reads: each is a folder of its own, and nothing outside is ever deleted."""
        uploads = self.root / UPLOADS
        for path in paths:
            if uploads in path.parents and not self.store.uses(str(path)):
                shutil.rmtree(uploads / path.relative_to(uploads).parts[0], ignore_errors=True)

    def counts(self) -> Counts:
        """Return how many jobs are in each state."""
        return self.store.counts()

    def events(self, *, after: int = 0, job: str | None = None) -> list[JobEvent]:
        """Return what happened after an event, to one job or to all."""
        return self.store.events(after=after, job=job)

    def health(self) -> Health:
        """Return how the service is."""
        words = self._runner.fault or ("" if self._runner.is_alive else "the queue has stopped")
        with contextlib.suppress(FileNotFoundError):
            words = words or self.shortage()
        return Health(not words, words, self._runner.n_lost)

    def shortage(self) -> str:
        """Say how much too little room the disk has; empty where it has enough."""
        try:
            self.require_room()
        except NoRoomError as error:
            return error.found
        return ""

    def listen(self, tell: Callable[[], None]) -> None:
        """Have something called, by any thread, whenever anything changes; it must not wait."""
        self._listeners.append(tell)

    def tell_all(self) -> None:
        """Wake whoever waits for a change."""
        with self._changed:
            self._changed.notify_all()
        for tell in self._listeners:
            tell()

    def deliver_again(self, job: str) -> Job:
        """Send what no peer has taken of a job's results, as if it had never been tried.

        Raises
        ------
        NotFoundError
            If there is no such job.
        BusyError
            If it is not done, or nothing is left to send.
        """
        found = self.get(job)
        if found.state != "done":
            raise BusyError(found=f"a job that is {found.state}", expected="one that is done", fix="wait until it is")
        if self._deliveries is None or not self._deliveries.again(found.id):
            raise BusyError(
                found="nothing of this job that a peer has not taken",
                expected="results that were to be sent and were not taken",
                fix=f"see delivery and delivery_fault: GET /v1/jobs/{found.id}",
            )
        self.tell_all()
        return self.get(job)

    def deliver_soon(self) -> None:
        """Look at once whether results are to be sent."""
        if self._deliveries is not None:
            self._deliveries.wake()
