"""Images and label maps made smaller for looking at, lot by lot along memory: what is held does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import release_pages
from voxmetry.ops.layout import memory_axes

_AT_ONCE = 1 << 25
"""Voxels that are reduced at once."""


def reduction(geometry: Geometry, most: int) -> tuple[int, int, int]:
    """Return how many voxels to merge along each axis so that at most `most` remain, as near to cubes as can be.

    Examples
    --------
    >>> reduction(Geometry(np.diag([1.0, 1.0, 5.0, 1.0]), (512, 512, 60)), 4_000_000)
    (2, 2, 1)
    """
    shape, spacing = geometry.shape, geometry.spacing_mm
    steps = [1, 1, 1]
    while math.prod(math.ceil(n / step) for n, step in zip(shape, steps, strict=True)) > most:
        sizes = [mm * step if n > step else math.inf for mm, step, n in zip(spacing, steps, shape, strict=True)]
        finest = min(sizes)
        # Axes of about the same size are merged together, so that square pixels stay square.
        steps = [step + 1 if size < finest * 1.2 else step for step, size in zip(steps, sizes, strict=True)]
    return (steps[0], steps[1], steps[2])


def _blocks(array: NDArray[Any], steps: tuple[int, int, int]) -> NDArray[Any]:
    """Return a view with the voxels of each block in the last three axes; edges are repeated to fill blocks."""
    missing = [(0, -n % step) for n, step in zip(array.shape, steps, strict=True)]
    whole = np.pad(array, missing, mode="edge") if any(map(any, missing)) else array
    split = [part for n, step in zip(whole.shape, steps, strict=True) for part in (n // step, step)]
    return whole.reshape(split).transpose(0, 2, 4, 1, 3, 5)


def block_mean(array: NDArray[Any], steps: tuple[int, int, int]) -> NDArray[np.float32]:
    """Return the mean of each block of voxels."""
    axes = memory_axes(array)
    inner = _ordered_steps(steps, axes)
    sizes = [-(-array.shape[axis] // step) for axis, step in zip(axes, inner, strict=True)]
    total = np.empty(sizes, np.float32).transpose(np.argsort(axes))
    for rows, part in _lots_of_blocks(array, steps):
        blocks = _blocks(part, steps)
        mean = np.zeros(blocks.shape[:3], np.float32, order="F" if axes[0] else "C")
        for offsets in np.ndindex(*steps):
            mean += blocks[(..., *offsets)]
        total[_along(axes[0], rows)] = mean / np.float32(math.prod(steps))
    return total


def _ordered_steps(steps: tuple[int, int, int], axes: tuple[int, int, int]) -> tuple[int, int, int]:
    i, j, k = (steps[axis] for axis in axes)
    return (i, j, k)


def _along(axis: int, rows: slice) -> tuple[slice, ...]:
    return tuple(rows if each == axis else slice(None) for each in range(3))


def _lots_of_blocks(array: NDArray[Any], steps: tuple[int, int, int]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield whole blocks along memory: which of the reduced slices they make, and their voxels."""
    axis = memory_axes(array)[0]
    n, step = array.shape[axis], steps[axis]
    rows = max(1, _AT_ONCE // max(1, array.size // n * step))
    for start in range(0, -(-n // step), rows):
        stop = min(start + rows, -(-n // step))
        yield slice(start, stop), array[_along(axis, slice(start * step, stop * step))]
        release_pages(array)


def block_label(array: NDArray[Any], steps: tuple[int, int, int], *, present: Iterable[int]) -> NDArray[Any]:
    """Return the label that most voxels of each block have; a structure too small for that keeps its blocks.

    `present` are the labels in the array.
    """
    if steps == (1, 1, 1):
        return array
    axes = memory_axes(array)
    sizes = [-(-array.shape[axis] // step) for axis, step in zip(axes, _ordered_steps(steps, axes), strict=True)]
    reduced = np.empty(sizes, array.dtype)
    for lot, rows in _rows_of_blocks(array, steps):
        # The middle one of the sorted voxels is the majority where there is one, and a label of the block where not.
        found = rows[:, 0].copy()
        mixed = np.flatnonzero((rows != found[:, None]).any(axis=1))
        several = rows[mixed]
        middle = several.shape[1] // 2
        found[mixed] = np.partition(several, middle, axis=1)[:, middle]
        reduced[lot] = found.reshape(reduced[lot].shape)
    small = sorted(set(present) - set(np.unique(reduced).tolist()))
    for lot, rows in _rows_of_blocks(array, steps) if small else ():
        found = reduced[lot].reshape(-1)
        for value in small:
            found[(rows == value).any(axis=1)] = value
    return reduced.transpose(np.argsort(axes))


def _rows_of_blocks(array: NDArray[Any], steps: tuple[int, int, int]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Yield the voxels of lots of blocks, a row a block, the blocks along memory."""
    axes = memory_axes(array)
    inner = _ordered_steps(steps, axes)
    for lot, part in _lots_of_blocks(array, steps):
        yield lot, _blocks(part.transpose(axes), inner).reshape(-1, math.prod(inner))


def reduced_grid(geometry: Geometry, steps: tuple[int, int, int]) -> Geometry:
    """Return the grid of the blocks' centres; the last block along an axis may reach beyond the voxels."""
    shape = [-(-n // step) for n, step in zip(geometry.shape, steps, strict=True)]
    return geometry.resized(shape, step=steps, start=[(step - 1) / 2 for step in steps])
