"""Arrays in temporary files, for what is larger than memory."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from voxmetry.errors import OutputError


def zeros_on_disk(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array of zeros in Fortran order, mapped from a file that is gone when the array is.

    The file lies in the folder for large temporary files: what TMPDIR names, else /var/tmp, which lies on a disk where
    /tmp may be memory, else the system's own.

    Raises
    ------
    OutputError
        If there is no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        with tempfile.TemporaryFile(prefix="voxmetry-", dir=_folder()) as file:
            reserve(file.fileno(), size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape, order="F"))
    except OSError as error:
        raise OutputError(
            found=f"no room for a temporary file of {size / 1e9:.2f} GB: {error.strerror or type(error).__name__}",
            expected="room for an image or a label map that is larger than memory",
            fix="set TMPDIR to a folder on a larger disk, or free memory",
        ) from error


def _folder() -> str | None:
    large = "/var/tmp"
    named = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    return large if not named and Path(large).is_dir() and os.access(large, os.W_OK) else None


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
