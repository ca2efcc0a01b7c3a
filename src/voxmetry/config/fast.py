"""What a fast run does otherwise than a full one, as far as a model's specification says it."""

from __future__ import annotations

from voxmetry.config.model import ModelSpec

FAST_OVERLAP = 0.25
"""The share that neighbouring windows of a fast run overlap by, at most: of a large image 0.3 times the windows that
one half takes."""


def fast_spec(spec: ModelSpec) -> ModelSpec:
    """Return a model whose windows overlap by `FAST_OVERLAP` at most."""
    overlap = min(spec.window.overlap, FAST_OVERLAP)
    return spec.model_copy(update={"window": spec.window.model_copy(update={"overlap": overlap})})
