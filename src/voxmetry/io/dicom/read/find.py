"""Where the files of a study are: a folder tree, a zip archive, a DICOMDIR, or the folder of one file."""

from __future__ import annotations

import os
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from voxmetry.core.progress import Progress
from voxmetry.errors import FormatError, InputError
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.headers import (
    PARSING_ERRORS,
    Header,
    sop_class_uid,
    text,
    try_header,
    unreadable,
    valid_name,
)
from voxmetry.io.dicom.read.opened import archive_at

DIRECTORY = "1.2.840.10008.1.3.10"
_DIRECTORY_NAMES = ("DICOMDIR", "DIRFILE")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Suffixes that say DICOM; many files of it have none, or end in the last number of a UID."""
_HIGHEST_ROOT = 8
"""File IDs have up to eight parts (PS3.10 8.2), so the root is no further above a directory."""
_CHUNK = 64
_THREADS = 8


@dataclass
class Found:
    """What lies at a path."""

    folder: Path
    """Names are told relative to it."""
    headers: list[Header] = field(default_factory=list)
    damaged: list[Path] = field(default_factory=list)
    """What is, or could be, a slice that cannot be read, links that lead nowhere among them."""
    lost: dict[str, list[str]] = field(default_factory=dict)
    """Files that a DICOMDIR names and that are not there, by series UID."""
    passed: dict[Path, str] = field(default_factory=dict)
    """What is named as DICOM and is a pipe, a socket or a device, with the reason; it is passed over."""


def find(source: Path, progress: Progress | None = None) -> Found:
    """Find the DICOM files at a path and read their headers, some at a time.

    Raises
    ------
    InputError
        If a folder or file may not be read, or an archive is damaged, encrypted or beyond the limits.
    """
    if source.is_dir():
        return find_among(list(_walk(source)), source, progress)
    if zipfile.is_zipfile(source):
        try:
            names = sorted(archive_at(source).members)
        except OSError as error:
            raise InputError(
                found=f"{source.name} cannot be used: {error}",
                expected="a zip archive of DICOM files, whole and without a password",
                fix="unpack it with another tool, and pass the folder",
            ) from error
        return find_among([source / name for name in names if not _is_hidden(name)], source, progress)
    header = try_header(source, source.name)
    if header is not None and sop_class_uid(header) == DIRECTORY:
        return _listed_in(source, header, progress)
    return find_among(_beside(source), source.parent, progress)


def _read_chunks(
    chunks: Sequence[Sequence[str | Path]], start: int, pool: ThreadPoolExecutor
) -> Iterator[list[Elements | bool | str | None]]:
    """Yield the headers of each chunk: in threads where the files make one wait, such as on a network share.

    A header on a local disk takes some tens of microseconds of work, in which threads only stand in each other's way;
    on a share it takes milliseconds of waiting. The first chunk tells which it is.
    """
    if not chunks:
        return

    def headers(chunk: Sequence[str | Path]) -> list[Elements | bool | str | None]:
        return [_header(path, start) for path in chunk]

    began, worked = time.perf_counter(), time.thread_time()
    first = headers(chunks[0])
    waits = time.thread_time() - worked < (time.perf_counter() - began) / 2
    yield first
    yield from (pool.map if waits else map)(headers, chunks[1:])


def find_among(paths: Sequence[str | Path], folder: Path, progress: Progress | None = None) -> Found:
    """Find the DICOM files among these and read their headers; names are told relative to `folder`."""
    found = Found(folder)
    directories: list[Header] = []
    start = len(str(folder)) + 1
    chunks = [paths[index : index + _CHUNK] for index in range(0, len(paths), _CHUNK)]
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for chunk, read in zip(chunks, _read_chunks(chunks, start, pool), strict=True):
            for path, header in zip(chunk, read, strict=True):
                if header is None:
                    continue
                if isinstance(header, str):
                    found.passed[Path(path)] = header
                elif isinstance(header, bool):
                    found.damaged.append(Path(path))
                elif sop_class_uid(header) == DIRECTORY:
                    directories.append(Header(Path(path), header))
                else:
                    found.headers.append(Header(Path(path), header))
            done += len(chunk)
            if progress is not None:
                progress(done, len(paths))
    there = {str(path).lower(): str(path) for path in paths} if directories else {}
    for directory in directories:
        for series, name, place in _placed(directory, there):
            if place is None:
                found.lost.setdefault(series, []).append(name)
    return found


def _header(path: str | Path, start: int) -> Elements | bool | str | None:
    """Return a header, None for what is not DICOM, and False for what is damaged or named as DICOM without being it.

    A link that leads nowhere is a file that is lost, as a damaged one is: it may have been a first or last slice. What
    never was a file, such as a named pipe, is told in words.
    """
    # Text alone: a Path object of each of ten thousand files takes longer than opening it.
    text_path = os.fspath(path)
    is_named_so = text_path.lower().endswith(DICOM_SUFFIXES)
    try:
        header = try_header(path, valid_name(text_path[start:].replace(os.sep, "/")))
    except FormatError:
        return False
    except InputError:
        if leads_nowhere(text_path):
            return False if could_be_a_slice(text_path) else None
        why = _no_file(text_path)
        if why is None:
            raise
        return why if is_named_so else None
    return (_no_file(text_path) or False) if header is None and is_named_so else header


def could_be_a_slice(path: str) -> bool:
    """Whether a name is one that DICOM files have: its suffix, none, or the end of a UID.

    Examples
    --------
    >>> could_be_a_slice("a/IM0001"), could_be_a_slice("a/1.2.840.7"), could_be_a_slice("a/notes.txt")
    (True, True, False)
    """
    end = os.path.splitext(path)[1].lower()  # noqa: PTH122  (see above)
    return end in (*DICOM_SUFFIXES, "") or end[1:].isdigit()


def leads_nowhere(path: str) -> bool:
    """Whether a directory entry is a link to what is not there, or to itself."""
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114


def _no_file(path: str) -> str | None:
    """Say what is at a place where no file is; None for a file, and for what is gone or may not be looked at."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  (one of ten thousand)
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else "no file, but a pipe, a socket or a device"


def _placed(directory: Header, there: Mapping[str, str]) -> list[tuple[str, str, str | None]]:
    """Return series, name and path of each file that a DICOMDIR names; no path where it is not there.

    PS3.10 8.1 has one DICOMDIR at the root of a medium. Philips' exports have a DIRFILE in each folder, whose names
    count from the root all the same: the root is the folder above it below which most of the names are.
    """
    references = _references(directory.dataset)

    def below(folder: Path) -> list[str | None]:
        return [_at(folder / name, there) for _, name in references]

    places = below(directory.path.parent)
    for folder in list(directory.path.parents)[1:_HIGHEST_ROOT]:
        if None not in places:
            break
        higher = below(folder)
        if higher.count(None) < places.count(None):
            places = higher
    return [(series, name, place) for (series, name), place in zip(references, places, strict=True)]


def _at(path: Path, there: Mapping[str, str]) -> str | None:
    """Return the path of a file whatever the case of its name; outside of the files that were looked at, as it is."""
    found = there.get(str(path).lower())
    if found is not None:
        return found
    return str(path) if os.path.lexists(path) else None


def _listed_in(source: Path, directory: Elements, progress: Progress | None) -> Found:
    """Read the files that a DICOMDIR names, as far as they are there, and those that directories named in it name."""
    there = {path.lower(): path for path in _walk(source.parent)}
    named: dict[str, None] = {}
    lost: dict[str, list[str]] = {}
    waiting, seen = [Header(source, directory)], {os.path.realpath(source)}
    while waiting:
        for series, name, place in _placed(waiting.pop(), there):
            if place is None:
                lost.setdefault(series, []).append(name)
                continue
            inner = _directory_at(place)
            if inner is None:
                # What lies elsewhere is not lost, and no file of this folder: it is not read.
                named |= {place: None} if place.lower() in there else {}
            elif os.path.realpath(place) not in seen:
                seen.add(os.path.realpath(place))
                waiting.append(inner)
    found = find_among(list(named), source.parent, progress)
    for series, names in lost.items():
        found.lost.setdefault(series, []).extend(names)
    return found


def _directory_at(path: str) -> Header | None:
    """Return the header of a file that is a DICOMDIR itself; None for another."""
    if Path(path).name.upper() not in _DIRECTORY_NAMES:
        return None
    header = _header(path, 0)
    is_directory = isinstance(header, Elements) and sop_class_uid(header) == DIRECTORY
    return Header(Path(path), header) if isinstance(header, Elements) and is_directory else None


def _references(directory: Elements) -> list[tuple[str, str]]:
    """Return series UID and file name, relative to the DICOMDIR, of each file that it names."""
    references: list[tuple[str, str]] = []
    series = ""
    try:
        records = directory.items("DirectoryRecordSequence")
    except ValueError:
        return references
    for record in records:
        # Records of a series follow that of the series itself (PS3.10 8.6 leaves the order free; writers keep it).
        if text(record, "DirectoryRecordType") in ("PATIENT", "STUDY", "SERIES"):
            series = text(record, "SeriesInstanceUID") or ""
        try:
            value = record.get("ReferencedFileID")
        except PARSING_ERRORS:
            continue
        parts = [str(part) for part in (value if isinstance(value, list) else [value] if value else [])]
        if any(part in ("", ".", "..") or "/" in part for part in parts):
            # No name of a file below the directory (PS3.10 8.2).
            continue
        name = "/".join(part.removesuffix(";1").rstrip(".") for part in parts)
        if name:
            references.append((series, name))
    return references


def _is_hidden(name: str) -> bool:
    parts = name.split("/")
    # macOS adds a folder of its own to archives, with a '._' file for each real one.
    return parts[-1].startswith(".") or "__MACOSX" in parts


def _walk(folder: Path) -> Iterator[str]:
    """Yield all files below a folder, links followed, each folder once, hidden files left out."""
    seen = set()

    def refuse(error: OSError) -> None:
        # os.walk passes over what it may not open; the slices inside would be missing without a word.
        raise unreadable(Path(str(error.filename)).name, error)

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        # macOS leaves '._' files beside the real ones, which end in .dcm as well.
        yield from (os.path.join(parent, name) for name in sorted(files) if not name.startswith("."))  # noqa: PTH118


def _beside(file: Path) -> list[Path]:
    return sorted(entry for entry in file.parent.iterdir() if entry.is_file() and not entry.name.startswith("."))
