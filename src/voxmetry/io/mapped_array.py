"""Arrays in temporary files, for what is larger than memory."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from voxmetry.errors import OutputError


def zeros_on_disk(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros in Fortran order, mapped from a file that is gone when the array is.

    The file lies in the folder for temporary files, which TMPDIR names.

    Raises
    ------
    OutputError
        If there is no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(prefix="voxmetry-") as file:
            reserve(file.fileno(), size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape, order="F"))
    except OSError as error:
        raise OutputError(
            found=f"no room for a temporary file of {size / 1e9:.2f} GB: {error.strerror or type(error).__name__}",
            expected="room for a label map that is larger than memory",
            fix="set TMPDIR to a folder on a larger disk, or free memory",
        ) from error


def reserve(descriptor: int, size: int) -> None:
    """Give a file its full size with room on the disk: a mapped file that meets a full disk kills its process."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            # Some file systems of networks cannot reserve; the size alone has to do there.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            os.ftruncate(descriptor, size)
        return
    os.ftruncate(descriptor, size)
