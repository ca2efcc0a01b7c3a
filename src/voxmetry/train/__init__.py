"""Training: cases in, a model folder out.

`train` is imported when it is first used: a data set can be opened without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voxmetry.train.loop import train

__all__ = ["train"]


def __getattr__(name: str) -> object:
    if name != "train":
        raise AttributeError(f"module 'voxmetry.train' has no attribute {name!r}")
    from voxmetry.train.loop import train

    return train
