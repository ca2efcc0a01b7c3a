"""Voxels as NRRD and MetaImage store them: in one file or in several, packed or not, as bytes or as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.errors import FormatError
from voxmetry.io.memory import mapped_voxels, require_memory
from voxmetry.io.unpack import BROKEN, SPARE_BYTES, Unpacked, fill, finish, native, open_plain, packing_of, room_for

Encoding: TypeAlias = Literal["raw", "gzip", "bzip2", "packed", "text", "hex"]
"""'packed' is any of zlib, gzip and bzip2, by the first bytes."""

_TEXT_CHUNK = 1 << 20


@dataclass(frozen=True)
class DataFiles:
    """Where voxels lie.

    Parameters
    ----------
    paths
        The files in order; they hold equal parts of the slowest axes.
    offset
        Where the voxels begin in the one file that has the header too.
    lines
        Lines to skip there, before anything is unpacked.
    skipped
        Bytes to skip then, of the unpacked voxels; -1 where the voxels are the last bytes of the file.
    axes
        How many axes, the fastest ones, lie in one file.
    """

    paths: tuple[Path, ...]
    offset: int = 0
    lines: int = 0
    skipped: int = 0
    axes: int = 3


@dataclass(frozen=True)
class Stored:
    """Voxels as a header describes them: sizes with the fastest axis first, type with the order of its bytes."""

    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    encoding: str
    data: DataFiles


def numbers(text: str) -> tuple[float, ...] | None:
    """Return the numbers in a text, or None where something else stands in it."""
    try:
        return tuple(float(word) for word in text.split())
    except ValueError:
        return None


def whole_numbers(text: str) -> tuple[int, ...]:
    """Return the whole numbers in a text, or nothing where something else stands in it or one has over 18 digits."""
    words = text.split()
    if not all(re.fullmatch(r"[+-]?[0-9]{1,18}", word) for word in words):
        return ()
    return tuple(int(word) for word in words)


def read_stored(stored: Stored, name: str, *, mapped: bool = False) -> NDArray[Any]:
    """Read voxels into an array in Fortran order, of the native order of bytes; `mapped` as for `read_volume`.

    Raises
    ------
    FormatError
        If the files hold fewer or far more voxels than the header says, or are damaged.
    InputError
        If there is no room for them.
    """
    parts = int(np.prod(stored.sizes[stored.data.axes :], dtype=object))
    if parts != len(stored.data.paths):
        raise _damaged(name, f"its header names {len(stored.data.paths)} data files where its sizes need {parts}")
    each = int(np.prod(stored.sizes[: stored.data.axes], dtype=object)) * stored.dtype.itemsize
    for path in stored.data.paths:
        _check_size(stored, path, each, name)
    if mapped and stored.encoding == "raw" and parts == 1:
        there = _mapped(stored, name)
        if there is not None:
            return there
    array = room_for(stored.sizes, stored.dtype, name, mapped=mapped)
    flat = array.reshape(-1, order="F")
    count = len(flat) // parts
    for index, path in enumerate(stored.data.paths):
        with _telling(path, name), open_plain(path, path.name) as file:
            _read_part(file, stored, flat[index * count : (index + 1) * count], name)
    return native(array)


def _mapped(stored: Stored, name: str) -> NDArray[Any] | None:
    """Return voxels where they lie, if there is no room to hold them; see `mapped_voxels`."""
    data, needed = stored.data, int(np.prod(stored.sizes, dtype=object)) * stored.dtype.itemsize
    (path,) = data.paths
    with open_plain(path, path.name) as file:
        end = file.seek(0, 2)
        file.seek(data.offset)
        for _ in range(data.lines):
            file.readline(_TEXT_CHUNK)
        offset = end - needed if data.skipped == -1 else file.tell() + data.skipped
        # Whatever else does not fit is said when it is read.
        if offset < data.offset or not 0 <= end - offset - needed <= SPARE_BYTES:
            return None
        return mapped_voxels(file, stored.sizes, stored.dtype, offset, name)


@contextmanager
def _telling(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        where = "" if path.name == name else f" in {path.name}"
        end = " end too early" if isinstance(error, EOFError) else f" are broken ({type(error).__name__})"
        raise _damaged(name, f"its voxels{where}{end}") from error


def _check_size(stored: Stored, path: Path, needed: int, name: str) -> None:
    """Compare what the header asks for with what the file can hold, before room is made for it."""
    size = path.stat().st_size
    # Deflate packs 1032 bytes into one at the very best; bzip2 has no such bound, and text holds a sign and a gap each.
    least = {
        "raw": needed,
        "gzip": needed // 1032,
        "packed": 0,
        "bzip2": 0,
        "hex": 2 * needed,
        "text": 2 * needed // stored.dtype.itemsize - 1,
    }[stored.encoding]
    if size < least:
        raise _damaged(name, f"{path.name} is {size} bytes long, too few: its voxels end too early")


def _read_part(file: IO[bytes], stored: Stored, into: NDArray[Any], name: str) -> None:
    data = stored.data
    file.seek(data.offset)
    for _ in range(data.lines):
        if not file.readline(_TEXT_CHUNK):
            raise EOFError
    if stored.encoding in ("text", "hex"):
        _read_text(file, stored, into, name)
    elif stored.encoding == "raw":
        _read_raw(file, data.skipped, into, name)
    else:
        _read_packed(file, stored, into, name)


def _read_raw(file: IO[bytes], skipped: int, into: NDArray[Any], name: str) -> None:
    begin = file.tell()
    if skipped == -1:
        first = file.seek(0, 2) - into.nbytes
        if first < begin:
            # The last bytes would begin within the header.
            raise EOFError
        file.seek(first)
    else:
        file.seek(skipped, 1)
    if fill(into, file) < into.nbytes:
        raise EOFError
    if not finish(file, SPARE_BYTES):
        raise _too_many(name)


def _read_packed(file: IO[bytes], stored: Stored, into: NDArray[Any], name: str) -> None:
    begin = file.tell()
    packing = packing_of(file.read(2))
    file.seek(begin)
    if packing is None or stored.encoding not in ("packed", packing):
        raise _damaged(name, f"its voxels do not begin as {stored.encoding} does: they are broken, or not packed")
    source = Unpacked(file, packing)
    source.seek(stored.data.skipped)
    if fill(into, source) < into.nbytes:
        raise EOFError
    if not finish(source, SPARE_BYTES):
        raise _too_many(name)


def _read_text(file: IO[bytes], stored: Stored, into: NDArray[Any], name: str) -> None:
    file.seek(stored.data.skipped, 1)
    rest = file.seek(0, 1)
    size = file.seek(0, 2) - rest
    file.seek(rest)
    require_memory(8 * size, name)
    content = file.read()
    if stored.encoding == "hex":
        raw = bytes.fromhex(content.decode("ascii"))
        if len(raw) < into.nbytes:
            raise EOFError
        into.view(np.uint8)[:] = np.frombuffer(raw[: into.nbytes], np.uint8)
        return
    words = content.replace(b",", b" ").split()
    if len(words) < into.size:
        raise EOFError
    if len(words) > into.size:
        raise _too_many(name)
    values = [float(word) if stored.dtype.kind == "f" else int(word) for word in words]
    try:
        into[:] = values
    except OverflowError as error:
        raise ValueError("a number that the type cannot hold") from error


def _too_many(name: str) -> FormatError:
    return FormatError(
        found=f"{name} cannot be read: its file holds more voxels than its header says",
        expected="sizes, type and channels in the header that are those of the voxels",
        fix="copy or convert the file again from its source; with other sizes the voxels would be in wrong places",
    )


def _damaged(name: str, why: str) -> FormatError:
    return FormatError(
        found=f"{name} cannot be read: {why}",
        expected="a complete NRRD or MetaImage file",
        fix="copy or convert the file again from its source",
    )
