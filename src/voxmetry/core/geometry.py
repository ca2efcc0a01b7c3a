"""Where a grid lies in the patient.

Inside this package every affine maps voxel indices (i, j, k), at voxel centres, to RAS+ millimetres: x grows towards
the patient's Right, y towards the Anterior, z towards the Superior. DICOM, ITK, NRRD and MHA
speak LPS+; `swap_lps_ras` is the only place where one becomes the other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxmetry.errors import GeometryError

Float64: TypeAlias = NDArray[np.float64]

SAME_GRID_TOLERANCE_MM = 0.01
"""Two grids are the same when no corner of theirs is further apart than this."""

_AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))


def swap_lps_ras(x: ArrayLike) -> Float64:
    """Turn LPS+ millimetres into RAS+ millimetres, or the other way round.

    Parameters
    ----------
    x
        An affine of shape (4, 4) whose output is in millimetres, or points or direction vectors of shape (..., 3).

    Returns
    -------
    ndarray of float64
        The same shape, the first two output coordinates negated.

    Examples
    --------
    >>> swap_lps_ras([10.0, 20.0, 30.0]).tolist()
    [-10.0, -20.0, 30.0]
    """
    array = np.asarray(x, dtype=np.float64)
    if array.shape == (4, 4):
        flipped: Float64 = np.diag([-1.0, -1.0, 1.0, 1.0]) @ array
        return flipped
    if array.shape[-1:] != (3,):
        raise GeometryError(
            found=f"an array of shape {array.shape} for a change between LPS and RAS",
            expected="an affine of shape (4, 4) or points of shape (..., 3)",
            fix="pass the affine, or points with their three coordinates last",
        )
    mirrored: Float64 = array * np.array([-1.0, -1.0, 1.0])
    return mirrored


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the patient: where it lies, how large it is, and in which frame of reference.

    Parameters
    ----------
    affine
        (4, 4), voxel index (i, j, k) at voxel centres -> RAS+ millimetres. Kept as a read-only float64 copy.
    shape
        (I, J, K), each at least 1.
    frame_uid
        DICOM Frame of Reference UID, or None where the source has none.
    stated_spacing_mm
        Voxel sizes along i, j, k as the file's header states them beside its affine; None where it states none. The
        affine holds the same sizes but for its rounding, which a comparison of sizes must not depend on.

    Raises
    ------
    GeometryError
        If the affine is not (4, 4), not finite, or singular, or the shape is not three positive integers.

    Examples
    --------
    >>> grid = Geometry(np.diag([2.0, 2.0, 5.0, 1.0]), (10, 20, 30))
    >>> grid.spacing_mm, grid.voxel_ml, grid.axcodes
    ((2.0, 2.0, 5.0), 0.02, 'RAS')
    """

    affine: Float64
    shape: tuple[int, int, int]
    frame_uid: str | None = None
    stated_spacing_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise GeometryError(
                found=f"an affine of shape {affine.shape}",
                expected="shape (4, 4), voxel indices to RAS+ millimetres",
                fix="pass a homogeneous 4 x 4 matrix",
            )
        if not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise GeometryError(
                found=f"an affine that is not finite or whose last row is not 0 0 0 1: {affine.tolist()}",
                expected="twelve finite numbers above the row 0 0 0 1",
                fix="repair the image's header; the position of its voxels cannot be known without it",
            )
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        # A volume relative to the box of the same edges below 1e-6 means axes that lie in one plane.
        if (lengths <= 0).any() or abs(np.linalg.det(affine[:3, :3])) < 1e-6 * lengths.prod():
            raise GeometryError(
                found=f"a singular affine: axis lengths {np.round(lengths, 6).tolist()} mm span no volume",
                expected="three axes of positive length that do not lie in one plane",
                fix="repair the image's header; a voxel here would have no volume",
            )
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(
                found=f"a grid of shape {tuple(self.shape)}",
                expected="three positive sizes (I, J, K)",
                fix="pass one three-dimensional volume",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    @functools.cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along i, j, k in mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(i), float(j), float(k))

    @functools.cached_property
    def nominal_spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along i, j, k in mm without the rounding of the affine: for comparisons that must not hang on it.

        As stated in the header where that agrees with the affine to one per cent. Else for each axis the shortest
        decimal number within 3e-7 of the length of its vector, as float32 holds it: what a NIfTI header would state.

        Examples
        --------
        >>> turn = np.deg2rad(8)
        >>> rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        >>> affine = np.eye(4)
        >>> affine[:3, :3] = (rotation * (1.0, 1.0, 3.0)).astype(np.float32)
        >>> grid = Geometry(affine, (4, 4, 4))
        >>> max(grid.spacing_mm) > 3 * min(grid.spacing_mm), grid.nominal_spacing_mm
        (True, (1.0, 1.0, 3.0))
        """
        stated = self.stated_spacing_mm
        if stated is not None and np.allclose(stated, self.spacing_mm, rtol=1e-2, atol=0):
            return stated
        i, j, k = (_shortest_decimal(mm) for mm in self.spacing_mm)
        return (i, j, k)

    @functools.cached_property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL: the absolute determinant of the affine, exact for sheared grids too."""
        # The triple product is exact for upright grids, where an LU decomposition loses the last digit.
        i, j, k = self.affine[:3, :3].T
        return float(abs(np.dot(i, np.cross(j, k)))) / 1000.0

    @property
    def directions(self) -> Float64:
        """Unit vectors of the i, j, k axes in RAS+, one a column, shape (3, 3)."""
        unit: Float64 = self.affine[:3, :3] / np.array(self.spacing_mm)
        return unit

    @functools.cached_property
    def axcodes(self) -> str:
        """Nearest anatomical direction that each axis grows towards, such as 'RAS' or 'LPI'."""
        permutation, signs = self.closest_axes
        return "".join(_AXIS_NAMES[axis][sign > 0] for axis, sign in zip(permutation, signs, strict=True))

    @functools.cached_property
    def closest_axes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """For i, j, k: the patient axis (0 x, 1 y, 2 z) that each lies closest to, and the sign it runs in.

        Of the six possible assignments, the one with the largest sum of absolute cosines.
        """
        cosines = self.directions
        # Rounded, so that of equals (45 degrees) the first is taken whatever the affine's last digits are.
        best = max(
            itertools.permutations(range(3)),
            key=lambda order: round(sum(abs(cosines[axis, column]) for column, axis in enumerate(order)), 6),
        )
        signs = tuple(1 if cosines[axis, column] >= 0 else -1 for column, axis in enumerate(best))
        return (best[0], best[1], best[2]), (signs[0], signs[1], signs[2])

    @property
    def obliqueness_degrees(self) -> float:
        """Largest angle between an axis of the grid and the patient axis that it is lettered with."""
        permutation, _ = self.closest_axes
        cosines = [abs(self.directions[axis, column]) for column, axis in enumerate(permutation)]
        return float(np.degrees(np.arccos(np.clip(min(cosines), 0.0, 1.0))))

    @functools.cached_property
    def is_orthogonal(self) -> bool:
        """Whether the axes stand at right angles (cosines between them below 1e-3)."""
        cosines = self.directions
        return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() < 1e-3)

    @property
    def corners_mm(self) -> Float64:
        """Centres of the eight corner voxels in RAS+ mm, shape (8, 3)."""
        ends = np.array(list(itertools.product(*[(0, n - 1) for n in self.shape])), dtype=np.float64)
        return self.to_mm(ends)

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the grid, voxel edges included, along i, j, k in mm."""
        i, j, k = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return (i, j, k)

    @property
    def diagonal_mm(self) -> float:
        """Length of the grid's longest space diagonal between outer voxel corners in mm."""
        low, high = -0.5, np.array(self.shape) - 0.5
        ends = np.array(list(itertools.product(*[(low, h) for h in high])))
        points = self.to_mm(ends)
        return float(max(np.linalg.norm(a - b) for a, b in itertools.combinations(points, 2)))

    def to_mm(self, ijk: ArrayLike) -> Float64:
        """Map voxel indices (..., 3) to RAS+ mm (..., 3)."""
        indices = np.asarray(ijk, dtype=np.float64)
        return indices @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_ijk(self, mm: ArrayLike) -> Float64:
        """Map RAS+ mm (..., 3) to continuous voxel indices (..., 3)."""
        points = np.asarray(mm, dtype=np.float64) - self.affine[:3, 3]
        indices: Float64 = np.linalg.solve(self.affine[:3, :3], points[..., None])[..., 0].astype(np.float64)
        return indices

    def permuted(self, order: Sequence[int]) -> Geometry:
        """Return the grid with its axes in another order; each voxel stays where it is.

        Parameters
        ----------
        order
            For each new axis, the old one that it is, as `numpy.transpose` takes it.

        Examples
        --------
        >>> Geometry(np.diag([2.0, 2.0, 5.0, 1.0]), (10, 20, 30)).permuted((2, 0, 1))
        Geometry(30 x 10 x 20 @ 5 x 2 x 2 mm, SRA)
        """
        if sorted(order) != [0, 1, 2]:
            raise GeometryError(
                found=f"an order of axes {tuple(order)}",
                expected="each of 0, 1, 2 once",
                fix="name each old axis once, as for numpy.transpose",
            )
        affine = np.array(self.affine)
        affine[:3, :3] = self.affine[:3, list(order)]
        i, j, k = (self.shape[old] for old in order)
        stated = self.stated_spacing_mm
        spacing = None if stated is None else (stated[order[0]], stated[order[1]], stated[order[2]])
        return Geometry(affine, (i, j, k), self.frame_uid, spacing)

    def flipped(self, *axes: int) -> Geometry:
        """Return the grid with some axes turned round, as `numpy.flip` does it; each voxel stays where it is.

        Examples
        --------
        >>> Geometry(np.diag([2.0, 2.0, 5.0, 1.0]), (10, 20, 30)).flipped(0, 2).axcodes
        'LAI'
        """
        affine = np.array(self.affine)
        for axis in axes:
            affine[:3, 3] += affine[:3, axis] * (self.shape[axis] - 1)
            affine[:3, axis] *= -1
        return Geometry(affine, self.shape, self.frame_uid, self.stated_spacing_mm)

    def cropped(self, box: Sequence[slice]) -> Geometry:
        """Return the grid of a box of this grid's voxels.

        Parameters
        ----------
        box
            Where it starts and stops along i, j, k, as an array is indexed; steps are not taken.

        Raises
        ------
        GeometryError
            If the box is empty along an axis, or has a step.

        Examples
        --------
        >>> part = Geometry(np.diag([2.0, 2.0, 5.0, 1.0]), (10, 20, 30)).cropped(np.s_[1:4, :, -3:])
        >>> part.shape, part.to_mm([0, 0, 0]).tolist()
        ((3, 20, 3), [2.0, 0.0, 135.0])
        """
        ends = [part.indices(n) for part, n in zip(box, self.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in ends):
            raise GeometryError(
                found=f"a box {[(start, stop, step) for start, stop, step in ends]} of a grid {self.shape}",
                expected="one voxel at least along each axis, in steps of 1",
                fix="widen the box",
            )
        i, j, k = (stop - start for start, stop, _ in ends)
        affine = np.array(self.affine)
        affine[:3, 3] = self.to_mm([start for start, _, _ in ends])
        return Geometry(affine, (i, j, k), self.frame_uid, self.stated_spacing_mm)

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """Return the grid with so many more voxels at the low and at the high end of i, j, k.

        Raises
        ------
        GeometryError
            If a number is below 0.

        Examples
        --------
        >>> wider = Geometry(np.eye(4), (10, 20, 30)).padded((2, 0, 0), (0, 0, 5))
        >>> wider.shape, wider.to_mm([0, 0, 0]).tolist()
        ((12, 20, 35), [-2.0, 0.0, 0.0])
        """
        if min(*before, *after) < 0:
            raise GeometryError(
                found=f"{tuple(before)} and {tuple(after)} voxels to add",
                expected="0 or more at each end",
                fix="use cropped to take voxels away",
            )
        i, j, k = (n + low + high for n, low, high in zip(self.shape, before, after, strict=True))
        affine = np.array(self.affine)
        affine[:3, 3] = self.to_mm([-low for low in before])
        return Geometry(affine, (i, j, k), self.frame_uid, self.stated_spacing_mm)

    def resized(self, shape: Sequence[int], *, step: Sequence[float], start: Sequence[float]) -> Geometry:
        """Return a grid along the same axes with another spacing.

        Parameters
        ----------
        shape
            Its number of voxels along i, j, k.
        step
            Its spacing along each axis, in voxels of this grid.
        start
            Where its first voxel's centre lies along each axis, in voxels of this grid.

        Examples
        --------
        >>> halved = Geometry(np.eye(4), (10, 20, 30)).resized((5, 10, 15), step=(2, 2, 2), start=(0.5, 0.5, 0.5))
        >>> halved, halved.to_mm([0, 0, 0]).tolist()
        (Geometry(5 x 10 x 15 @ 2 x 2 x 2 mm, RAS), [0.5, 0.5, 0.5])
        """
        affine = np.array(self.affine)
        for axis in range(3):
            affine[:3, 3] += self.affine[:3, axis] * start[axis]
            affine[:3, axis] *= step[axis]
        i, j, k = (int(n) for n in shape)
        return Geometry(affine, (i, j, k), self.frame_uid)

    def is_same(self, other: Geometry) -> bool:
        """Whether `other` has the same shape, frame of reference and corners (to 0.01 mm)."""
        return self.difference(other) is None

    def difference(self, other: Geometry) -> str | None:
        """Say in words how `other` differs, or None where it does not."""
        if self.shape != other.shape:
            return f"shapes {self.shape} and {other.shape}"
        if self.frame_uid and other.frame_uid and self.frame_uid != other.frame_uid:
            return "two frames of reference"
        apart = float(np.linalg.norm(self.corners_mm - other.corners_mm, axis=1).max())
        if apart > SAME_GRID_TOLERANCE_MM:
            return f"corners up to {apart:.3g} mm apart"
        return None

    def require_same(self, other: Geometry, *, what: str = "the two images") -> None:
        """Raise `GeometryError` unless `other` is the same grid in the same frame of reference.

        A frame of reference that is unknown on one side (NIfTI has none) is not compared with it.
        """
        difference = self.difference(other)
        if difference is not None:
            raise GeometryError(
                found=f"{what} lie on different grids: {difference}",
                expected=f"the same shape and frame of reference, corners within {SAME_GRID_TOLERANCE_MM} mm",
                fix="name the files that belong together, or resample one onto the other first, as by 3D Slicer, or in "
                "Python by voxmetry.resample(x, to=other.geometry)",
            )

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm)
        return f"Geometry({shape} @ {spacing} mm, {self.axcodes})"


def _shortest_decimal(mm: float) -> float:
    for digits in range(1, 9):
        short = float(f"{mm:.{digits}g}")
        if abs(short - mm) <= 3e-7 * mm:
            return float(np.float32(short))
    return float(np.float32(mm))
