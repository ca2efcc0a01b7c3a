"""The slow and obvious way to find surfaces and distances: loops over blocks, and all pairs of points."""

from __future__ import annotations

import itertools

import numpy as np

from voxmetry import Geometry
from voxmetry.ops.surface import element_areas_mm2


def surface_points(mask: np.ndarray, grid: Geometry, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Points in RAS+ mm (N, 3) and their weights (N,)."""
    padded = np.pad(mask.astype(bool), 1)
    points, weights = [], []
    if kind == "border voxels":
        for i, j, k in np.argwhere(padded):
            faces = [(i - 1, j, k), (i + 1, j, k), (i, j - 1, k), (i, j + 1, k), (i, j, k - 1), (i, j, k + 1)]
            if not all(padded[face] for face in faces):
                points.append((i - 1, j - 1, k - 1))
                weights.append(1.0)
    else:
        areas = element_areas_mm2(grid.spacing_mm)
        for i, j, k in itertools.product(*(range(n - 1) for n in padded.shape)):
            block = "".join(str(int(x)) for x in padded[i : i + 2, j : j + 2, k : k + 2].ravel())
            if "0" in block and "1" in block:
                points.append((i - 0.5, j - 0.5, k - 0.5))
                weights.append(areas[int(block, 2)])
    return grid.to_mm(np.array(points).reshape(-1, 3)), np.array(weights)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=2).min(axis=1)


def weighted_percentile(distance: np.ndarray, weight: np.ndarray, percentile: float) -> float:
    """Smallest distance within which at least `percentile` % of the weight lies."""
    total = 0.0
    for d, w in sorted(zip(distance, weight, strict=True)):
        total += w
        if total >= weight.sum() * percentile / 100 * (1 - 1e-12):
            return float(d)
    return float(distance.max())


def boundary_numbers(p: np.ndarray, r: np.ndarray, grid: Geometry, kind: str, tolerance_mm: float) -> dict[str, float]:
    (points_p, weight_p), (points_r, weight_r) = (surface_points(mask, grid, kind) for mask in (p, r))
    to_r, to_p = nearest(points_p, points_r), nearest(points_r, points_p)
    both, weights = np.concatenate([to_r, to_p]), np.concatenate([weight_p, weight_r])
    if kind == "elements":
        directed = max(weighted_percentile(to_r, weight_p, 95), weighted_percentile(to_p, weight_r, 95))
        pooled = weighted_percentile(both, weights, 95)
    else:
        directed = max(np.percentile(to_r, 95), np.percentile(to_p, 95))
        pooled = np.percentile(both, 95)
    return {
        "hausdorff": both.max(),
        "hd95": directed,
        "hd95 pooled": pooled,
        "assd": np.average(both, weights=weights),
        "mean p to r": np.average(to_r, weights=weight_p),
        "mean r to p": np.average(to_p, weights=weight_r),
        "surface dice": weights[both <= tolerance_mm + 1e-6].sum() / weights.sum(),
        "boundary iou": weights[both < 1e-9].sum() / (2 * weights.sum() - weights[both < 1e-9].sum()),
    }
