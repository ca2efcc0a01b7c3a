"""Where the voxels of a series go: into memory, or into a temporary file where they are too large for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import is_mapped, release_pages
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.memory import fits_memory, require_allowed


def room(shape: tuple[int, int, int], kind: type[np.generic], *, mapped: bool) -> NDArray[Any]:
    """Return an array (K, J, I), along memory, to be filled: in a temporary file where it is too large to be held."""
    needed = math.prod(shape) * np.dtype(kind).itemsize
    if mapped and not fits_memory(needed):
        require_allowed(needed, "the series")
        return zeros_on_disk(shape[::-1], kind).T
    return np.empty(shape, kind)


def multiplied(array: NDArray[Any], factor: np.float32) -> NDArray[Any]:
    """Return values times a factor, float32; those in a file stay in one."""
    if array.dtype == np.float32 or not is_mapped(array):
        array = array.astype(np.float32, copy=False)
        array *= factor
        return array
    made = zeros_on_disk(array.shape[::-1], np.float32).T
    for to_slice, from_slice in zip(made, array, strict=True):
        np.multiply(from_slice.astype(np.float32), factor, out=to_slice)
        release_pages(made)
    return made
