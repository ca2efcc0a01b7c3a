"""What this process holds of the machine's memory, and what it may still take, as the system tells it."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROC, CONTROL_GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where the system does not tell."""
    text = _read(PROC / "self" / "statm")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") if text else None


def peak_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where the system does not tell."""
    # Where it is there; ru_maxrss begins at what the process that started this one held.
    known = _table(PROC / "self" / "status").get("VmHWM")
    if known is not None:
        return int(known.split()[0]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_bytes() -> int | None:
    """Return how much more this process may take: of the machine, its control group and its own limits.

    None where none of them tells.
    """
    machine = _free_of_machine()
    found = [limit - used for limit, used in limits()] + ([] if machine is None else [machine])
    return max(0, min(found)) if found else None


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array lies in a file that is mapped, and not in memory."""
    return _mapping(array) is not None


def release_pages(array: NDArray[Any]) -> None:
    """Give the pages of an array that is mapped from a file back to the system; nothing for one in memory.

    They would else count as this process's memory until the system wants them. What was written stays.
    """
    mapping = _mapping(array)
    if mapping is not None and hasattr(mapping, "madvise"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    shared = False
    owner: Any = array
    while isinstance(owner, np.ndarray):
        # Of a mapping in mode 'c' what was changed is in memory alone, and would be lost.
        shared = shared or (isinstance(owner, np.memmap) and owner.mode != "c")
        owner = owner.base
    return owner if shared and isinstance(owner, mmap.mmap) else None


def _free_of_machine() -> int | None:
    told = _table(PROC / "meminfo").get("MemAvailable")
    if told is not None:
        return int(told.split()[0]) * 1024
    try:
        # macOS tells what it has, not what is free: half of it is a guess that leaves room for the others.
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return None


def limits() -> list[tuple[int, int]]:
    """Return (limit, used) in bytes of the control group and of this process's own limits, as far as there are any."""
    found = []
    for folder, most, now, cache in (
        (CONTROL_GROUPS, "memory.max", "memory.current", "inactive_file"),
        (CONTROL_GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read(folder / most).strip(), _read(folder / now).strip()
        if limit.isdigit() and used.isdigit():
            counts = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
            # Files in the cache count as used, and give way at once.
            found.append((int(limit), int(used) - int(counts.get(cache, 0))))
    status = _table(PROC / "self" / "status")
    if not status:
        return found
    import resource

    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most_bytes = resource.getrlimit(kind)[0]
        if most_bytes != resource.RLIM_INFINITY and field in status:
            found.append((most_bytes, int(status[field].split()[0]) * 1024))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _table(path: Path) -> dict[str, str]:
    """Read lines of the form "name: value"."""
    return dict(line.split(":", 1) for line in _read(path).splitlines() if ":" in line)
