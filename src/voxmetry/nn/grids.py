"""Grids that a network works on: axes renamed, turned round and resampled, never rotated.

A study's grid, brought closest to the model's orientation, and the model's grid over it run along the same directions,
so that interpolation between the two is linear along one axis after the other: exact, and the same code both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from voxmetry.config import ModelSpec
from voxmetry.core.geometry import Geometry

SAME_SPACING = 1e-3
"""Spacings within a thousandth of the model's are taken as they are: resampling would blur and gain nothing."""

_AXIS_OF = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True)
class Reorientation:
    """A permutation of the axes and a flip of some, which move voxels without changing any.

    Parameters
    ----------
    order
        For each new axis, the old axis that it is.
    flipped
        For each new axis, whether it runs against the old one.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    def forward(self, array: np.ndarray) -> np.ndarray:
        """Apply to an array (I, J, K); the result is a view."""
        return np.transpose(array, self.order)[self._turns]

    def inverse(self, array: np.ndarray) -> np.ndarray:
        """Undo on an array (I, J, K); the result is a view."""
        return np.transpose(array[self._turns], np.argsort(self.order))

    @property
    def _turns(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)


def reorientation(geometry: Geometry, orientation: str) -> tuple[Reorientation, Geometry]:
    """Find the permutation and flips that bring a grid's axes closest to `orientation`, and the grid that results.

    Parameters
    ----------
    geometry
        Any grid, oblique ones too: its axes are renamed and turned round, never rotated.
    orientation
        Such as "RAS".

    Examples
    --------
    >>> grid = Geometry(np.diag([-1.0, 1.0, 2.0, 1.0]), (4, 5, 6))
    >>> moved, oriented = reorientation(grid, "RAS")
    >>> moved.flipped, oriented.axcodes, oriented.shape
    ((True, False, False), 'RAS', (4, 5, 6))
    """
    axes, signs = geometry.closest_axes
    wanted = [_AXIS_OF[code] for code in orientation]
    order = [axes.index(axis) for axis, _ in wanted]
    flipped = [signs[old] != sign for old, (_, sign) in zip(order, wanted, strict=True)]
    affine = np.array(geometry.affine)
    affine[:3, :3] = geometry.affine[:3, order]
    shape = [geometry.shape[old] for old in order]
    for axis, flip in enumerate(flipped):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
    moved = Reorientation((order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))
    return moved, Geometry(affine, (shape[0], shape[1], shape[2]), geometry.frame_uid)


def model_grid(geometry: Geometry, spec: ModelSpec) -> Geometry:
    """Return the model's grid over a field of view: the model's orientation and spacing, the same centre.

    Along an axis whose spacing is the model's to a thousandth, the grid keeps its voxels.
    """
    _, oriented = reorientation(geometry, spec.orientation)
    affine = np.array(oriented.affine)
    shape = list(oriented.shape)
    for axis, (size, have, want) in enumerate(zip(oriented.shape, oriented.spacing_mm, spec.spacing_mm, strict=True)):
        if abs(have - want) <= SAME_SPACING * want:
            continue
        shape[axis] = max(1, round(size * have / want))
        # Voxel centres of both grids share the middle of the field of view.
        affine[:3, 3] += oriented.affine[:3, axis] * ((size - 1) - (shape[axis] - 1) * want / have) / 2
        affine[:3, axis] *= want / have
    return Geometry(affine, (shape[0], shape[1], shape[2]), geometry.frame_uid)


def positions(source: Geometry, target: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say, for each axis of two grids along the same directions, where the target's voxels lie in source voxels.

    Positions beyond the source's outermost voxels are held at these.
    """
    found = []
    for axis in range(3):
        ijk = np.zeros((target.shape[axis], 3))
        ijk[:, axis] = np.arange(target.shape[axis])
        at = source.to_ijk(target.to_mm(ijk))[:, axis]
        nearest = np.round(at)
        # Rounding noise of the affine must not blend two voxels where one is meant.
        at = np.where(np.abs(at - nearest) < 1e-6, nearest, at)
        found.append(np.clip(at, 0, source.shape[axis] - 1))
    return (found[0], found[1], found[2])


def interpolate(values: torch.Tensor, at: np.ndarray, axis: int) -> torch.Tensor:
    """Interpolate linearly along one axis of a tensor at positions `at`, in its voxels and within its range."""
    low = np.floor(at).astype(np.int64)
    share = (at - low).astype(np.float32)
    if not share.any() and np.array_equal(low, np.arange(values.shape[axis])):
        return values
    high = np.minimum(low + 1, values.shape[axis] - 1)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = torch.from_numpy(share).to(values.device).reshape(shape)
    below, above = (values.index_select(axis, torch.from_numpy(i).to(values.device)) for i in (low, high))
    return torch.lerp(below, above, weight)
