"""Refuse an image that cannot fit before the system kills the process for it."""

from __future__ import annotations

import math
import os

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


def require_memory(needed: int, name: str) -> None:
    """Raise `InputError` where an image of so many bytes takes more than half of the memory that is free.

    The environment variable `VOXMETRY_IMAGE_GB` sets a lower limit, in 10^9 bytes, as where files come from outside.
    """
    most = image_limit_bytes()
    if most is not None and needed > most:
        raise InputError(
            found=f"{name} unpacks to {needed / 1e9:.2f} GB",
            expected=f"at most {most / 1e9:g} GB, the limit that {IMAGE_LIMIT} sets",
            fix=f"raise {IMAGE_LIMIT} if the file is to be trusted",
        )
    free = free_bytes()
    if free is not None and needed > SHARE * free:
        raise InputError(
            found=f"{name} unpacks to {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB of memory are free",
            expected=f"half of the free memory at most, {SHARE * free / 1e9:.2f} GB: what is done with it needs room",
            fix="use a machine with more memory, close other programs, or crop or resample the image first; a label "
            "map takes one byte a voxel where it is stored as uint8",
        )
