"""nnU-Net v2's way to its grid and back: crop, normalise on the study's own voxels, resample edge to edge.

Resampling by splines is linear in the voxels and goes along one axis after the other, so that it is one small matrix
for each axis. The matrices are those of scipy's `zoom`, which skimage's `resize` and with it nnU-Net call: the same
numbers, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, zoom

from voxmetry.config import ModelSpec, Resampling
from voxmetry.core.axes import reorientation
from voxmetry.core.geometry import Geometry
from voxmetry.core.volume import Volume
from voxmetry.errors import InputError
from voxmetry.nn.grids import edge_grid, edge_positions, nearest, target_spacing, thick_axis

EDGES: dict[str, Any] = {"mode": "nearest", "grid_mode": True}
"""How `scipy.ndimage.zoom` holds the edges of the outermost voxels."""
TIE = 1e-9
"""Scores of labels that differ by less are equal but for rounding."""


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


def crop(
    volumes: Sequence[Volume], spec: ModelSpec, labels: np.ndarray | None = None
) -> tuple[list[np.ndarray], np.ndarray | None, Geometry]:
    """Bring channels that share one grid into the model's axes and crop them together to what is not zero.

    Parameters
    ----------
    volumes
        The channels.
    spec
        The model.
    labels
        A label map on the same grid, which is cropped with them.

    Returns
    -------
    arrays
        The channels (I, J, K) float32, copies.
    labels
        The label map (I, J, K), None where none was given.
    geometry
        Their grid.
    """
    moved, oriented = reorientation(volumes[0].geometry, spec.orientation)
    arrays = [moved.forward(volume.array) for volume in volumes]
    box = crop_box(arrays)
    cut = [np.array(array[box], dtype=np.float32, order="C") for array in arrays]
    return cut, None if labels is None else moved.forward(labels)[box], oriented.cropped(box)


def resample_edges(array: np.ndarray, source: Geometry, spec: ModelSpec) -> np.ndarray:
    """Resample an array (I, J, K) float32 from its grid to `grids.edge_grid` of it."""
    wanted = target_spacing(source, spec)
    shape = edge_grid(source, wanted).shape
    if shape == source.shape:
        return array
    apart = thick_axis(source.nominal_spacing_mm, wanted, spec.resampling)
    return resize(array, shape, spec.resampling, apart=apart)


def resample_structures(
    labels: np.ndarray, inside: np.ndarray, values: Sequence[int], source: Geometry, spec: ModelSpec
) -> np.ndarray:
    """Resample structures of a label map to `grids.edge_grid` of its grid, one channel each.

    Each structure is interpolated linearly, and the largest wins a voxel; of equal ones that of the nearest voxel.
    nnU-Net with batchgenerators 0.25.5 does so. Older ones took what reached one half.

    Parameters
    ----------
    labels
        (I, J, K) whole numbers on `source`.
    inside
        (I, J, K) bool: where there is an image. Outside of it the background is another one.
    values
        The label values that become channels, in their order. The others win voxels all the same.
    source
        The grid of the label map.
    spec
        The model whose grid is wanted.

    Returns
    -------
    ndarray
        float32 (len(values), ...), 1 inside a structure and 0 outside.
    """
    wanted = target_spacing(source, spec)
    shape = edge_grid(source, wanted).shape
    found = labels
    if shape != source.shape:
        apart = thick_axis(source.nominal_spacing_mm, wanted, spec.resampling)
        found = resize_labels(np.where(inside | (labels > 0), labels.astype(np.int32), -1), shape, apart=apart)
    return np.stack([(found == value).astype(np.float32) for value in values])


def resize_labels(labels: np.ndarray, shape: tuple[int, int, int], *, apart: int | None) -> np.ndarray:
    """Resize a label map (I, J, K) int32: linear for each value, edges held, the largest wins.

    Slices along the axis `apart` are resized each by itself, and the nearest is taken.
    """
    at = [nearest(edge_positions(labels.shape[axis], shape[axis]), labels.shape[axis]) for axis in range(3)]
    matrices = [
        np.eye(labels.shape[axis])[at[axis]]
        if axis == apart
        else zoom(np.eye(labels.shape[axis]), (shape[axis] / labels.shape[axis], 1), order=1, **EDGES)
        for axis in range(3)
    ]
    nearest_value = labels[np.ix_(*at)]
    found, best = np.full(shape, labels.min(), dtype=labels.dtype), np.zeros(shape)
    for value in np.unique(labels):
        score, box = _resized_mask(labels == value, matrices)
        have, at_best = found[box], best[box]
        level = np.abs(score - at_best) < TIE
        wins = (score > at_best) & ~level | level & (nearest_value[box] == value)
        have[wins] = value
        np.maximum(at_best, score, out=at_best)
    return found


def _resized_mask(mask: np.ndarray, matrices: Sequence[np.ndarray]) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Resize the box of a mask (I, J, K) bool by a matrix for each axis; return it float64 and where it goes."""
    values, start, box = mask, [], []
    for axis in range(3):
        there = np.flatnonzero(values.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(int(there[0]))
        values = values[(slice(None),) * axis + (slice(int(there[0]), int(there[-1]) + 1),)]
    resized = values.astype(np.float64)  # so that one half is one half
    for axis, matrix in enumerate(matrices):
        part = matrix[:, start[axis] : start[axis] + resized.shape[axis]]
        rows = np.flatnonzero(part.any(axis=1))
        box.append(slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0))
        resized = np.moveaxis(np.tensordot(part[box[axis]], resized, axes=([1], [axis])), 0, axis)
    return resized, tuple(box)


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
    columns = zoom(np.eye(size), (new_size / size, 1), order=order, **EDGES)
    matrix: np.ndarray = columns.astype(np.float32)
    return matrix
