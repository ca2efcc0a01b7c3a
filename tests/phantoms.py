"""Images whose right answer is known.

Three different sizes, three different spacings, an oblique affine and an off-centre mark: a cube hides every axis bug.
"""

from __future__ import annotations

import numpy as np

from voxmetry import Geometry, LabelTable, Segmentation, Volume

SHAPE = (13, 17, 11)
SPACING_MM = (0.9, 1.3, 2.6)
MARK = (3, 12, 8)
"""Index of the one voxel that is brighter than all others."""


def rotation(degrees: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Rotation about x, then y, then z, shape (3, 3)."""
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def geometry(
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    degrees: tuple[float, float, float] = (7.0, -11.0, 19.0),
    origin_mm: tuple[float, float, float] = (-31.5, 22.25, 104.75),
    frame_uid: str | None = None,
) -> Geometry:
    """An oblique grid with three different sizes and spacings."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees) * np.array(spacing_mm)
    affine[:3, 3] = origin_mm
    return Geometry(affine, shape, frame_uid)


def volume(grid: Geometry | None = None, *, dtype: str = "int16", seed: int = 0) -> Volume:
    """Noise in 0..199 with one voxel of 1000 at `MARK`."""
    grid = grid or geometry()
    array = np.random.default_rng(seed).integers(0, 200, grid.shape).astype(dtype)
    array[tuple(min(m, n - 1) for m, n in zip(MARK, grid.shape, strict=True))] = 1000
    return Volume(array, grid)


def balls(grid: Geometry, *balls: tuple[tuple[float, float, float], tuple[float, float, float] | float]) -> np.ndarray:
    """Ellipsoids, each by its centre and its half axes (or radius) along the grid's axes in mm: 1 to N, the last wins.

    Shape (I, J, K) uint16. Positions count from the centre of the first voxel.
    """
    at = np.stack(np.indices(grid.shape), -1) * np.array(grid.spacing_mm)
    array = np.zeros(grid.shape, np.uint16)
    for number, (centre, radii) in enumerate(balls, start=1):
        array[(((at - centre) / radii) ** 2).sum(-1) <= 1] = number
    return array


def segmentation(grid: Geometry | None = None) -> Segmentation:
    """Two boxes that touch: 'a' (value 1) of 3 x 4 x 2 voxels, 'b' (value 4) of 2 x 4 x 2; nothing at the border."""
    grid = grid or geometry()
    array = np.zeros(grid.shape, np.uint8)
    array[2:5, 3:7, 4:6] = 1
    array[5:7, 3:7, 4:6] = 4
    return Segmentation(array, grid, LabelTable.from_names({1: "a", 4: "b"}))
