"""Files of packed voxels, opened with care: gzip, zlib and bzip2 streams, and data files that a header names.

Nothing here trusts a size that a header states: voxels are unpacked into the room for them a piece at a time, a stream
is read to its checksum, and a file that a header names lies beside it or below and is a plain file.
"""

from __future__ import annotations

import bz2
import io
import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np
from isal import igzip_lib
from numpy.typing import NDArray

from voxmetry.core.memory import release_pages
from voxmetry.errors import FormatError, InputError
from voxmetry.io.mapped_array import zeros_on_disk
from voxmetry.io.memory import fits_memory, require_allowed, require_memory

BROKEN_STREAM: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub declares an exception
BROKEN: tuple[type[Exception], ...] = (EOFError, OSError, ValueError, BROKEN_STREAM)
"""What the unpackers raise on a damaged stream."""

SPARE_BYTES = 64
"""What may follow the voxels in their file, in any format: more means that the header states other sizes than were
written, and then every voxel may be in the wrong place."""

_CHUNK = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2"}


def packing_of(start: bytes) -> str | None:
    """Return 'gzip', 'bzip2', 'zlib' or None, by the first bytes of a stream."""
    if start[:2] in _MAGIC:
        return _MAGIC[start[:2]]
    # RFC 1950: method 8 in the low bits, and both bytes together a multiple of 31.
    is_zlib = len(start) > 1 and start[0] & 0x0F == 8 and (256 * start[0] + start[1]) % 31 == 0
    return "zlib" if is_zlib else None


class Unpacked(io.RawIOBase):
    """The content of a packed file, unpacked as it is read.

    Streams that follow each other are joined, as gzip and bzip2 do. What follows the last one and is no stream is
    left alone, as gzip does with a warning.

    Parameters
    ----------
    file
        Open at the start of the first stream.
    packing
        'gzip', 'zlib' or 'bzip2'.

    Raises
    ------
    EOFError
        On reading, if a stream ends too early.
    OSError, igzip_lib.IsalError
        On reading, if a stream is damaged: its checksum is compared at its end.
    """

    def __init__(self, file: IO[bytes], packing: str) -> None:
        super().__init__()
        self._file, self._packing = file, packing
        self._start = file.tell()
        self._begin()

    def _begin(self) -> None:
        self._file.seek(self._start)
        self._stream = self._new()
        self._rest = b""
        self._at = 0
        self._ended = False

    def _new(self) -> Any:
        if self._packing == "bzip2":
            return bz2.BZ2Decompressor()
        is_gzip = self._packing == "gzip"
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP if is_gzip else igzip_lib.DECOMP_ZLIB)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True; a step back unpacks again from the start."""
        return True

    def tell(self) -> int:
        """Return the place in the unpacked content."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the unpacked content, counted from its start or from here."""
        target = offset + (self._at if whence == 1 else 0)
        if whence == 2 or target < 0:
            raise io.UnsupportedOperation("a packed stream is read from its start")
        if target < self._at:
            self._begin()
        while self._at < target and (piece := self._next(min(_CHUNK, target - self._at))):
            self._at += len(piece)
        return self._at

    def fileno(self) -> int:
        """Return the descriptor of the packed file."""
        return self._file.fileno()

    def readinto(self, buffer: Any) -> int:
        """Unpack into a buffer; returns how many bytes, 0 at the end."""
        view = memoryview(buffer).cast("B")
        piece = self._next(view.nbytes)
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _next(self, most: int) -> bytes:
        while most and not self._ended:
            if self._stream.eof:
                self._follow()
                continue
            if self._stream.needs_input:
                self._rest = self._rest or self._file.read(_CHUNK)
                if not self._rest:
                    raise EOFError("the stream ends too early")
            piece, self._rest = self._stream.decompress(self._rest, most), b""
            if piece:
                return bytes(piece)
        return b""

    def _follow(self) -> None:
        rest = self._stream.unused_data
        if len(rest) < 2:
            rest += self._file.read(_CHUNK)
        # zlib streams are not joined: nothing writes them so, and two bytes of anything can look like one.
        if self._packing != "zlib" and packing_of(rest) == self._packing:
            self._stream, self._rest = self._new(), rest
        else:
            self._ended = True


def regular_size(path: Path, name: str) -> int:
    """Return a file's size in bytes.

    Raises
    ------
    InputError
        If it is missing, or is a pipe, a device or a folder, which could block for ever or never end.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise _unreadable(name, error) from error
    except ValueError as error:
        raise InputError(
            found=f"{name!r} is no name of a file ({error})", expected="a file that exists", fix="check the path"
        ) from error
    if not stat.S_ISREG(state.st_mode):
        raise InputError(
            found=f"{name} is no plain file (a folder, a pipe or a device)",
            expected="a plain file",
            fix="name the file that holds the image",
        )
    return int(state.st_size)


def beside(header: Path, named: str) -> Path:
    """Return the path of a data file that a header names: it lies in the header's folder or below it.

    Parameters
    ----------
    header
        The header's path.
    named
        The name inside it.

    Raises
    ------
    FormatError
        If the name is absolute, steps out of the folder or holds control characters, or there is no such plain file.
    """
    parts = {*PurePosixPath(named).parts, *PureWindowsPath(named).parts}
    is_out = PurePosixPath(named).is_absolute() or bool(PureWindowsPath(named).anchor) or ".." in parts
    if is_out or not named.strip() or any(ord(sign) < 32 or ord(sign) == 127 for sign in named):
        raise FormatError(
            found=f"{header.name} names its data file {named!r}",
            expected="a file in the header's own folder, or below it",
            fix="move the data file beside the header, and write its plain name into the header",
        )
    path = header.parent / named
    try:
        regular_size(path, named)
    except InputError as error:
        raise FormatError(
            found=f"{header.name} cannot be read: its data file {error.found}",
            expected="the file that the header names, beside it",
            fix="copy the data file along with its header",
        ) from error
    return path


def numbered(header: Path, pattern: str, numbers: Sequence[int]) -> tuple[Path, ...]:
    """Return the data files that a header names by a pattern with one `%d` in it, such as `slice%03d.raw`.

    Raises
    ------
    FormatError
        If the pattern is another one: it is never handed to a formatting function.
    """
    before, sign, after = pattern.replace("%%", "\0").partition("%")
    width, kind, rest = after.partition("d")
    if not sign or not kind or (width and not width.isdigit()) or len(width) > 2 or "%" in rest:
        raise FormatError(
            found=f"{header.name} names its data files by {pattern!r}",
            expected="a name with one %d, %3d or %03d in it",
            fix="list the files one by one in the header",
        )
    filler, size = ("0" if width.startswith("0") else " "), int(width or 0)
    names = [f"{before}{str(number).rjust(size, filler)}{rest}".replace("\0", "%") for number in numbers]
    return tuple(beside(header, name) for name in names)


def native(array: NDArray[Any]) -> NDArray[Any]:
    """Return the values of an array that may be changed in the processor's own order of bytes, in the same place."""
    if array.dtype.isnative:
        return array
    for slab in array.T if array.flags.f_contiguous else array:
        slab.byteswap(inplace=True)
        release_pages(array)
    return array.view(array.dtype.newbyteorder("="))


def fill(array: NDArray[Any], source: IO[bytes] | io.RawIOBase) -> int:
    """Read into a contiguous array until it is full; returns how many bytes were there."""
    into = array.reshape(-1, order="A").view(np.uint8).data
    done = 0
    while done < into.nbytes:
        count = source.readinto(into[done : done + _CHUNK])  # type: ignore[union-attr]
        if not count:
            break
        done += count
        release_pages(array)
    return done


def finish(source: IO[bytes] | io.RawIOBase, most: int) -> bool:
    """Read to the end, where a packed stream has its checksum; False as soon as more than `most` bytes are left."""
    left = most
    while (piece := source.read(_CHUNK)) and left >= 0:
        left -= len(piece)
    return left >= 0


def room_for(shape: Sequence[int], dtype: np.dtype[Any], name: str, *, mapped: bool = False) -> NDArray[Any]:
    """Return an array in Fortran order for voxels that are still to be read.

    The system gives its memory page by page as voxels arrive, so that a header alone takes none. With `mapped` an
    image that is too large to be held goes into a temporary file.

    Raises
    ------
    InputError
        If it is more than may be taken.
    OutputError
        If there is no room for that file.
    """
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if mapped and not fits_memory(needed):
        require_allowed(needed, name)
        return zeros_on_disk(tuple(shape), dtype)
    require_memory(needed, name)
    try:
        return np.empty(shape, dtype, order="F")
    except (ValueError, MemoryError) as error:
        raise FormatError(
            found=f"{name} cannot be read: sizes {' x '.join(map(str, shape))}, which no file holds",
            expected="the sizes of an image",
            fix="copy or convert the file again from its source",
        ) from error


def open_plain(path: Path, name: str) -> IO[bytes]:
    """Open a plain file.

    Raises
    ------
    InputError
        If it is missing, may not be read, or is a pipe, a device or a folder.
    """
    regular_size(path, name)
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(
        found=f"{name} cannot be read: {error.strerror or type(error).__name__}",
        expected="a file that exists and may be read",
        fix="check the path and the permissions",
    )
