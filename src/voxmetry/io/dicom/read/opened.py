"""Files on disk and members of a zip archive, opened in one way.

A member is named by a path below the archive, such as `study.zip/CT/1.dcm`. Nothing is unpacked to disk, so a member's
name can lead nowhere.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

MOST_MEMBERS = 200_000
MOST_UNPACKED = 64 << 30
MOST_MEMBER = 4 << 30
MOST_RATIO = 500
"""Limits of an archive: files, bytes in all, bytes of one file, and how many times smaller than its content a file
above 16 MiB may be. A CT of air alone shrinks to about a hundredth."""
_SMALL = 16 << 20

_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
"""Without waiting: opening a named pipe would otherwise never come back."""


class Opened(Protocol):
    """An open file."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from a place on."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from a place on, and return how many bytes there were."""


class _OnDisk:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        state = os.fstat(descriptor)
        # What is no plain file, such as a named pipe, is as good as empty.
        self.size = state.st_size if stat.S_ISREG(state.st_mode) else 0

    def _go(self, offset: int) -> None:
        if offset != self._position:
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            self._position = offset

    def read_at(self, offset: int, length: int) -> bytes:
        if not self.size:
            return b""
        self._go(offset)
        parts, left = [], length
        while left > 0:
            part = os.read(self._descriptor, min(left, 1 << 30))
            if not part:
                break
            parts.append(part)
            left -= len(part)
            if self._position + length - left >= self.size:
                break
        self._position += length - left
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        self._go(offset)
        flat = buffer.cast("B")
        filled = 0
        with io.FileIO(self._descriptor, closefd=False) as file:
            while filled < len(flat):
                count = file.readinto(flat[filled:])
                if not count:
                    break
                filled += count
        self._position += filled
        return filled


class _InArchive:
    def __init__(self, archive: _Archive, member: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._member = member
        self._data = b""
        self.size = member.file_size

    def _up_to(self, end: int) -> bytes:
        end = min(end, self.size)
        if len(self._data) < end:
            self._data = self._archive.read(self._member, end)
        return self._data

    def read_at(self, offset: int, length: int) -> bytes:
        return self._up_to(offset + length)[offset : offset + length]

    def read_into(self, offset: int, buffer: memoryview) -> int:
        flat = buffer.cast("B")
        part = self.read_at(offset, len(flat))
        flat[: len(part)] = part
        return len(part)


@dataclass(frozen=True)
class _Archive:
    file: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]
    lock: threading.Lock

    def read(self, member: zipfile.ZipInfo, length: int) -> bytes:
        """Return the first bytes of a member; zipfile stops at the size that the directory states."""
        try:
            with self.lock, self.file.open(member) as stream:
                return stream.read(length)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            # OSError without a number: what the caller makes an error of that names the file.
            raise OSError(f"a damaged or encrypted member of an archive ({type(error).__name__})") from error


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Opened]:
    """Open a file, or a member of the archive that it lies below.

    Raises
    ------
    OSError
        If it is gone, may not be read, or its archive is damaged.
    """
    try:
        descriptor = os.open(path, _READ_ONLY)
    except NotADirectoryError:
        archive, member = _member_of(Path(path))
        yield _InArchive(archive, member)
        return
    try:
        yield _OnDisk(descriptor)
    finally:
        os.close(descriptor)


def _member_of(path: Path) -> tuple[_Archive, zipfile.ZipInfo]:
    for parent in path.parents:
        if parent.is_file():
            archive = archive_at(parent)
            name = path.relative_to(parent).as_posix()
            if name in archive.members:
                return archive, archive.members[name]
            break
    raise FileNotFoundError(2, "No such file or directory", str(path))


_archives: dict[tuple[str, int, int], _Archive] = {}
_archives_lock = threading.Lock()
_MOST_OPEN = 4


def archive_at(path: Path) -> _Archive:
    """Open an archive and hold it against the limits; the last few stay open.

    Raises
    ------
    OSError
        If it is no archive, is encrypted, or exceeds a limit; the text says which.
    """
    state = path.stat()
    key = (str(path.resolve()), state.st_mtime_ns, state.st_size)
    with _archives_lock:
        if key in _archives:
            return _archives[key]
        try:
            file = zipfile.ZipFile(path)
            members = _checked(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise OSError(f"a damaged archive ({type(error).__name__})") from error
        archive = _Archive(file, members, threading.Lock())
        while len(_archives) >= _MOST_OPEN:
            _archives.pop(next(iter(_archives))).file.close()
        _archives[key] = archive
        return archive


def _checked(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = [info for info in file.infolist() if not info.is_dir()]
    if len(infos) > MOST_MEMBERS:
        raise OSError(f"an archive of {len(infos)} files, more than {MOST_MEMBERS}")
    total = sum(info.file_size for info in infos)
    if total > MOST_UNPACKED:
        raise OSError(f"an archive that unpacks to {total >> 30} GiB, more than {MOST_UNPACKED >> 30}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if info.flag_bits & 1:
            raise OSError("an encrypted archive")
        if info.file_size > MOST_MEMBER or info.file_size > max(_SMALL, MOST_RATIO * max(info.compress_size, 1)):
            raise OSError("an archive with a file that unpacks to far more than it holds")
        name = _inside(info.filename)
        if name in members:
            raise OSError("an archive that holds two files of one name")
        members[name] = info
    return members


def _inside(name: str) -> str:
    """Return a member's name without what would lead out of the archive, for use as a label alone."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    return "/".join(parts) or "unnamed"
