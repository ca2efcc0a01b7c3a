"""What a run may take, and what one step of training takes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

NetworkChoice: TypeAlias = Literal["auto", "dynunet", "fcn", "maskrcnn"]

VALUES_PER_VOXEL = 20
"""Values of four bytes that a step keeps for each voxel and channel of a level: 11 to 14 were
measured for five networks in bf16, and 17 to 24 for three in float32; with `BASE_GB`, 20 gave an estimate above the
measured peak for all eight."""
CLASS_VALUES, CLASS_VALUES_A_LEVEL = 6, 3
"""Values of four bytes that the loss keeps for each voxel and class, and for each coarser output beside: 5.0 and 2.1
were counted among the tensors of a step that live at once, and the process held up to 1.35 times as much."""
PARTIAL_CLASS_VALUES, PARTIAL_CLASS_VALUES_A_LEVEL = 8, 5
"""The same where label maps leave structures open: 6.5 and 3.8 were counted."""
BASE_GB = 0.6
"""What the process takes before the first step."""


@dataclass(frozen=True)
class Budget:
    """What a run may take.

    Parameters
    ----------
    memory_gb
        Memory for training, in 10^9 bytes.
    device
        "cpu" or "cuda": decides how many steps are affordable.
    epochs
        None lets the number of steps decide.
    modalities
        Modality of each channel, where neither files nor names say it.
    processes
        Processes that share a batch, each with this memory.
    network
        "dynunet", "fcn" or "maskrcnn"; "auto": the last where the label maps tell instances apart, else the first.
    """

    memory_gb: float = 4.0
    device: str = "cpu"
    epochs: int | None = None
    modalities: tuple[str, ...] | None = None
    processes: int = 1
    network: NetworkChoice = "auto"


@dataclass(frozen=True)
class Outputs:
    """What the loss is taken of.

    Parameters
    ----------
    classes
        With the background.
    partial
        Whether label maps leave structures open.
    """

    classes: int
    partial: bool = False

    def values(self, levels: int) -> int:
        """Return the values that a voxel takes in the loss of a network of so many levels."""
        first, beside = CLASS_VALUES, CLASS_VALUES_A_LEVEL
        if self.partial:
            first, beside = PARTIAL_CLASS_VALUES, PARTIAL_CLASS_VALUES_A_LEVEL
        return self.classes * (first + beside * coarser_outputs(levels))


def coarser_outputs(levels: int) -> int:
    """Return how many coarser outputs take part in the loss of a network of so many levels."""
    return min(2, max(0, levels - 3))


def memory_gb(patch: list[int], strides: list[list[int]], channels: list[int], batch: int, outputs: Outputs) -> float:
    """Estimate what one training step takes in 10^9 bytes.

    Activations of each level and the loss of each class, in float32, and the base.

    Examples
    --------
    >>> levels = [[1] * 3, [2] * 3, [2] * 3, [2] * 3], [16, 32, 64, 128]
    >>> [round(memory_gb([48, 48, 48], *levels, 2, Outputs(classes)), 2) for classes in (3, 105)]
    [1.0, 1.81]
    """
    voxels = math.prod(patch)
    values = voxels * outputs.values(len(strides)) / VALUES_PER_VOXEL
    for stride, channel in zip(strides, channels, strict=True):
        voxels //= math.prod(stride)
        values += voxels * channel
    return BASE_GB + 4e-9 * VALUES_PER_VOXEL * batch * values
