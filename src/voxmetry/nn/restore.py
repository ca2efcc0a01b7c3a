"""From scores on the model's grid to labels on the study's own grid.

Labels are chosen slab by slab: full-resolution scores of all classes never exist at once.
"""

from __future__ import annotations

import numpy as np
import torch

from voxmetry.config import ModelSpec
from voxmetry.core.geometry import Geometry
from voxmetry.core.segmentation import Segmentation
from voxmetry.nn.grids import interpolate, reorientation, restoring_positions

SLAB_VALUES = 64_000_000
"""Scores held at once while labels are chosen: 256 MB of float32."""


def restore(scores: torch.Tensor, *, grid: Geometry, native: Geometry, spec: ModelSpec) -> Segmentation:
    """Choose the label of each voxel of the study's own grid.

    Parameters
    ----------
    scores
        (1, n_classes, I, J, K) logits on `grid`.
    grid
        The model's grid, as `nn.grids.model_grid(native, spec)` gives it.
    native
        The study's own grid.
    spec
        The model.

    Returns
    -------
    Segmentation
        On `native` exactly: the class whose score, linearly interpolated between model voxels and held constant beyond
        the outermost, is the largest. On equal scores the lower class wins, the background first. For models with
        regions, activation or cropping: see `ModelSpec` and `Resampling`.
    """
    moved, oriented = reorientation(native, spec.orientation)
    values = np.array([0, *spec.labels.values], dtype=np.uint8 if max(spec.labels.values) < 256 else np.uint16)
    labels = np.zeros(oriented.shape, dtype=values.dtype)
    (at_i, at_j, at_k), box = restoring_positions(grid, oriented, spec)
    covered = labels[box]
    if spec.activation == "softmax":
        scores = scores.softmax(1)
    depth = max(1, SLAB_VALUES // (scores.shape[1] * oriented.shape[1] * oriented.shape[2]))
    for start in range(0, len(at_i), depth):
        slab = interpolate(scores[0], at_i[start : start + depth], 1)
        slab = interpolate(interpolate(slab, at_j, 2), at_k, 3)
        chosen = values[slab.argmax(0).cpu().numpy()] if spec.regions is None else paint(slab, spec.regions)
        covered[start : start + depth] = chosen
    return Segmentation(np.ascontiguousarray(moved.inverse(labels)), native, spec.labels)


def paint(logits: torch.Tensor, regions: tuple[int, ...]) -> np.ndarray:
    """Paint one region over the other where its probability is above one half, its logit above 0.

    Parameters
    ----------
    logits
        (n_regions, I, J, K).
    regions
        The label value of each, in the order of painting.

    Returns
    -------
    ndarray
        (I, J, K) uint16 label values, 0 where there is no region.
    """
    labels = np.zeros(logits.shape[1:], dtype=np.uint16)
    for region, value in zip(logits, regions, strict=True):
        labels[(region > 0).cpu().numpy()] = value
    return labels
