"""Numbers from label maps: sizes, intensities, overlaps and distances, each with its definition."""

from __future__ import annotations

import sys
from types import ModuleType

from voxmetry.core.records import Measurement
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.measure.compare import compare, summarise
from voxmetry.measure.definitions import DEFINITIONS, definitions
from voxmetry.measure.lesions import lesions, sum_of_diameters_mm
from voxmetry.measure.volumetry import measure

__all__ = [
    "DEFINITIONS",
    "compare",
    "definitions",
    "lesions",
    "measure",
    "sum_of_diameters_mm",
    "summarise",
]


class _Room(ModuleType):
    """The package, called like its main function, so that `voxmetry.measure(segmentation)` always works."""

    def __call__(self, segmentation: Segmentation, volume: Volume | None = None) -> tuple[Measurement, ...]:
        return measure(segmentation, volume)


sys.modules[__name__].__class__ = _Room
