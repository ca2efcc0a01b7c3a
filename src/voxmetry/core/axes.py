"""Axes renamed and turned round: the one place where arrays are permuted and flipped to another orientation.

A DICOM SEG stacks its frames as it likes, a NIfTI file of the same image may run the other way round. Where the voxels
of both are the same points in the patient, a `Move` brings a label map from one to the other without a change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.errors import GeometryError

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


OFF_LATTICE = 0.05
"""Voxels are the same points when none lies further from its partner than this share of a voxel."""


@dataclass(frozen=True)
class Move:
    """How the voxels of one grid are found in another.

    Parameters
    ----------
    turn
        Which axis of the source runs along each axis of the target, and which run against it.
    offset
        Index in the target of the source's lowest voxel, after renaming and turning.
    shape
        The target's.
    """

    turn: Reorientation
    offset: tuple[int, ...]
    shape: tuple[int, int, int]

    def __call__(self, array: NDArray[Any], zeros: Callable[..., NDArray[Any]] = np.zeros) -> NDArray[Any]:
        """Return the array on the target's grid: 0 where the source ends, refused where something is cut off.

        `zeros` makes the new array, where there is one, of a shape and a type.

        Raises
        ------
        GeometryError
            If voxels that are not 0 lie outside the target.
        """
        turned = self.turn.forward(array)
        low = [max(0, start) for start in self.offset]
        high = [min(n, s + m) for n, s, m in zip(self.shape, self.offset, turned.shape, strict=True)]
        inside = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
        part = tuple(slice(x.start - s, x.stop - s) for x, s in zip(inside, self.offset, strict=True))
        cut = int(np.count_nonzero(turned) - np.count_nonzero(turned[part]))
        if cut:
            raise GeometryError(
                found=f"{cut} labelled voxels outside the image",
                expected="a segmentation that lies within the image's grid",
                fix="pass the image that was segmented, complete",
            )
        if turned.shape == self.shape and not any(self.offset):
            return turned
        moved = zeros(self.shape, array.dtype)
        moved[inside] = turned[part]
        return moved


def find_move(source: Geometry, target: Geometry, *, what: str = "the segmentation and the image") -> Move:
    """Find how the voxels of `source` lie in `target`.

    Parameters
    ----------
    source, target
        Grids whose voxels must be the same points; their shapes may differ.
    what
        Names of the two for the error.

    Raises
    ------
    GeometryError
        If the frames of reference differ, or the voxels of one lie between those of the other.

    Examples
    --------
    >>> image = Geometry(np.diag([2.0, 2.0, 5.0, 1.0]), (4, 5, 6))
    >>> flipped = np.diag([-2.0, 2.0, 5.0, 1.0])
    >>> flipped[0, 3] = 6.0
    >>> find_move(Geometry(flipped, (4, 5, 6)), image).turn.flipped
    (True, False, False)
    """
    if source.frame_uid and target.frame_uid and source.frame_uid != target.frame_uid:
        raise _different(what, "two frames of reference")
    steps = np.linalg.solve(target.affine, source.affine)
    rounded = np.rint(steps[:3, :3])
    if not np.array_equal(np.abs(rounded) @ np.abs(rounded).T, np.eye(3)):
        raise _different(what, "axes that are turned or spaced differently")
    start = np.rint(steps[:3, 3])
    exact, nearest = np.array(steps), np.eye(4)
    nearest[:3, :3], nearest[:3, 3] = rounded, start
    ends = source.to_ijk(source.corners_mm)
    off = float(np.abs(ends @ (exact - nearest)[:3, :3].T + (exact - nearest)[:3, 3]).max())
    if off > OFF_LATTICE:
        raise _different(what, f"voxels up to {off:.2g} of a voxel apart")
    order = np.abs(rounded).argmax(axis=1)
    flipped = rounded[np.arange(3), order] < 0
    lowest = start - np.where(flipped, np.array(source.shape)[order] - 1, 0)
    i, j, k = (int(x) for x in lowest)
    a, b, c = (int(axis) for axis in order)
    x, y, z = (bool(flip) for flip in flipped)
    return Move(Reorientation((a, b, c), (x, y, z)), (i, j, k), target.shape)


def _different(what: str, difference: str) -> GeometryError:
    return GeometryError(
        found=f"{what} lie on different grids: {difference}",
        expected="the same voxels, in any order of the axes",
        fix="name the image that was segmented, or resample onto it first, as by 3D Slicer, or in Python by "
        "voxmetry.resample(x, to=image.geometry)",
    )
