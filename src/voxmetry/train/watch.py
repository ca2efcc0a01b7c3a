"""Watchers of a run: what is written beside the log after each epoch."""

from __future__ import annotations

import math
from pathlib import Path

from voxmetry.errors import MissingExtraError


class TensorBoard:
    """Writes each number of the log to `RUN/tensorboard`, as one curve each over the epochs.

    Raises
    ------
    MissingExtraError
        If the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                found="the package tensorboard is not installed",
                expected="it, to write TensorBoard's files",
                fix='pip install "voxmetry[tensorboard]"; log.csv has the same numbers without it',
            ) from error

    def __call__(self, run: Path, row: dict[str, float]) -> None:
        """Add an epoch; what an earlier, longer run wrote from this epoch on is left out of the curves."""
        from torch.utils.tensorboard import SummaryWriter

        epoch = int(row["epoch"])
        with SummaryWriter(str(run / "tensorboard"), purge_step=epoch) as writer:
            for name, value in row.items():
                if name != "epoch" and not math.isnan(value):
                    writer.add_scalar(name, value, epoch)
