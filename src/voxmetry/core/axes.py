"""Axes renamed and turned round: the one place where arrays are permuted and flipped to another orientation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry

AXIS_OF = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""Patient axis (0 x, 1 y, 2 z, RAS+) and the sign that it is run in, for each letter of an orientation."""


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

    def forward(self, array: NDArray[Any]) -> NDArray[Any]:
        """Apply to an array (I, J, K); the result is a view."""
        return np.transpose(array, self.order)[self._turns]

    def inverse(self, array: NDArray[Any]) -> NDArray[Any]:
        """Undo on an array (I, J, K); the result is a view."""
        return np.transpose(array[self._turns], np.argsort(self.order))

    def grid(self, geometry: Geometry) -> Geometry:
        """Return where the voxels of a grid lie after `forward`: each stays where it is in the patient."""
        return geometry.permuted(self.order).flipped(*(axis for axis, flip in enumerate(self.flipped) if flip))

    @property
    def _turns(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)


def is_as_stored(orientation: str) -> bool:
    """Whether an orientation takes the axes as they are stored, in some order, wherever they lead in the patient."""
    return sorted(orientation) == ["I", "J", "K"]


def reorientation(geometry: Geometry, orientation: str) -> tuple[Reorientation, Geometry]:
    """Find the permutation and flips that bring a grid's axes closest to `orientation`, and the grid that results.

    Parameters
    ----------
    geometry
        Any grid, oblique ones too: its axes are renamed and turned round, never rotated.
    orientation
        Such as "RAS"; or an order of "IJK", such as "KJI", which takes the axes as they are stored.

    Examples
    --------
    >>> grid = Geometry(np.diag([-1.0, 1.0, 2.0, 1.0]), (4, 5, 6))
    >>> moved, oriented = reorientation(grid, "RAS")
    >>> moved.flipped, oriented.axcodes, oriented.shape
    ((True, False, False), 'RAS', (4, 5, 6))
    """
    axes, signs = geometry.closest_axes
    if is_as_stored(orientation):
        i, j, k = ("IJK".index(name) for name in orientation)
        moved = Reorientation((i, j, k), (False, False, False))
    else:
        wanted = [AXIS_OF[code] for code in orientation]
        i, j, k = (axes.index(axis) for axis, _ in wanted)
        a, b, c = (signs[old] != sign for old, (_, sign) in zip((i, j, k), wanted, strict=True))
        moved = Reorientation((i, j, k), (a, b, c))
    return moved, moved.grid(geometry)
