"""Refuse an image that cannot fit before the system kills the process for it."""

from __future__ import annotations

import math
import os
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.memory import free_bytes
from voxmetry.errors import ConfigError, InputError

SHARE = 0.5
"""What one image may take of the memory that is free: what is done with it needs room as well."""


IMAGE_LIMIT = "VOXMETRY_IMAGE_GB"
"""Environment variable: the most that one image may take, in 10^9 bytes."""


def image_limit_bytes() -> int | None:
    """Return the limit that `VOXMETRY_IMAGE_GB` sets, or None where it is not set.

    Raises
    ------
    ConfigError
        If it is no number above 0.
    """
    text = os.environ.get(IMAGE_LIMIT, "").strip()
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 < limit < math.inf:
        raise ConfigError(
            found=f"{IMAGE_LIMIT}={text[:20]!r}",
            expected="a number of 10^9 bytes above 0",
            fix="set it to one, or unset it",
        )
    return int(limit * 1e9)


def fits_memory(needed: int) -> bool:
    """Whether an image of so many bytes takes no more than half of the memory that is free."""
    free = free_bytes()
    return free is None or needed <= SHARE * free


def mapped_voxels(
    file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, name: str
) -> NDArray[Any] | None:
    """Return the voxels of an image that is too large to be held, as they lie in its file, in Fortran order.

    They are read from there whenever they are looked at: the file must stay as it is until then.

    Parameters
    ----------
    file
        Open, and not packed.
    shape, dtype, offset
        What lies where in it.
    name
        For the error.

    Returns
    -------
    array or None
        Read-only. None where there is room to hold them, or the processor would have to turn their bytes.

    Raises
    ------
    InputError
        If they are more than `VOXMETRY_IMAGE_GB` allows.
    """
    needed = math.prod(shape) * dtype.itemsize
    require_allowed(needed, name)
    if fits_memory(needed) or not dtype.isnative:
        return None
    return np.asarray(np.memmap(file, dtype, "r", offset=offset, shape=shape, order="F"))


def require_memory(needed: int, name: str) -> None:
    """Raise `InputError` where an image of so many bytes takes more than half of the memory that is free.

    The environment variable `VOXMETRY_IMAGE_GB` sets a lower limit, in 10^9 bytes, as where files come from outside.
    """
    require_allowed(needed, name)
    free = free_bytes()
    if free is not None and not fits_memory(needed):
        raise InputError(
            found=f"{name} unpacks to {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free",
            expected=f"half of the free memory at most, {SHARE * free / 1e9:.2f} GB: what is done with it needs room",
            fix="use a machine with more memory, close other programs, or crop or resample the image first; a label "
            "map takes one byte a voxel where it is stored as uint8, and an image that is stored unpacked and without "
            "scaling (.nii, raw .nrrd) is read where it lies by voxmetry.read_volume(path, mapped=True) in Python",
        )


def require_allowed(needed: int, name: str) -> None:
    """Raise `InputError` where an image of so many bytes is larger than `VOXMETRY_IMAGE_GB` allows."""
    most = image_limit_bytes()
    if most is not None and needed > most:
        raise InputError(
            found=f"{name} unpacks to {needed / 1e9:.2f} GB",
            expected=f"at most {most / 1e9:g} GB, the limit that {IMAGE_LIMIT} sets",
            fix=f"raise {IMAGE_LIMIT} if the file is to be trusted",
        )
