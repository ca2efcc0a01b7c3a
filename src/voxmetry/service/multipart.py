"""Forms with files, as they arrive: each file goes to disk piece by piece, within limits, under a name of our own.

What a client calls a file decides nothing but its suffix: 3D Slicer sends the full path of its own machine.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from voxmetry.core.text import clean
from voxmetry.errors import FormatError
from voxmetry.io.atomic import output_error
from voxmetry.service.errors import NoRoomError, TooLargeError

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha", ".zip", ".json", ".bin", ".dcm")
"""Suffixes that a stored file keeps; any other becomes none, as DICOM files often have."""
MOST_FIELD_BYTES = 1_000_000
MOST_FIELDS = 100
_ROOM_EVERY = 32 << 20
"""Bytes after which the room on the disk is looked at again."""


@dataclass(frozen=True)
class ReceivedFile:
    """A file of a form.

    Parameters
    ----------
    field
        Name of the form's field.
    path
        Where it lies: a name of our own.
    suffix
        One of `SUFFIXES`, or none.
    n_bytes
        Its size.
    stem
        The last part of what the client calls it, without the suffix: a name to show, never a path.
    """

    field: str
    path: Path
    suffix: str
    n_bytes: int
    stem: str = ""


@dataclass
class Form:
    """A form that was received.

    Parameters
    ----------
    fields
        Text by name; of several of one name the last.
    files
        In the order of their arrival.
    """

    fields: dict[str, str] = field(default_factory=dict)
    files: list[ReceivedFile] = field(default_factory=list)

    def file(self, *names: str) -> ReceivedFile | None:
        """Return the first file of a field of one of these names."""
        return next((each for each in self.files if each.field in names), None)


@dataclass(frozen=True)
class FormLimits:
    """What a form may hold.

    Parameters
    ----------
    n_bytes
        Of all files together.
    n_files
        How many files.
    free_bytes
        Room that must be left on the disk.
    """

    n_bytes: int
    n_files: int
    free_bytes: int


def suffix_of_name(name: str) -> str:
    r"""Return the suffix of a client's file name that a stored file keeps; '' for any other.

    Examples
    --------
    >>> suffix_of_name(r"C:\Users\me\AppData\Temp\tmp1.NII.GZ"), suffix_of_name("/tmp/../../etc/passwd")
    ('.nii.gz', '')
    """
    last = re.split(r"[/\\]", name)[-1].lower()
    return next((suffix for suffix in SUFFIXES if last.endswith(suffix)), "")


async def receive_form(stream: AsyncIterator[bytes], content_type: str, folder: Path, limits: FormLimits) -> Form:
    """Read a multipart form, and write its files into a folder, which must exist.

    Raises
    ------
    FormatError
        If it is no such form, or is cut off.
    TooLargeError
        If it has more bytes, files or fields than `limits` allow.
    NoRoomError, OutputError
        If the disk has too little room, or will not write.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise _no_form("a body that is no multipart form")
    sink = _Sink(folder, limits)
    try:
        parser = MultipartParser(boundary, sink.callbacks())  # type: ignore[arg-type]
        async for piece in stream:
            parser.write(piece)
        parser.finalize()
    except MultipartParseError as error:
        raise _no_form("a multipart form that is damaged") from error
    finally:
        sink.close()
    if not sink.is_complete:
        raise _no_form("a multipart form that is cut off")
    return sink.form


def _no_form(found: str) -> FormatError:
    return FormatError(
        found=found,
        expected="multipart/form-data with a boundary, whole",
        fix="send it again, for example with curl --form",
    )


class _Sink:
    """Takes what the parser finds."""

    def __init__(self, folder: Path, limits: FormLimits) -> None:
        self._folder, self._limits = folder, limits
        self.form = Form()
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._name, self._text = "", bytearray()
        self._file: IO[bytes] | None = None
        self._path, self._suffix, self._stem, self._size = Path(), "", "", 0
        self._total, self._looked, self._n_fields = 0, 0, 0

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._over,
        }

    def _begin(self) -> None:
        self._headers = {}
        self._text = bytearray()
        self._n_fields += 1
        if self._n_fields > MOST_FIELDS + self._limits.n_files:
            raise _too_much(f"more than {self._limits.n_files} files in one form", f"{self._limits.n_files}")

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        if len(self._value) > MOST_FIELD_BYTES:
            raise _too_much("a header of a form that never ends", "a header of a few hundred bytes")

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            return
        if len(self.form.files) >= self._limits.n_files:
            raise _too_much(f"more than {self._limits.n_files} files in one form", f"{self._limits.n_files}")
        name = options[b"filename"].decode("utf-8", "replace")
        self._suffix = suffix_of_name(name)
        last = clean(re.split(r"[/\\]", name)[-1])[:200]
        self._stem = last[: len(last) - len(self._suffix)] if self._suffix else last
        self._path = self._folder / f"{len(self.form.files):06}{self._suffix}"
        self._size = 0
        self._require_room()
        try:
            self._file = self._path.open("xb")
        except OSError as error:
            raise output_error(self._path, error) from error

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._text += data[start:end]
            if len(self._text) > MOST_FIELD_BYTES:
                raise _too_much("a text field of a form above 1 MB", "1 MB")
            return
        self._size += end - start
        self._total += end - start
        if self._total > self._limits.n_bytes:
            raise _too_much(f"more than {self._limits.n_bytes / 1e6:.0f} MB", f"{self._limits.n_bytes / 1e6:.0f} MB")
        if self._total - self._looked > _ROOM_EVERY:
            self._looked = self._total
            self._require_room()
        try:
            self._file.write(memoryview(data)[start:end])
        except OSError as error:
            raise output_error(self._path, error) from error

    def _end(self) -> None:
        if self._file is None:
            self.form.fields[self._name] = self._text.decode("utf-8", "replace")
            return
        try:
            self._file.close()
        except OSError as error:
            raise output_error(self._path, error) from error
        self._file = None
        self.form.files.append(ReceivedFile(self._name, self._path, self._suffix, self._size, self._stem))

    def _over(self) -> None:
        self.is_complete = True

    def _require_room(self) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < self._limits.free_bytes:
            raise NoRoomError(
                found=f"{free / 1e6:.0f} MB free on the disk of the service",
                expected=f"at least {self._limits.free_bytes / 1e6:.0f} MB (limits.free_mb)",
                fix="free some space, or let retention delete older results; then try again",
            )

    def close(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                # The upload is dropped anyway: a full disk was told of before.
                return


def _too_much(found: str, expected: str) -> TooLargeError:
    return TooLargeError(
        found=found,
        expected=f"at most {expected} (limits of the service)",
        fix="send less at once, or name a path below one of the service's roots",
    )


def new_folder(parent: Path) -> Path:
    """Make a folder of its own for an upload, under a name that says that it is not complete.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    folder = parent / f".part-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise output_error(folder, error) from error
    return folder
