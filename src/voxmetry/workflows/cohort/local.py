"""Worker processes of this machine, each with its model loaded once, watched over by the run."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from voxmetry import errors
from voxmetry.errors import InferenceError, VoxmetryError
from voxmetry.workflows.cohort.executor import Again, Event, Finished, Lost, Step, Stopped
from voxmetry.workflows.cohort.records import Outcome, RunSettings, Task

Loading: TypeAlias = tuple[str, str, str]
"""What a model is loaded by, as `task.loading_of` gives it."""


class _Process:
    """One worker process, its messages on a queue."""

    def __init__(self, number: int, in_flight: int, messages: queue.Queue[Any], environment: Mapping[str, str]) -> None:
        self.number = number
        self.busy: dict[tuple[str, str], Task] = {}
        self.held = False
        """Whether it does one study alone."""
        self.told = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (lives as long as the process)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "voxmetry.workflows.cohort.worker", str(in_flight)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.told,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            self.told.close()
            raise InferenceError(
                found=f"a worker cannot be started: {error.strerror or type(error).__name__}",
                expected="a machine on which this process may start others",
                fix="look at ulimit -u and at the permissions of the Python that runs this",
            ) from error
        self._messages = messages
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            self._messages.put((self, json.loads(line)))
        self._messages.put((self, {"event": "gone"}))

    def send(self, line: str) -> None:
        # Where it is dying, its end comes as a message, with all that it had in hand.
        with contextlib.suppress(OSError):
            if self.process.stdin:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()

    def how(self) -> str:
        """Say how the process ended."""
        code = self.process.wait()
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def last_words(self) -> str:
        """Return the last line that it wrote to standard error."""
        self.told.seek(0)
        lines = [line.strip() for line in self.told if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self.told.close()


class LocalWorkers:
    """Worker processes of this machine: one for each CUDA device, or one on the CPU, if not told otherwise.

    Parameters
    ----------
    settings
        How many processes, and how many studies each holds at once.
    models
        What each process loads before its first study.
    """

    max_starts: int | None = None

    def __init__(self, settings: RunSettings, models: Sequence[Loading]) -> None:
        self._settings = settings
        self._models = models
        self._messages: queue.Queue[Any] = queue.Queue()
        self._processes: list[_Process] = []
        self._known_good = False
        for number in range(settings.workers or 1):
            self._start(number)

    def _start(self, number: int) -> None:
        settings = self._settings
        environment = _environment(number, settings)
        worker = _Process(number, settings.in_flight, self._messages, environment)
        self._processes.append(worker)
        for model in self._models:
            worker.send(json.dumps({"event": "load", "model": model}))

    def room(self, *, alone: bool) -> bool:
        """Whether a study can be taken now."""
        return self._free(alone=alone) is not None

    def _free(self, *, alone: bool) -> _Process | None:
        limit = 1 if alone else self._settings.in_flight
        free = [worker for worker in self._processes if len(worker.busy) < limit and not worker.held]
        return min(free, key=lambda worker: len(worker.busy), default=None)

    def submit(self, task: Task, *, alone: bool) -> None:
        """Send a study to the process that has least to do."""
        worker = self._free(alone=alone)
        if worker is None:
            raise InferenceError(
                found="no worker with room", expected="a call after room() said yes", fix="report this error"
            )
        worker.busy[task.key] = task
        worker.held = alone
        worker.send(task.model_dump_json())

    def wait(self, seconds: float) -> Event | None:
        """Wait for the next event."""
        try:
            worker, message = self._messages.get(timeout=seconds)
        except queue.Empty:
            return None
        what = message["event"]
        if what == "loss":
            loss: Lost = message["loss"]
            return loss
        if what == "gone":
            return self._gone(worker)
        if what == "ready":
            self._known_good = True
            self._more_devices(message["cuda_devices"])
            return None
        key = (message["case"], message["model"])
        if what == "step":
            return Step(key, message["words"])
        worker.busy.pop(key, None)
        worker.held = False
        if what == "stop":
            return Stopped(key, _error(message["error"]))
        if what == "superseded":
            return Again(key)
        return Finished(Outcome.model_validate(message["outcome"]))

    def _more_devices(self, n: int) -> None:
        """Start a process for each further CUDA device, where nothing else was asked for."""
        wanted = n if self._settings.workers is None and self._settings.study.device in ("auto", "cuda") else 0
        for number in range(len(self._processes), wanted):
            self._start(number)

    def _gone(self, worker: _Process) -> Event | None:
        how = worker.how()
        if not self._known_good:
            words = worker.last_words()
            raise InferenceError(
                found=f"a worker process ended before it was ready ({how}): {words}",
                expected="a process that loads torch",
                fix="see that `voxmetry demo` runs in this environment",
            )
        self._processes.remove(worker)
        worker.stop()
        self._start(worker.number)
        # The others of the same process come as messages of their own.
        alone = len(worker.busy) == 1
        losses = [Lost(key, alone, how) for key in worker.busy]
        for loss in losses[1:]:
            self._messages.put((worker, {"event": "loss", "loss": loss}))
        return losses[0] if losses else None

    def close(self) -> None:
        """Kill the processes; what they have not renamed into place is as if it had never been."""
        for worker in self._processes:
            worker.stop()


def _environment(number: int, settings: RunSettings) -> dict[str, str]:
    environment = dict(os.environ)
    # The worker must find the same voxmetry as this process, also in a checkout that is not installed.
    root = str(Path(__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (root, environment.get("PYTHONPATH")) if part)
    environment.setdefault("PYTHONWARNINGS", "ignore")
    workers = settings.workers or 1
    if workers > 1:
        # Each on its share of the cores; all on all would slow each other down.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    names = cuda_devices(environment)
    if settings.study.device in ("auto", "cuda") and names and number > 0:
        environment["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]
    # Processes on one GPU share its memory.
    environment["VOXMETRY_DEVICE_SHARE"] = f"{1 / max(1, -(-workers // max(1, len(names)))):.4f}"
    return environment


def cuda_devices(environment: Mapping[str, str], drivers: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Return the names of the CUDA devices that processes may use; none where there is none, or it cannot be told.

    Without torch: this process does not load it. Windows is asked through `nvidia-smi`.
    """
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    if drivers.is_dir():
        return [str(index) for index, _ in enumerate(drivers.iterdir())]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        ran = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(index) for index, line in enumerate(ran.stdout.splitlines()) if line.startswith("GPU ")]


def _error(content: Mapping[str, str]) -> VoxmetryError:
    kind = getattr(errors, content["error"], VoxmetryError)
    return kind(found=content["found"], expected=content["expected"], fix=content["fix"])
