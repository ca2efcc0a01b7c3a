"""Numbers from label maps: sizes, intensities, overlaps and distances, each with its definition."""

from __future__ import annotations

from voxmetry.measure.compare import compare, summarise
from voxmetry.measure.definitions import DEFINITIONS, definitions
from voxmetry.measure.volumetry import measure

__all__ = ["DEFINITIONS", "compare", "definitions", "measure", "summarise"]
