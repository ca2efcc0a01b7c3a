"""Numbers from label maps: sizes, intensities, overlaps and distances, each with its definition."""

from __future__ import annotations

from voxmetry.measurement.compare import compare, summarise
from voxmetry.measurement.definitions import DEFINITIONS, definitions
from voxmetry.measurement.lesions import lesions
from voxmetry.measurement.volumetry import measure

__all__ = [
    "DEFINITIONS",
    "compare",
    "definitions",
    "lesions",
    "measure",
    "summarise",
]
