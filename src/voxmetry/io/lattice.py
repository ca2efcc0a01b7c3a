"""One voxel lattice met in two ways: axes renamed, turned round or cut off, never interpolated.

A DICOM SEG stacks its frames as it likes, a NIfTI file of the same image may run the other way round. Where the voxels
of both are the same points in the patient, a label map moves from one to the other without a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.axes import Reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.errors import GeometryError

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

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the array on the target's grid: 0 where the source ends, refused where something is cut off.

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
        moved = np.zeros(self.shape, array.dtype)
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
