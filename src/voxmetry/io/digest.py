"""What a case is known by, whatever its files are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path


def digest_of(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents of files or folders, in the order given: a case's images, then its label.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in files_of(path):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        digest.update(b"|")
    return digest.hexdigest()


def files_of(path: Path) -> Iterator[Path]:
    """Yield a file itself, or the files of a folder, such as those of a DICOM series, sorted by name."""
    if path.is_dir():
        yield from sorted(file for file in path.rglob("*") if file.is_file())
    else:
        yield path
