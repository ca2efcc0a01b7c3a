"""Files that are there twice: copies, byte for byte, are dropped; files of one SOP Instance UID that differ are not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from voxmetry.io.dicom.read.headers import Header, text, unreadable
from voxmetry.io.dicom.read.opened import opened

_CHUNK = 1 << 20


def without_copies(headers: Sequence[Header]) -> tuple[list[Header], int]:
    """Leave out files of one SOP Instance UID and of the same bytes as an earlier one.

    Returns
    -------
    list of Header
        Those that are kept, in their order.
    int
        How many others there are.

    Raises
    ------
    InputError
        If a file that may be a copy can no longer be read.
    """
    same: dict[tuple[str, int], list[Header]] = defaultdict(list)
    for header in headers:
        if uid := text(header.dataset, "SOPInstanceUID"):
            same[uid, header.dataset.file_size].append(header)
    dropped: set[int] = set()
    for group in same.values():
        if len(group) < 2:
            continue
        seen: set[bytes] = set()
        for header in group:
            digest = _digest(header.path)
            if digest in seen:
                dropped.add(id(header))
            seen.add(digest)
    return [header for header in headers if id(header) not in dropped], len(dropped)


def _digest(path: Path) -> bytes:
    total = hashlib.blake2b(digest_size=32)
    try:
        with opened(path) as file:
            for offset in range(0, file.size, _CHUNK):
                total.update(file.read_at(offset, _CHUNK))
    except OSError as error:
        raise unreadable(path.name, error) from error
    return total.digest()
