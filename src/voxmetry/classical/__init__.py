"""Classical baselines: thresholds, clusters and edges behind the interface of a model."""

from __future__ import annotations

from voxmetry.classical.model import Baseline, is_baseline, load_baseline
from voxmetry.classical.spec import BaselineSpec

__all__ = ["Baseline", "BaselineSpec", "is_baseline", "load_baseline"]
