"""Balls and ellipsoids that touch, each with a number of its own: images whose instances are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voxmetry import Geometry, LabelTable, Segmentation, Volume, save

NETWORK = {
    "kind": "maskrcnn",
    "channels": [8, 16, 32],
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "anchors_mm": [[12, 12, 12]],
    "proposal_levels": [1],
    "pyramid_level": 0,
    "pyramid_channels": 8,
    "head_channels": 32,
    "box_size": 4,
    "mask_size": 6,
    "proposals": 24,
    "samples": 24,
    "mask_samples": 6,
}
"""A network that learns balls of 10 to 14 voxels across."""


def specification(**change: object) -> dict[str, object]:
    """Content of a model that finds balls on a grid of 1 mm, in patches of 24 voxels."""
    return {
        "name": "balls",
        "version": "0.0.1",
        "summary": "Balls",
        "licence": "Apache-2.0",
        "body_part": "phantom",
        "inputs": [{"name": "t1", "modality": "MR", "normalise": {"method": "zscore", "nonzero": False}}],
        "spacing_mm": [1.0, 1.0, 1.0],
        "window": {"patch": [24, 24, 24], "overlap": 0.5},
        "network": NETWORK,
        "labels": {"labels": [{"value": 3, "name": "ball", "colour": "#E69F00"}]},
        "training_domain": {},
    } | change


def draw(
    shape: tuple[int, int, int], centres: list[tuple[float, float, float]], axes: list[tuple[float, float, float]]
) -> np.ndarray:
    """Return ellipsoids numbered from 1, (I, J, K) uint16; where two overlap, each has what is nearer to it."""
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    far = np.stack([np.linalg.norm((ijk - c) / a, axis=-1) for c, a in zip(centres, axes, strict=True)])
    return np.where(far.min(0) <= 1, far.argmin(0) + 1, 0).astype(np.uint16)


def image(instances: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return bright things in noise, float32."""
    noise = np.random.default_rng(seed).normal(0, 0.2, instances.shape)
    return (100 * ((instances > 0) + noise)).astype(np.float32)


def pair(shape: tuple[int, int, int] = (24, 24, 24), *, shift: float = 0.0) -> np.ndarray:
    """Return two balls that touch."""
    return draw(shape, [(6.5, 8 + shift, 11.0), (17.5, 14 + shift, 11.0)], [(6.0,) * 3, (6.3,) * 3])


def write_cases(folder: Path, count: int = 4) -> Path:
    """Write images, label maps whose values are instances (numbered with gaps), and a manifest; return the manifest."""
    numbered = LabelTable.from_names({4: "4", 9: "9"})
    for number in range(count):
        instances = pair(shift=number % 3 - 1.0)
        grid = Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), instances.shape)
        values = np.array([0, 9, 4], np.uint16)[instances]
        for part, thing in (
            ("images", Volume(image(instances, seed=number), grid)),
            ("labels", Segmentation(values, grid, numbered)),
        ):
            (folder / part).mkdir(parents=True, exist_ok=True)
            save(thing, folder / part / f"case_{number}.nii.gz")
    manifest = folder / "balls.yaml"
    manifest.write_text(
        'name: balls\nchannels: [{name: t1, modality: MR, path: "images/{case}.nii.gz"}]\n'
        'label: "labels/{case}.nii.gz"\ninstances_of: ball\n'
        f"cases: [{', '.join(f'case_{number}' for number in range(count))}]\n",
        encoding="utf-8",
    )
    return manifest
