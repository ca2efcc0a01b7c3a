"""A worker process of this machine: tasks come in as lines of JSON, what became of them goes out.

Started by `workflows.cohort.local` as `python -m voxmetry.workflows.cohort.worker`, so that a script or a notebook
that starts a cohort needs no guard round its main part, and a study that crashes the process does not take the run
with it.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from voxmetry.errors import VoxmetryError
from voxmetry.workflows.cohort.publish import Superseded
from voxmetry.workflows.cohort.records import Outcome, Task
from voxmetry.workflows.cohort.task import load_once, run_task, unforeseen


def main() -> None:
    """Serve until the other end closes or dies."""
    # Libraries print to standard output; the messages go through a copy of it that only this module knows.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(sys.stdin, channel, in_flight=int(sys.argv[1]))
    # Threads may still be at work on studies that nobody waits for.
    os._exit(0)


def serve(tasks: IO[str], channel: IO[str], *, in_flight: int) -> None:
    """Do the tasks that come, several at once, and say of each that it begins and what became of it."""
    lock = threading.Lock()

    def say(**message: object) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    pool = ThreadPoolExecutor(in_flight)
    say(event="ready", pid=os.getpid(), cuda_devices=_cuda_devices())
    for line in tasks:
        content = json.loads(line)
        if content.get("event") == "load":
            pool.submit(load_once, *content["model"])
            continue
        task = Task.model_validate(content)
        future = pool.submit(run_task, task, functools.partial(_step, say, task))
        future.add_done_callback(lambda future, task=task: say(**message_of(task, future)))  # type: ignore[misc]


def _step(say: Callable[..., None], task: Task, words: str) -> None:
    say(event="step", case=task.case, model=task.model, words=words)


def message_of(task: Task, future: Future[Outcome]) -> dict[str, object]:
    """Turn what a task returned or raised into a message."""
    error = future.exception()
    key = {"case": task.case, "model": task.model}
    if isinstance(error, Superseded):
        return {"event": "superseded", **key}
    if isinstance(error, VoxmetryError):
        return {"event": "stop", "error": error.to_dict(), **key}
    outcome = future.result() if error is None else unforeseen(task, error)
    return {"event": "outcome", "outcome": outcome.model_dump(mode="json"), **key}


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


if __name__ == "__main__":
    main()
