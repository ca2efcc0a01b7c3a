"""Training: cases in, a model folder out."""

from voxmetry.train.loop import train

__all__ = ["train"]
