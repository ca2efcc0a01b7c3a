"""Settings and model specifications, read from strict YAML."""

from voxmetry.config.domain import Landmarks, Quality, TrainingDomain, predicted_dice
from voxmetry.config.fast import FAST_OVERLAP, fast_spec
from voxmetry.config.inputs import InputSpec, Normalise, Range, SeriesRules
from voxmetry.config.model import (
    Axcodes,
    CleanStep,
    Clicks,
    InstanceRule,
    IntTriple,
    MapName,
    ModelSpec,
    Network,
    NetworkSpec,
    Resampling,
    Spacing,
    TotalRule,
    Triple,
    Weights,
    WindowSpec,
)
from voxmetry.config.networks import (
    Count,
    Counts,
    FcnNetwork,
    MaskRcnnNetwork,
    MonaiName,
    MonaiNetwork,
    NnunetNetwork,
)
from voxmetry.config.study import DicomOutput, StudySettings
from voxmetry.config.train import Augment, TrainSettings
from voxmetry.config.yaml import dump_yaml, load_yaml, parse_record

__all__ = [
    "FAST_OVERLAP",
    "Augment",
    "Axcodes",
    "CleanStep",
    "Clicks",
    "Count",
    "Counts",
    "DicomOutput",
    "FcnNetwork",
    "InputSpec",
    "InstanceRule",
    "IntTriple",
    "Landmarks",
    "MapName",
    "MaskRcnnNetwork",
    "ModelSpec",
    "MonaiName",
    "MonaiNetwork",
    "Network",
    "NetworkSpec",
    "NnunetNetwork",
    "Normalise",
    "Quality",
    "Range",
    "Resampling",
    "SeriesRules",
    "Spacing",
    "StudySettings",
    "TotalRule",
    "TrainSettings",
    "TrainingDomain",
    "Triple",
    "Weights",
    "WindowSpec",
    "dump_yaml",
    "fast_spec",
    "load_yaml",
    "parse_record",
    "predicted_dice",
]
