"""The process that trains: an order comes in as one line of JSON, the new model or what is wrong goes out.

Started by `service.training` as `python -m voxmetry.service.training_worker`. It ends when the other end closes or
dies: a service that was killed leaves no training behind that the next one would not know of.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import IO

from voxmetry.config.service import TrainingSettings
from voxmetry.errors import VoxmetryError
from voxmetry.workflows.annotate.retrain import retrain

GRACE_SECONDS = 20.0
"""How long a training may take to end in order."""
STOPPED = 130


def main() -> None:
    """Train as the order says."""
    # Libraries print to standard output; the answer goes through a copy of it that only this module knows.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    order = json.loads(sys.stdin.readline())
    try:
        threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
        said = _train(TrainingSettings.model_validate(order["settings"]), Path(order["out"]), order["epochs"])
    except KeyboardInterrupt:
        os._exit(STOPPED)
    channel.write(json.dumps(said))
    channel.close()
    os._exit(0 if "model" in said else 1)


def _train(settings: TrainingSettings, out: Path, epochs: int | None) -> dict[str, object]:
    try:
        path, split = retrain(
            settings.start_from,
            out,
            data=settings.data,
            corrections=settings.work,
            held_out_share=settings.held_out,
            epochs=epochs,
            device=settings.device,
            max_minutes=settings.max_minutes,
        )
    except VoxmetryError as error:
        return {"error": error.to_dict()}
    return {"model": path.name, "training": len(split.training), "held_out": len(split.held_out)}


def _end_with(other: IO[str]) -> None:
    """Wait until the other end closes, then end the training."""
    other.read()
    _thread.interrupt_main()
    time.sleep(GRACE_SECONDS)
    os._exit(STOPPED)


if __name__ == "__main__":
    main()
