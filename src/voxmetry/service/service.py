"""What the protocols of the service share: the queue, the images, who may call, and what others may plug in."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from voxmetry.config.service import ServiceSettings
from voxmetry.core.records import StudyResult
from voxmetry.errors import VoxmetryError
from voxmetry.service.datastore import Datastore, Image
from voxmetry.service.jobs import UPLOADS, JobQueue
from voxmetry.service.multipart import FormLimits
from voxmetry.service.records import Job
from voxmetry.service.strategies import STRATEGIES, Strategy
from voxmetry.service.tokens import Tokens

LOG = logging.getLogger("voxmetry.service")
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
RECEIVED = "received"
"""What the kind of an image is that was fetched for one request."""
DATASTORE = "datastore"
"""Folder of images and labels inside the data folder."""


class Trainer(Protocol):
    """Trains models on what was corrected; none is there unless one is plugged in."""

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return what can be trained: a name, and {description, config} of each."""
        ...

    def status(self) -> dict[str, Any] | None:
        """Return the task that runs, or ran last: {id, status, start_ts, ...}; None where there was none."""
        ...

    def start(self, model: str | None, params: dict[str, Any]) -> dict[str, Any]:
        """Begin to train, and return the task; raise `BusyError` where one runs."""
        ...

    def stop(self) -> dict[str, Any]:
        """Stop what runs, and return the task."""
        ...


Fetch = Callable[[str, str], Sequence[Image]]
"""Called with the name of a peer and a Study or Series Instance UID: fetches it, and returns its series."""


@dataclass
class Hooks:
    """What others plug in.

    Parameters
    ----------
    strategies
        How the next image to annotate is chosen, by name.
    trainer
        Trains on what was corrected.
    fetch
        Fetches DICOM studies from a peer.
    network
        Counts what came by DICOM, by words.
    """

    strategies: dict[str, Strategy] = field(default_factory=lambda: dict(STRATEGIES))
    trainer: Trainer | None = None
    fetch: Fetch | None = None
    network: Callable[[], Mapping[str, int]] | None = None


class Service:
    """The parts of a running service.

    Parameters
    ----------
    settings
        Of the service.
    queue
        Its jobs.
    tokens
        Who may call; None: everybody.
    hooks
        What others plug in.
    """

    def __init__(
        self, settings: ServiceSettings, queue: JobQueue, *, tokens: Tokens | None = None, hooks: Hooks | None = None
    ) -> None:
        self.settings, self.queue, self.tokens = settings, queue, tokens
        self.hooks = hooks or Hooks()
        self.roots = {name: Path(path).absolute() for name, path in settings.roots.items()}
        self.images = Datastore(queue.root / DATASTORE, self.roots)
        self.started = time.time()
        self._uploads: asyncio.Semaphore | None = None
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._lock = threading.Lock()
        # A result never changes once it is there.
        self._read: dict[str, StudyResult] = {}
        self.is_ending = False
        queue.listen(self._tell)
        if self.hooks.fetch is not None:
            self.images.resolvers.append(self._fetched)

    @property
    def form_limits(self) -> FormLimits:
        """What a form may hold."""
        limits = self.settings.limits
        return FormLimits(int(limits.upload_mb * 1e6), limits.upload_files, int(limits.free_mb * 1e6))

    def _fetched(self, name: str) -> Image | None:
        """Fetch a series that nobody here has from the first peer that has it: OHIF names what lies in its archive."""
        if self.hooks.fetch is None or not _UID.fullmatch(name):
            return None
        for peer, how in self.settings.peers.items():
            if how.kind == "dicom":
                continue
            try:
                found = self.hooks.fetch(peer, name)
            except VoxmetryError as error:
                LOG.info("a series was not fetched from %s: %s", peer, error.found)
                continue
            if len(found) == 1 and found[0].series == name:
                return dataclasses.replace(found[0], id=name)
            for image in found:
                self.release(image)
        return None

    def submit(self, source: Path | Sequence[Path], model: str, *, owned: bool = False, **more: Any) -> Job:
        """Submit a job as `JobQueue.submit` does.

        A source of the service's own goes again where no job is made of it: it is refused, or was submitted before.
        """
        paths = [path.absolute() for path in ([source] if isinstance(source, Path) else source)]
        taken = False
        try:
            job = self.queue.submit(paths, model, owned=owned, **more)
            taken = set(job.source) == set(map(str, paths))
        finally:
            if owned and not taken:
                self.queue.let_go(paths)
        return job

    def release(self, image: Image) -> None:
        """Delete what was fetched for one request alone."""
        if image.kind == RECEIVED and self.uploads in image.path.parents:
            shutil.rmtree(image.path, ignore_errors=True)

    def results(self, images: Sequence[str]) -> dict[str, StudyResult]:
        """Return the newest result of each of some images that was segmented, by its id."""
        wanted, found = set(images), dict[str, StudyResult]()
        for job in self.queue.store.listed(states=("done",), most=100_000):
            if job.image in wanted and job.image not in found and (result := self._result(job.id)) is not None:
                found[job.image] = result
        return found

    def _result(self, job: str) -> StudyResult | None:
        if job not in self._read:
            result = self.queue.result(job)
            if result is None:
                return None
            self._read[job] = result
        return self._read[job]

    @property
    def uploads(self) -> Path:
        """Folder of what was uploaded for a job."""
        return self.queue.root / UPLOADS

    @asynccontextmanager
    async def one_upload(self) -> AsyncIterator[None]:
        """Hold one of the places of `limits.uploads_at_once`."""
        if self._uploads is None:
            self._uploads = asyncio.Semaphore(self.settings.limits.uploads_at_once)
        async with self._uploads:
            yield

    def end_waits(self) -> None:
        """Answer whoever waits for something to happen, now: the service ends."""
        self.is_ending = True
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set whenever anything changes."""
        mine = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            self._waiting.add(mine)
        try:
            yield mine[1]
        finally:
            with self._lock:
                self._waiting.discard(mine)

    async def over(self, job: str, seconds: float) -> Job:
        """Wait until a job is over, at most this long, and return it as it is then."""
        end = time.monotonic() + seconds
        async with self.changes() as changed:
            while True:
                changed.clear()
                found = await asyncio.to_thread(self.queue.get, job)
                left = end - time.monotonic()
                if found.is_over or left <= 0 or self.is_ending:
                    return found
                try:
                    # Again after a while: a notice may have come before the change could be read.
                    await asyncio.wait_for(changed.wait(), min(left, 5.0))
                except TimeoutError:
                    continue
