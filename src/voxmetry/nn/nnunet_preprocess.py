"""nnU-Net v2's way to its grid and back: crop, normalise on the study's own voxels, resample edge to edge.

Resampling by splines is linear in the voxels and goes along one axis after the other, so that it is one small matrix
for each axis. The matrices are those of scipy's `zoom`, which skimage's `resize` and with it nnU-Net call: the same
numbers, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, zoom

from voxmetry.config import ModelSpec, Resampling
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.nn.grids import edge_grid, edge_positions, nearest, target_spacing, thick_axis


def crop_box(arrays: Sequence[np.ndarray]) -> tuple[slice, slice, slice]:
    """Return the smallest box that holds every voxel which is not zero in any of the channels (I, J, K).

    Raises
    ------
    InputError
        If all are zero.
    """
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        there = np.flatnonzero(np.any([(array != 0).any(axis=others) for array in arrays], axis=0))
        if not there.size:
            raise InputError(
                found="an image that is zero everywhere",
                expected="an image with contrast",
                fix="look at the image: it may be empty, masked out, or a frame that was decoded to zeros",
            )
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return (box[0], box[1], box[2])


def inside_mask(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return where any channel is not zero, holes filled, (I, J, K) bool."""
    mask = arrays[0] != 0
    for array in arrays[1:]:
        mask |= array != 0
    filled: np.ndarray = binary_fill_holes(mask)
    return filled


def crop(volumes: Sequence[Volume], spec: ModelSpec) -> tuple[list[np.ndarray], Geometry]:
    """Bring channels that share one grid into the model's axes and crop them together to what is not zero.

    Returns
    -------
    arrays
        The channels (I, J, K) float32, copies.
    geometry
        Their grid.
    """
    moved, oriented = reorientation(volumes[0].geometry, spec.orientation)
    arrays = [moved.forward(volume.array) for volume in volumes]
    box = crop_box(arrays)
    cut = [np.array(array[box], dtype=np.float32, order="C") for array in arrays]
    return cut, oriented.cropped(box)


def resample_edges(array: np.ndarray, source: Geometry, spec: ModelSpec) -> np.ndarray:
    """Resample an array (I, J, K) float32 from its grid to `grids.edge_grid` of it."""
    wanted = target_spacing(source, spec)
    shape = edge_grid(source, wanted).shape
    if shape == source.shape:
        return array
    apart = thick_axis(source.nominal_spacing_mm, wanted, spec.resampling)
    return resize(array, shape, spec.resampling, apart=apart)


def resize(array: np.ndarray, shape: tuple[int, int, int], how: Resampling, *, apart: int | None) -> np.ndarray:
    """Resize an array (I, J, K) float32 by splines, edges held.

    Parameters
    ----------
    array
        The image.
    shape
        The new shape.
    how
        Order of the splines.
    apart
        An axis whose slices are resized each by itself, and of which the nearest is taken; None for none.

    Returns
    -------
    ndarray
        float32 of `shape`, clipped to the range of the values that it was made from: the whole image, or the slice.
    """
    values = torch.from_numpy(array)
    kept = () if apart is None else (apart,)
    across = [axis for axis in range(3) if axis not in kept]
    low, high = values.amin(across, keepdim=True), values.amax(across, keepdim=True)
    # The axis that shrinks most goes first, so that the others have less to do.
    for axis in sorted(across, key=lambda axis: shape[axis] / array.shape[axis]):
        if shape[axis] != array.shape[axis]:
            matrix = torch.from_numpy(_resizing_matrix(array.shape[axis], shape[axis], how.order))
            values = torch.tensordot(matrix, values, dims=([1], [axis])).movedim(0, axis)
    if how.order > 1:
        values = values.clamp(low, high)
    if apart is not None and shape[apart] != array.shape[apart]:
        at = nearest(edge_positions(array.shape[apart], shape[apart]), array.shape[apart])
        values = values.index_select(apart, torch.from_numpy(at))
    return np.ascontiguousarray(values.numpy())


def _resizing_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """Return what resizing does to a line of voxels as a matrix (new_size, size) float32."""
    # One column a unit impulse: resizing is linear, so its impulse responses are all of it.
    columns = zoom(np.eye(size), (new_size / size, 1), order=order, mode="nearest", grid_mode=True)
    matrix: np.ndarray = columns.astype(np.float32)
    return matrix
