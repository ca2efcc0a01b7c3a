"""The same studies on a Dask cluster that the user starts the usual way; results are written by the workers."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voxmetry._version import __version__
from voxmetry.errors import ConfigError, MissingExtraError, SchedulerError, VoxmetryError
from voxmetry.workflows.cohort.executor import Again, Event, Finished, Lost, Stopped
from voxmetry.workflows.cohort.layout import WORK
from voxmetry.workflows.cohort.publish import Superseded
from voxmetry.workflows.cohort.records import Outcome, RunSettings, Task
from voxmetry.workflows.cohort.task import run_task, unforeseen

if TYPE_CHECKING:
    from distributed import Future, LocalCluster

PER_THREAD = 2
"""Studies handed out for each thread of the cluster: one that runs, and one that waits beside it."""

CONNECT_SECONDS = 15
GONE_SECONDS = 20
"""How long a scheduler may be out of reach before the run gives up."""

_LOOK_SECONDS = 2.0


class DaskWorkers:
    """The workers of a Dask cluster.

    A study runs on a worker that announces the resource GPU where any does and the device is not the CPU, on one that
    announces CPU where the device is the CPU and any does, else on any.

    Parameters
    ----------
    settings
        The scheduler's address, or 'local', or 'local:N'.
    first
        One of the tasks: each worker must have this version, and see the folder of its results.
    """

    max_starts: int | None = 3

    def __init__(self, settings: RunSettings, first: Task) -> None:
        distributed = _require_distributed()
        self._cluster: LocalCluster | None = None
        self._events: queue.Queue[tuple[Task, Future]] = queue.Queue()
        self._futures: dict[tuple[str, str], Future] = {}
        self._looked = 0.0
        self._threads: dict[str, Mapping[str, Any]] = {}
        self._seen = time.monotonic()
        self._handed_out = 0
        address = settings.scheduler or ""
        if address.split(":")[0] == "local":
            self._cluster = distributed.LocalCluster(
                n_workers=int(address.split(":")[1]) if ":" in address else 1,
                threads_per_worker=1,
                dashboard_address=None,
                silence_logs="ERROR",
            )
            address = self._cluster.scheduler_address
        self._client: Any = _connect(distributed, address)
        try:
            self._check_workers(first)
        except BaseException:
            self.close()
            raise

    def _check_workers(self, first: Task) -> None:
        """See, before the first study, that each worker has this version and sees the results' folder."""
        probe = Path(first.root) / WORK
        token = f"probe-{first.run}"
        (probe / token).write_text(first.run, encoding="ascii")
        try:
            answers = self._client.run(look_around, str(probe / token), on_error="return")
        finally:
            (probe / token).unlink(missing_ok=True)
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise ConfigError(
                    found=f"the worker {worker} cannot use voxmetry: {type(answer).__name__}",
                    expected=f"voxmetry {__version__} on every worker",
                    fix="install the same version on every worker",
                )
            version, sees = answer
            if version != __version__:
                raise ConfigError(
                    found=f"the worker {worker} has voxmetry {version}",
                    expected=f"{__version__}: other versions may give other numbers",
                    fix="install the same version on every worker",
                )
            if sees != first.run:
                raise ConfigError(
                    found=f"the worker {worker} does not see the folder of the results, or may not write to it",
                    expected="storage that all workers share, under the same path",
                    fix="put the studies and the results on shared storage, under a path that is the same everywhere",
                )

    def room(self, *, alone: bool) -> bool:
        """Whether a study can be taken now: the cluster never holds more than it can soon start."""
        self._look()
        threads = sum(int(worker["nthreads"]) for worker in self._threads.values())
        return len(self._futures) < (1 if alone else PER_THREAD * max(1, threads))

    def _look(self) -> None:
        """See now and then which workers there are: they come and go."""
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._threads = dict(self._client.scheduler_info(n_workers=-1).get("workers", {}))

    def submit(self, task: Task, *, alone: bool) -> None:  # noqa: ARG002  (`room` has seen to it)
        """Send a study to the scheduler."""
        self._handed_out += 1
        future = self._client.submit(
            run_task,
            task,
            key=f"voxmetry-{task.run}-{self._handed_out}",
            pure=False,
            retries=0,
            priority=-self._handed_out,
            resources=self._resources(task),
        )
        self._futures[task.key] = future
        future.add_done_callback(lambda done, task=task: self._events.put((task, done)))

    def _resources(self, task: Task) -> dict[str, float] | None:
        kinds = {name for worker in self._threads.values() for name in worker.get("resources", {})}
        wanted = "CPU" if task.settings.device in ("cpu", "openvino") else "GPU"
        return {wanted: 1} if wanted in kinds else None

    def wait(self, seconds: float) -> Event | None:
        """Wait for the next event."""
        self._require_scheduler()
        try:
            task, done = self._events.get(timeout=seconds)
        except queue.Empty:
            return None
        future = self._futures.get(task.key)
        if future is None or future is not done:
            return None
        if future.status == "cancelled":
            # The client gives up its futures when it loses the scheduler; what follows decides.
            self._require_scheduler(now=True)
        del self._futures[task.key]
        return self._event(task, future)

    def _event(self, task: Task, future: Future) -> Event:
        from distributed.scheduler import KilledWorker

        error = future.exception() if future.status == "error" else None
        if future.status == "cancelled" or isinstance(error, Superseded):
            return Again(task.key)
        if isinstance(error, KilledWorker):
            return Lost(task.key, True, "the scheduler lost its worker")
        if isinstance(error, VoxmetryError):
            return Stopped(task.key, error)
        outcome: Outcome = unforeseen(task, error) if error is not None else future.result()
        return Finished(outcome)

    def _require_scheduler(self, *, now: bool = False) -> None:
        """Raise `SchedulerError` where the scheduler has been out of reach for too long."""
        comm = self._client.scheduler_comm
        if self._client.status == "running" and comm is not None and not comm.comm.closed():
            self._seen = time.monotonic()
        elif now or self._client.status == "closed" or time.monotonic() - self._seen > GONE_SECONDS:
            raise SchedulerError(
                found="the Dask scheduler went away",
                expected="a scheduler that stays until the run ends",
                fix="start it again and give the same command: what is done stays done, and the run goes on from there",
            )

    def close(self) -> None:
        """Give up what is under way, and leave the cluster."""
        for future in self._futures.values():
            future.release()
        self._client.close(timeout=2)
        if self._cluster is not None:
            self._cluster.close(timeout=5)


def look_around(path: str) -> tuple[str, str]:
    """Return a worker's version of voxmetry, and what it reads in a file; runs on the worker."""
    probe = Path(path)
    try:
        content = probe.read_text(encoding="ascii")
        probe.with_suffix(".written").write_text("", encoding="ascii")
        probe.with_suffix(".written").unlink(missing_ok=True)
    except OSError:
        content = ""
    return __version__, content


def _connect(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="voxmetry")
    except (OSError, ValueError) as error:
        raise SchedulerError(
            found=f"no Dask scheduler at {address} ({type(error).__name__})",
            expected="the address that `dask scheduler` prints, such as tcp://host:8786",
            fix="start the scheduler, or check the address and that this machine reaches it",
        ) from error


def _require_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError(
            found="the package distributed is not installed",
            expected="it, to run on a Dask cluster",
            fix="pip install 'voxmetry[distributed]'; without --scheduler nothing is needed",
        ) from error
    return distributed
