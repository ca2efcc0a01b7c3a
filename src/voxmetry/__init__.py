"""Voxmetry: voxels in, measurements out.

The public names are imported when they are first used, so that `import voxmetry` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from voxmetry._version import __version__

_ROOMS = {
    "Geometry": "core.geometry",
    "Volume": "core.volume",
    "Label": "core.labels",
    "LabelTable": "core.labels",
    "Segmentation": "core.segmentation",
    "SeriesInfo": "core.records",
    "Measurement": "core.records",
    "Lesion": "core.records",
    "Comparison": "core.records",
    "CohortComparison": "core.records",
    "CohortSettings": "core.records",
    "Flag": "core.records",
    "Provenance": "core.records",
    "StudyResult": "core.records",
    "VoxmetryError": "errors",
    "ModelSpec": "config",
    "StudySettings": "config",
    "TrainSettings": "config",
    "list_series": "io",
    "read_volume": "io",
    "read_segmentation": "io",
    "save": "io",
    "resample": "ops.resample",
    "clean": "ops.components",
    "measure": "measurement",
    "lesions": "measurement",
    "compare": "measurement",
    "follow_up": "measurement.follow_up",
    "TimePoint": "measurement.follow_up",
    "FollowUp": "core.records",
    "FollowUpSettings": "core.records",
    "match_files": "measurement.match_files",
    "compare_cohort": "measurement.compare_cases",
    "list_models": "models",
    "load_model": "nn",
    "segment": "nn",
    "Predictor": "nn",
    "write_report": "report",
    "segment_study": "workflows.segment",
    "cohort": "workflows.cohort",
    "plan_cohort": "workflows.cohort.plan",
    "RunSettings": "workflows.cohort.records",
}

__all__ = ["__version__", *sorted(_ROOMS)]  # noqa: PLE0604

if TYPE_CHECKING:
    from voxmetry.config import ModelSpec, StudySettings, TrainSettings
    from voxmetry.core.geometry import Geometry
    from voxmetry.core.labels import Label, LabelTable
    from voxmetry.core.records import (
        CohortComparison,
        CohortSettings,
        Comparison,
        Flag,
        Lesion,
        Measurement,
        Provenance,
        SeriesInfo,
        StudyResult,
    )
    from voxmetry.core.records.follow_up import FollowUp, FollowUpSettings
    from voxmetry.core.segmentation import Segmentation
    from voxmetry.core.volume import Volume
    from voxmetry.errors import VoxmetryError
    from voxmetry.io import list_series, read_segmentation, read_volume, save
    from voxmetry.measurement import compare, lesions, measure
    from voxmetry.measurement.compare_cases import compare_cohort
    from voxmetry.measurement.follow_up import TimePoint, follow_up
    from voxmetry.measurement.match_files import match_files
    from voxmetry.models import list_models
    from voxmetry.nn import Predictor, load_model, segment
    from voxmetry.ops.components import clean
    from voxmetry.ops.resample import resample
    from voxmetry.report import write_report
    from voxmetry.workflows.cohort import RunSettings, cohort
    from voxmetry.workflows.cohort.plan import plan_cohort
    from voxmetry.workflows.segment import segment_study


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'voxmetry' has no attribute {name!r}")
    room = importlib.import_module(f"voxmetry.{_ROOMS[name]}")
    value = getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
