"""A grid that several networks share, resampled as TotalSegmentator does it, and its labels back on the study's own.

Axes are turned to RAS, never rotated. Along each axis the outermost voxel centres of both grids coincide: scipy's
`ndimage.zoom`, which TotalSegmentator calls, has it so. Images by cubic splines, then cut to whole numbers; labels by
the nearest voxel. Splines are linear in the values, so each axis is a product with one matrix, some slices at a time.

Jakob Wasserthal et al., TotalSegmentator, doi 10.1148/ryai.230024; its steps as of version 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from scipy.ndimage import zoom

from voxmetry.core.axes import Reorientation, reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import free_bytes, is_mapped, release_pages
from voxmetry.core.volume import Volume
from voxmetry.errors import InferenceError, InputError
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.memory import fits_memory
from voxmetry.ops.boxes import Box, join, label_boxes

AXES = "RAS"
WHOLE_NUMBER_DECIMALS = 3
"""Splines of whole numbers are whole where nothing changes, but for rounding; cutting must not take one off there."""

LEAST_RANGE = 16.0
"""An image of fewer whole numbers than this would lose what it shows."""

_SLICES = 16


class CommonGrid:
    """The shared grid over one study.

    Parameters
    ----------
    native
        The study's grid, or that of a box of it.
    spacing_mm
        Wanted voxel size along R, A and S.
    """

    def __init__(self, native: Geometry, spacing_mm: Sequence[float]) -> None:
        self._moved, self._oriented = reorientation(native, AXES)
        # TotalSegmentator reads voxel sizes from a NIfTI header, which has 32 bits for them; they decide the rounding.
        have = np.array(self._oriented.spacing_mm, dtype=np.float32)
        want = np.array(spacing_mm, dtype=np.float64)
        self.as_it_is = bool(np.array_equal(have, want))
        """Whether the study has this voxel size already."""
        factors = np.ones(3) if self.as_it_is else have / want
        i, j, k = (max(1, round(n * float(f))) for n, f in zip(self._oriented.shape, factors, strict=True))
        affine = np.array(self._oriented.affine)
        affine[:3, :3] /= factors
        self.geometry = Geometry(affine, (i, j, k), native.frame_uid)
        """Of the resampled study; its voxel sizes are the wanted ones, as its networks have to see them."""

    def resample(self, volume: Volume) -> Volume:
        """Bring an image on the native grid onto this one."""
        values = self._moved.forward(volume.array)
        if self.as_it_is:
            return Volume(values, self.geometry, volume.unit, volume.source)
        _require_room(values.shape, self.geometry.shape)
        return Volume(_splines(values, self.geometry.shape), self.geometry, volume.unit, volume.source)

    def back(self, labels: np.ndarray) -> np.ndarray:
        """Bring a label map (I, J, K) on this grid onto the native one by the nearest voxel; same type."""
        if not self.as_it_is:
            labels = self._nearest(labels)
        return self._moved.inverse(labels)

    def _nearest(self, labels: np.ndarray) -> np.ndarray:
        """Take the nearest voxels, slice by slice, into a temporary file where there is no room for them."""
        shape = self._oriented.shape
        i, j, k = (_nearest(size, wanted) for size, wanted in zip(labels.shape, shape, strict=True))
        on_disk = is_mapped(labels) or not fits_memory(math.prod(shape) * labels.itemsize)
        made = zeros_on_disk(shape, labels.dtype) if on_disk else np.empty(shape, labels.dtype, order="F")
        for place, nearest in enumerate(k):
            made[:, :, place] = labels[:, :, nearest][np.ix_(i, j)]
            release_pages(labels)
            release_pages(made)
        return made

    @property
    def moved(self) -> Reorientation:
        """How axes are turned to RAS."""
        return self._moved


def box_of(array: np.ndarray, margin_mm: float, geometry: Geometry, values: Collection[int] = (1,)) -> Box | None:
    """Return the smallest box of values of an array (I, J, K) and a margin, cut off at the image; None without any.

    The margin counts whole voxels, rounded down, as TotalSegmentator's does.
    """
    boxes = label_boxes(array.view(np.uint8) if array.dtype == bool else array)
    there = [box for value, box in boxes.items() if value in values]
    if not there:
        return None
    more = (int(margin_mm / float(np.float32(spacing))) for spacing in geometry.spacing_mm)
    i, j, k = (
        slice(max(0, part.start - wide), min(n, part.stop + wide))
        for part, wide, n in zip(join(there), more, array.shape, strict=True)
    )
    return (i, j, k)


def inside(volume: Volume, box: Box) -> Volume:
    """Return the part of a volume that lies in a box."""
    start = [part.start for part in box]
    affine = np.array(volume.geometry.affine)
    affine[:3, 3] = volume.geometry.to_mm(start)
    array = volume.array[box]
    i, j, k = array.shape
    return Volume(array, Geometry(affine, (i, j, k), volume.geometry.frame_uid), volume.unit, volume.source)


def _require_room(shape: tuple[int, ...], wanted: tuple[int, int, int]) -> None:
    """Raise `InferenceError` where an image that is resized has no room: it is held whole."""
    # Whole numbers of 32 bits, and real ones, where two of three axes are done.
    needed, free = 4 * wanted[0] * wanted[1] * (wanted[2] + shape[2]), free_bytes()
    if free is not None and needed > free:
        raise InferenceError(
            found=f"{free / 1e9:.2f} GB of free memory for an image of {' x '.join(map(str, wanted))} voxels, on the "
            "grid that the networks of this model share",
            expected=f"{needed / 1e9:.2f} GB: it is held whole",
            fix="crop the image to what the model is for, or use a machine with more memory",
        )


def _splines(values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Resize an array by cubic splines between its outermost voxel centres, int32."""
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind == "f" and high - low < LEAST_RANGE:
        raise InputError(
            found=f"values between {low:g} and {high:g}",
            expected=f"a range of at least {LEAST_RANGE:g}: this model's own steps cut values to whole numbers",
            fix="multiply the image by 1000, or export it again with its stored values",
        )
    matrices = [torch.from_numpy(_matrix(n, m)) for n, m in zip(values.shape, shape, strict=True)]
    # Two axes of a few slices, then the third of what is left: no copy of the whole study is made in float.
    half = np.empty((shape[0], shape[1], values.shape[2]), dtype=np.float32)
    for start in range(0, values.shape[2], _SLICES):
        part = torch.from_numpy(np.array(values[:, :, start : start + _SLICES], dtype=np.float32, order="C"))
        part = torch.tensordot(matrices[1], torch.tensordot(matrices[0], part, dims=([1], [0])), dims=([1], [1]))
        half[:, :, start : start + _SLICES] = part.movedim(0, 1).numpy()
    made = np.empty(shape, dtype=np.int32)
    for start in range(0, shape[0], _SLICES):
        part = torch.from_numpy(half[start : start + _SLICES])
        whole = torch.tensordot(part, matrices[2], dims=([2], [1])).numpy()
        made[start : start + _SLICES] = np.trunc(np.round(whole, WHOLE_NUMBER_DECIMALS))
    return made


def _matrix(size: int, wanted: int) -> np.ndarray:
    """Return what resizing does to a line of voxels as a matrix (wanted, size) float32."""
    if size == wanted:
        return np.eye(size, dtype=np.float32)
    columns: np.ndarray = zoom(np.eye(size), (wanted / size, 1), order=3)
    return columns.astype(np.float32)


def _nearest(size: int, wanted: int) -> np.ndarray:
    """Return the voxel of a line of `size` that each of `wanted` takes, by the same rule as the splines' places."""
    found: np.ndarray = zoom(np.arange(size, dtype=np.float64), wanted / size, order=0)
    return found.astype(np.intp)
