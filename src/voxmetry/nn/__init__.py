"""Networks: prepare, run, restore. torch and MONAI live here and in `train/` only."""

from voxmetry.nn.composite import Composite
from voxmetry.nn.confidence import Confidence, MemberAgreement
from voxmetry.nn.model import Model, load_model
from voxmetry.nn.predict import segment
from voxmetry.nn.predictor import Predictor

__all__ = [
    "Composite",
    "Confidence",
    "MemberAgreement",
    "Model",
    "Predictor",
    "load_model",
    "segment",
]
