"""Training on corrections that were collected, by the button "Update model": one at a time, in a process of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from voxmetry.config.service import TrainingSettings
from voxmetry.errors import ConfigError
from voxmetry.io.atomic import make_folder, output_error
from voxmetry.models import find_model, read_spec
from voxmetry.service.errors import BusyError, not_found
from voxmetry.service.training_worker import GRACE_SECONDS

TRAININGS = "trainings"
"""Folder of the new runs inside the data folder, where the settings name none."""
MOST_EPOCHS = 100_000


@dataclass
class _Task:
    id: str
    out: Path
    process: subprocess.Popen[str]
    started: float
    ended: float | None = None
    is_stopped: bool = False
    said: dict[str, Any] = field(default_factory=dict)


class ProcessTrainer:
    """Trains on from one model, as `voxmetry annotate train` does.

    Parameters
    ----------
    settings
        What is trained on, from which model.
    data
        The data folder of the service.

    Raises
    ------
    ConfigError, ModelError
        If the model to start from cannot be read.
    """

    def __init__(self, settings: TrainingSettings, data: Path) -> None:
        self.settings = settings
        self.spec = read_spec(find_model(settings.start_from))
        self.folder = Path(settings.out) if settings.out is not None else data / TRAININGS
        self._lock = threading.Lock()
        self._task: _Task | None = None

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return what can be trained: the model to start from, with the options that a client may change."""
        config = {} if self.settings.epochs is None else {"epochs": self.settings.epochs}
        words = f"Train on from {self.spec.name} {self.spec.version} with the corrections that were collected."
        return {self.spec.name: {"description": words, "config": config}}

    def status(self) -> dict[str, Any] | None:
        """Return the task that runs, or ran last; None where there was none since the service started."""
        with self._lock:
            return None if self._task is None else self._facts(self._task)

    def start(self, model: str | None, params: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to train, and return the task.

        Raises
        ------
        NotFoundError
            If another model is asked for.
        ConfigError
            If the options cannot be used.
        BusyError
            If a training runs.
        OutputError
            If the folder cannot be written.
        """
        if model is not None and model != self.spec.name:
            raise not_found("trainer", f"name {self.spec.name}")
        epochs = self._epochs(params)
        with self._lock:
            if self._task is not None and self._facts(self._task)["status"] == "RUNNING":
                raise BusyError(
                    found="a training runs already",
                    expected="one at a time",
                    fix="wait for it, or stop it: DELETE /train/",
                )
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{token_hex(3)}"
            self._task = _Task(name, self.folder / name, self._process(name, epochs), time.time())
            return self._facts(self._task)

    def stop(self) -> dict[str, Any]:
        """Stop what runs, and return the task; its run folder stays, and can be resumed by `annotate train --resume`.

        Raises
        ------
        NotFoundError
            If none runs.
        """
        with self._lock:
            task = self._task
            if task is None or self._facts(task)["status"] != "RUNNING":
                raise not_found("training that runs", "start one: POST /train/")
            task.is_stopped = True
            if task.process.stdin is not None:
                task.process.stdin.close()
            try:
                task.process.wait(GRACE_SECONDS + 5)
            except subprocess.TimeoutExpired:
                task.process.kill()
                task.process.wait()
            return self._facts(task)

    def close(self) -> None:
        """Stop what runs, as the service ends."""
        running = self.status()
        if running is not None and running["status"] == "RUNNING":
            self.stop()

    def _epochs(self, params: Mapping[str, Any]) -> int | None:
        # A client that names no model sends the parameters of each.
        own = params.get(self.spec.name)
        given = (own if isinstance(own, Mapping) else params).get("epochs", self.settings.epochs)
        if given is None or (type(given) is int and 1 <= given <= MOST_EPOCHS):
            return given
        raise ConfigError(
            found="epochs that are no whole number of 1 or more",
            expected=f"1 to {MOST_EPOCHS}",
            fix="change it, or leave it out",
        )

    def _process(self, name: str, epochs: int | None) -> subprocess.Popen[str]:
        order = {"settings": self.settings.model_dump(mode="json"), "out": str(self.folder / name), "epochs": epochs}
        try:
            make_folder(self.folder)
            with (self.folder / f"{name}.log").open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "voxmetry.service.training_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    # Ctrl-C reaches the service alone, which then ends its training.
                    start_new_session=True,
                )
            if process.stdin is not None:
                process.stdin.write(json.dumps(order) + "\n")
                process.stdin.flush()
        except OSError as error:
            raise output_error(self.folder, error) from error
        return process

    def _facts(self, task: _Task) -> dict[str, Any]:
        code = task.process.poll()
        if code is not None and task.ended is None:
            task.ended = time.time()
            with task.process:
                text = task.process.stdout.read() if task.process.stdout is not None else ""
            task.said = json.loads(text) if text else {}
        facts: dict[str, Any] = {"id": task.id, "name": self.spec.name, "start_ts": int(task.started)}
        if code is None:
            return facts | {"status": "RUNNING", "details": [f"{_epochs_done(task.out)} epochs are done"]}
        facts |= {"end_ts": int(task.ended or 0), "exit_code": code}
        if task.is_stopped:
            return facts | {"status": "STOPPED", "details": [f"{_epochs_done(task.out)} epochs were done"]}
        if "model" in task.said:
            kept = f"trained on {task.said['training']} cases; {task.said['held_out']} held out"
            return facts | {"status": "DONE", "details": [kept, f"the new model is {task.id}/{task.said['model']}"]}
        error = task.said.get("error") or {"found": "the training ended", "fix": f"look at {task.id}.log"}
        return facts | {
            "status": "ERROR",
            "details": [str(error[key]) for key in ("found", "expected", "fix") if key in error],
        }


def _epochs_done(run: Path) -> int:
    try:
        with (run / "log.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))
    except OSError:
        return 0
