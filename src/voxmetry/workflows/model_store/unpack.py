"""Unpack an archive of a model, with guards: nothing outside of its folder, nothing larger than what it may be."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from voxmetry.errors import FormatError, OutputError
from voxmetry.io.atomic import output_error

MOST_FILES = 20_000
LARGEST_BYTES = 40 * 10**9
LARGEST_RATIO = 200
"""Unpacked to packed: weights are hardly compressed at all; a bomb is, by a factor of a thousand."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip file into an empty folder.

    Raises
    ------
    FormatError
        If it is damaged or encrypted, holds a link or a name that leads out of the folder, or unpacks to too much.
    OutputError
        If the disk lacks the room.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            _require_harmless(archive.name, entries, max(1, archive.stat().st_size))
            need = sum(entry.file_size for entry in entries)
            free = shutil.disk_usage(folder).free
            if need > free:
                raise OutputError(
                    found=f"{archive.name} takes {need / 1e9:.2f} GB unpacked; {free / 1e9:.2f} GB are free",
                    expected="room for it",
                    fix="free some space, or set VOXMETRY_MODELS to a folder on another disk",
                )
            for entry in entries:
                _extract(content, entry, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise FormatError(
            found=f"{archive.name} is no whole .zip file: {error}",
            expected="the archive as its authors published it",
            fix="fetch it again",
        ) from error
    except OSError as error:
        raise output_error(folder, error) from error


def _extract(content: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path) -> None:
    target = folder.joinpath(*PurePosixPath(entry.filename).parts)
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with content.open(entry) as source, target.open("wb") as file:
        # The directory's size is a claim; reading stops there, whatever the stream holds.
        while left > 0 and (data := source.read(min(left, 1 << 20))):
            file.write(data)
            left -= len(data)
        if left or source.read(1):
            raise zipfile.BadZipFile(f"{target.name} is not of the size that the archive says")


def _require_harmless(name: str, entries: list[zipfile.ZipInfo], packed: int) -> None:
    total = sum(entry.file_size for entry in entries)
    problem = ""
    if len(entries) > MOST_FILES or total > LARGEST_BYTES:
        problem = f"{len(entries)} files of {total / 1e9:.1f} GB together"
    elif total > LARGEST_RATIO * packed + 1_000_000:
        problem = f"{total / 1e6:.0f} MB out of {packed / 1e6:.2f} MB"
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
            problem = "a name that leads out of its folder"
        elif stat.S_ISLNK(entry.external_attr >> 16):
            problem = "a link"
        elif entry.flag_bits & 1:
            problem = "an encrypted file"
    if problem:
        raise FormatError(
            found=f"{name} holds {problem}",
            expected="an archive of weights and text files below one folder",
            fix="fetch the archive from its authors; this one was not unpacked",
        )
