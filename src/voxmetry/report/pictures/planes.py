"""Which way a picture of a slice is turned, and which slice is shown.

Pictures follow the radiological convention: axial and coronal slices have the patient's right on the left of the
picture, axial slices the anterior side up, coronal and sagittal slices the superior side up, sagittal slices the
anterior side on the left. An oblique grid is shown in its own axes, lettered with the nearest patient direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry

PlaneName: TypeAlias = Literal["axial", "coronal", "sagittal"]
Box: TypeAlias = tuple[slice, slice, slice]
View: TypeAlias = tuple[float, float, float, float]
"""Left, right, top, bottom in mm from the picture's upper left corner (outer voxel edges), down and right positive."""

PLANES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal")

# Patient axis (0 x, 1 y, 2 z) of the normal, the vertical and the horizontal of each picture.
_PATIENT_AXES: dict[PlaneName, tuple[int, int, int]] = {
    "axial": (2, 1, 0),
    "coronal": (1, 2, 0),
    "sagittal": (0, 2, 1),
}
_LETTERS: dict[PlaneName, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}


@dataclass(frozen=True)
class ViewPlane:
    """How slices of one grid become pictures of one plane.

    Parameters
    ----------
    name
        "axial", "coronal" or "sagittal": the nearest one where the grid is oblique.
    normal, vertical, horizontal
        Array axes that run through the picture, down it and along it.
    flip_vertical, flip_horizontal
        Whether the array runs against the picture's way down or right.
    shape
        Rows and columns of the picture.
    pixel_mm
        Height and width of a voxel in the picture in mm.
    """

    name: PlaneName
    normal: int
    vertical: int
    horizontal: int
    flip_vertical: bool
    flip_horizontal: bool
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Nearest patient direction at the left, right, top and bottom of the picture."""
        return _LETTERS[self.name]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the whole picture in mm, voxel edges included."""
        return (self.shape[0] * self.pixel_mm[0], self.shape[1] * self.pixel_mm[1])

    def picture(self, array: NDArray[Any], index: int) -> NDArray[Any]:
        """Return slice `index` of `array` (I, J, K) as (rows, columns) with row 0 on top: a view, not a copy."""
        picture = _slice(array, self.normal, index)
        if self.vertical > self.horizontal:
            picture = picture.T
        return picture[:: -1 if self.flip_vertical else 1, :: -1 if self.flip_horizontal else 1]

    def bounds_mm(self, box: Box) -> View:
        """Return where a box of voxels lies in the picture."""
        top, bottom = _flipped(box[self.vertical], self.shape[0], self.flip_vertical)
        left, right = _flipped(box[self.horizontal], self.shape[1], self.flip_horizontal)
        down, across = self.pixel_mm
        return (left * across, right * across, top * down, bottom * down)

    def point_mm(self, ijk: NDArray[np.float64]) -> tuple[float, float]:
        """Return where a point, in (fractional) indices (3,), lies in the picture: mm to the right, mm down."""
        x, y = float(ijk[self.horizontal]), float(ijk[self.vertical])
        rows, columns = self.shape
        x, y = (columns - 1 - x if self.flip_horizontal else x, rows - 1 - y if self.flip_vertical else y)
        return ((x + 0.5) * self.pixel_mm[1], (y + 0.5) * self.pixel_mm[0])


def _slice(array: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    where: list[slice | int] = [slice(None)] * 3
    where[axis] = index
    return array[tuple(where)]


def _flipped(extent: slice, size: int, flip: bool) -> tuple[int, int]:
    return (size - extent.stop, size - extent.start) if flip else (extent.start, extent.stop)


def plane_of(geometry: Geometry, name: PlaneName) -> ViewPlane:
    """Work out how slices of a grid are turned to become pictures of a plane.

    Parameters
    ----------
    geometry
        The grid of the image and of its segmentation.
    name
        "axial", "coronal" or "sagittal".

    Examples
    --------
    >>> grid = Geometry(np.diag([-1.0, -2.0, 3.0, 1.0]), (4, 5, 6))
    >>> plane = plane_of(grid, "axial")
    >>> grid.axcodes, plane.letters, plane.flip_horizontal, plane.flip_vertical, plane.pixel_mm
    ('LPS', ('R', 'L', 'A', 'P'), False, False, (2.0, 1.0))
    """
    permutation, signs = geometry.closest_axes
    normal, vertical, horizontal = (permutation.index(axis) for axis in _PATIENT_AXES[name])
    # Down and right are P, I and L in all three pictures, so an axis that grows towards A, S or R runs against them.
    return ViewPlane(
        name=name,
        normal=normal,
        vertical=vertical,
        horizontal=horizontal,
        flip_vertical=signs[vertical] > 0,
        flip_horizontal=signs[horizontal] > 0,
        shape=(geometry.shape[vertical], geometry.shape[horizontal]),
        pixel_mm=(geometry.spacing_mm[vertical], geometry.spacing_mm[horizontal]),
    )


def largest_slice(scores: NDArray[Any]) -> int:
    """Return the slice of the highest score; of several that are equal, the one nearest to their middle.

    Examples
    --------
    >>> largest_slice(np.array([0, 4, 4, 4, 1]))
    2
    """
    best = np.flatnonzero(scores == scores.max())
    return int(best[np.abs(best - best.mean()).argmin()])


def square_view(plane: ViewPlane, bounds: View, *, margin_mm: float, least_mm: float) -> View:
    """Return a square window onto a picture with all of `bounds` and a margin in it.

    The window is moved to lie inside the picture where it fits, and centred on the picture where it does not.

    Parameters
    ----------
    plane
        How the picture is turned.
    bounds
        What must be seen.
    margin_mm
        Room around it on each side.
    least_mm
        Smallest edge of the window, so that small things keep their surroundings.
    """
    left, right, top, bottom = bounds
    height, width = plane.size_mm
    side = max(right - left + 2 * margin_mm, bottom - top + 2 * margin_mm, least_mm)
    side = min(side, max(height, width))
    left, right = _inside((left + right) / 2, side, width)
    top, bottom = _inside((top + bottom) / 2, side, height)
    return (left, right, top, bottom)


def _inside(centre: float, side: float, size: float) -> tuple[float, float]:
    low = (size - side) / 2 if side >= size else min(max(centre - side / 2, 0.0), size - side)
    return (low, low + side)
