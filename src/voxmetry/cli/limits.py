"""Limits that a shell or a scheduler sets on this process, looked at before a library meets them.

A library of linear algebra that finds no room ends the whole process, and torch that cannot be loaded says so in words
of the linker: neither can be caught.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from voxmetry.errors import ConfigError

LEAST_FILES = 24
"""Files open at once: `segment` ran with 24 and not with 16."""
LEAST_BYTES = 400_000_000
"""Address space of a verb without a network: `measure` ran with 410 MB and not with 260."""
LEAST_BYTES_WITH_NETWORK = 1_100_000_000
"""The same with torch loaded: `segment` of a tiny image ran with 1.13 GB and not with 0.92."""
WITHOUT_NETWORK = ("inspect", "measure", "compare", "follow-up", "convert", "report", "models")


def require_limits(arguments: Sequence[str]) -> None:
    """Raise `ConfigError` where this process may open too few files or take too little memory for its verb."""
    try:
        import resource
    except ImportError:
        # Windows has no such limits.
        return
    files, space = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS))
    if files != resource.RLIM_INFINITY and files < LEAST_FILES:
        raise ConfigError(
            found=f"at most {files} files may be open at once",
            expected=f"{LEAST_FILES} or more",
            fix=f"raise the limit: ulimit -n {8 * LEAST_FILES}",
        )
    if space == resource.RLIM_INFINITY:
        return
    # Each thread of these libraries takes address space of its own, as many as the machine has cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    verb = next((word for word in arguments if not word.startswith("-")), "")
    least = LEAST_BYTES if verb in WITHOUT_NETWORK else LEAST_BYTES_WITH_NETWORK
    if verb and space < least:
        raise ConfigError(
            found=f"this process may take {space / 1e9:.2f} GB of memory at most",
            expected=f"{least / 1e9:g} GB or more, and room for the image",
            fix="raise the limit: ulimit -v unlimited, or the memory that the scheduler gives",
        )


def is_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that memory ran out: libraries have many names for that."""
    while error is not None:
        words = str(error).lower()
        if isinstance(error, MemoryError) or any(sign in words for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


_SIGNS = ("cannot allocate memory", "can't allocate memory", "failed to map segment", "bad_alloc", "out of memory")
