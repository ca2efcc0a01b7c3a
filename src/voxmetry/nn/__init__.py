"""Networks: prepare, run, restore. torch and MONAI live here and in `train/` only."""

from voxmetry.nn.model import Model, load_model
from voxmetry.nn.predict import segment

__all__ = ["Model", "load_model", "segment"]
