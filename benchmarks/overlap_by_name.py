"""Overlap of two label maps by the names of their structures, for the benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

from voxmetry import Segmentation
from voxmetry.measurement.overlap import Overlap, overlaps


def overlap_by_name(found: Segmentation, truth: Segmentation, names: Sequence[str]) -> dict[str, Overlap]:
    """Return the overlap of structures that both label tables have."""
    pairs = [(found.labels[name].value, truth.labels[name].value) for name in names]
    return dict(zip(names, overlaps(prediction=found, reference=truth, pairs=pairs), strict=True))
