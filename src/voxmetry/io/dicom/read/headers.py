"""Reading DICOM headers: what is DICOM, which elements are needed, and elements that may be absent or malformed."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from voxmetry.errors import FormatError, InputError
from voxmetry.io.dicom.read.elements import Elements, parse
from voxmetry.io.dicom.read.encoding import UNDEFINED, DamagedError, MoreNeededError
from voxmetry.io.dicom.read.opened import Opened, opened

PARSING_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, NotImplementedError),
    *(EOFError, struct.error, zlib.error, RecursionError, InvalidDicomError, BytesLengthException),
)
"""What pydicom raises on malformed content."""

_GROUP_8 = b"\x08\x00"
_FIRST_BYTES = 1 << 14
_MOST_HEADER = 1 << 28
"""Beyond 256 MiB before its pixels a file is no image of a patient."""


@dataclass(frozen=True)
class Header:
    """One file of a series."""

    path: Path
    dataset: Elements


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: 'DICM' after 128 bytes, or at once with an element of group 0008.

    The second is how files without preamble begin, which old archives hold.
    """
    with opened(path) as file:
        return begins_as_dicom(file.read_at(0, 132))


def begins_as_dicom(start: bytes) -> bool:
    """Whether these are the first bytes of a DICOM file, as `looks_like_dicom`."""
    if start[128:132] == b"DICM":
        return True
    element, vr = start[2:4], start[4:6]
    low_element = element in (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x12\x00", b"\x16\x00", b"\x18\x00")
    explicit = vr.isalpha() and vr.isupper()
    implicit = len(start) >= 8 and struct.unpack("<I", start[4:8])[0] < 256
    return start[:2] == _GROUP_8 and low_element and (explicit or implicit)


def valid_name(name: str) -> str:
    """Return a file's name as text that can be written everywhere: bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def read_header(path: Path, name: str) -> Elements:
    """Find the elements of one file, pixels left out.

    Raises
    ------
    FormatError
        If it begins as DICOM does and then cannot be parsed, or is shorter than it says.
    InputError
        If the file is gone or may not be read.
    """
    header = try_header(path, name)
    if header is None:
        raise _unparsed(name, "it does not begin as DICOM does")
    return header


def try_header(path: str | Path, name: str) -> Elements | None:
    """Find the elements of one file; None where it does not begin as DICOM does. Raises as `read_header`."""
    try:
        with opened(path) as file:
            return header_of(file, name)
    except OSError as error:
        raise unreadable(name, error) from error


def header_of(file: Opened, name: str) -> Elements | None:
    """Find the elements of an open file; None where it does not begin as DICOM does."""
    data = file.read_at(0, _FIRST_BYTES)
    if not begins_as_dicom(data[:132]):
        return None
    while True:
        try:
            elements = parse(data, whole=len(data) >= file.size)
            break
        except MoreNeededError as more:
            if file.size > _MOST_HEADER and more.end > _MOST_HEADER:
                raise _unparsed(name, "its header is longer than 256 MiB") from None
            more_data = file.read_at(0, min(max(more.end + _FIRST_BYTES, 4 * len(data)), _MOST_HEADER))
            if len(more_data) <= len(data):
                raise _unparsed(name, "it became shorter while it was read") from None
            data = more_data
        except DamagedError as error:
            raise _unparsed(name, str(error)) from error
    elements.file_size = file.size
    place = elements.pixels
    if place is not None and place.length != UNDEFINED:
        end = place.offset + place.length
        if end > (file.size if place.inflated is None else len(place.inflated)):
            raise _unparsed(name, "it is cut off: its pixel data are longer than the file")
    return elements


def _unparsed(name: str, why: str) -> FormatError:
    return FormatError(
        found=f"{name} cannot be parsed as DICOM: {why}",
        expected="a complete DICOM file",
        fix="copy or export the file again from its source",
    )


def read_all(path: Path, name: str) -> Any:
    """Read a whole file with pydicom, pixels included; raises as `read_header`."""
    dataset = _read(path, name)
    if transfer_syntax_uid(dataset) is None:
        # Without a meta header the parser has found out how the file is encoded; the decoder wants to be told.
        implicit = dataset.original_encoding[0]
        dataset.ensure_file_meta()
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def text(dataset: Any, keyword: str) -> str | None:
    """Return an element as stripped text, several values joined by a backslash; None where absent or empty."""
    try:
        value = dataset.get(keyword)
    except PARSING_ERRORS:
        return None
    if value is None or isinstance(value, pydicom.Sequence):
        return None
    joined = value if isinstance(value, str) else "\\".join(map(str, value)) if _is_list(value) else str(value)
    return joined.strip(" \0") or None


def whole(dataset: Any, keyword: str) -> int | None:
    """Return an element as an integer; None where it is absent, empty or malformed."""
    try:
        return int(dataset.get(keyword))
    except PARSING_ERRORS:
        return None


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return an element of `count` numbers; None where it is absent, malformed or of another length."""
    try:
        value = dataset.get(keyword)
        values = tuple(float(x) for x in (value if _is_list(value) else (value,)))
    except PARSING_ERRORS:
        return None
    return values if len(values) == count else None


def number(dataset: Any, keyword: str) -> float | None:
    """Return an element as one number; None where it is absent, empty or malformed."""
    values = numbers(dataset, keyword, 1)
    return values[0] if values else None


def sop_class_uid(dataset: Any) -> str | None:
    """Return what kind of object this is, from the data set or, where that is blank, from the file's meta header."""
    own = text(dataset, "SOPClassUID")
    if isinstance(dataset, Elements):
        return own or dataset.media_class
    return own or text(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")


def transfer_syntax_uid(dataset: Any) -> str | None:
    """Return how the file is encoded; None for a file without meta header."""
    if isinstance(dataset, Elements):
        return dataset.syntax
    return text(getattr(dataset, "file_meta", {}), "TransferSyntaxUID")


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Keep pydicom's warnings about malformed values off the terminal; what matters is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple, pydicom.multival.MultiValue))


def _read(path: Path, name: str, **options: Any) -> Any:
    with lenient(), parsing(name):
        return pydicom.dcmread(path, force=True, **options)


@contextlib.contextmanager
def parsing(name: str) -> Iterator[None]:
    """Turn what pydicom raises on malformed content into a FormatError that names the file.

    pydicom parses a sequence only when it is asked for, so this belongs round each block that goes through elements of
    a data set, not round the reading of the file alone.
    """
    try:
        yield
    except MemoryError as error:
        # pydicom takes as much memory as a length says before it reads.
        raise _unparsed(name, "a length in it is wrong, or it does not fit in memory") from error
    except (*PARSING_ERRORS, OSError) as error:
        # pydicom raises OSError for malformed content too, then without the number that the system gives.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(name, error) from error
        raise FormatError(
            found=f"{name} cannot be parsed as DICOM ({type(error).__name__})",
            expected="a complete DICOM file",
            fix="copy or export the file again from its source",
        ) from error


def unreadable(name: str, error: OSError) -> InputError:
    """Say that the system would not hand out a file."""
    return InputError(
        found=f"{os.fspath(name)} cannot be read: {error.strerror or type(error).__name__}",
        expected="a file that exists and may be read",
        fix="check the path and the permissions; if files are still being copied, wait until all are there",
    )
