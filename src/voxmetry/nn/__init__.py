"""Networks: prepare, run, restore. torch and MONAI live here and in `train/` only."""

from voxmetry.nn.composite import Composite
from voxmetry.nn.confidence import Agreement, Confidence
from voxmetry.nn.model import Model, load_model
from voxmetry.nn.predict import segment
from voxmetry.nn.predictor import Outcome, Predictor

__all__ = ["Agreement", "Composite", "Confidence", "Model", "Outcome", "Predictor", "load_model", "segment"]
