"""Where a run computes: device, precision, and how many processes share it, by Lightning Fabric.

One process needs nothing. Several are started by `torchrun`, on one machine or more; each finds its place in the
environment, and the gradients are averaged over all of them (DDP).
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch

from voxmetry.config import TrainSettings
from voxmetry.errors import ConfigError, MissingExtraError
from voxmetry.nn.runtime import RuntimeChoice

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISION = {"bf16": "bf16-mixed", "fp16": "16-mixed", "float32": "32-true"}
"""fp16 with gradients that are scaled, so that small ones are not lost."""


def n_processes() -> int:
    """Return the number of processes that `torchrun` started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Say whether this is the process that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def import_fabric() -> type[Fabric]:
    """Import what only training needs.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise MissingExtraError(
            found="the package lightning-fabric is not installed",
            expected="it, to train; segmenting and measuring do without",
            fix='pip install "voxmetry[train]"',
        ) from error
    return Fabric


def open_fabric(settings: TrainSettings, choice: RuntimeChoice) -> Fabric:
    """Return the device, alone or as one of the processes of `torchrun`, which have found each other.

    Parameters
    ----------
    settings
        The run; its batch is shared out evenly.
    choice
        "cpu" or "cuda", in bf16, fp16 or float32, as `nn.runtime.choose_for_training` returns it.

    Raises
    ------
    ConfigError
        If the batch cannot be shared out evenly.
    MissingExtraError
        If what only training needs is not installed.
    """
    total, here = n_processes(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if settings.batch_size % total:
        raise ConfigError(
            found=f"a batch of {settings.batch_size} cases for {total} processes",
            expected="as many cases for each process: the batch is that of all processes together",
            fix=f"set batch_size to {-(-settings.batch_size // total) * total}, or start fewer processes",
        )
    # It would say the precision once more, in words of its own.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = import_fabric()(
        accelerator=choice.device,
        devices=here,
        num_nodes=total // here,
        strategy="ddp" if total > 1 else "auto",
        precision=PRECISION[choice.precision],
    )
    fabric.launch()
    return fabric


def gather(fabric: Fabric, table: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Bring the rows of all processes together, sorted by name; each process gets all of them."""
    if fabric.world_size == 1:
        return table
    parts: list[dict[str, dict[str, float]]] = [{} for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(parts, table)
    return dict(sorted(item for part in parts for item in part.items()))
