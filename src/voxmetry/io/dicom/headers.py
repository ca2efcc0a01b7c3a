"""Reading DICOM headers: what is DICOM, which elements are needed, and elements that may be absent or malformed."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from voxmetry.errors import FormatError, InputError

WANTED = [
    *("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "ImageType"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "Units", "SUVType"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *("AcquisitionNumber", "TemporalPositionIdentifier", "EchoTime", "InversionTime", "TriggerTime", "DiffusionBValue"),
]
"""The elements that listing and geometry need. No name, ID or date of a patient is among them."""

PARSING_ERRORS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, NotImplementedError),
    *(EOFError, struct.error, InvalidDicomError, BytesLengthException),
)
"""What pydicom raises on malformed content."""

_GROUP_8 = b"\x08\x00"


@dataclass(frozen=True)
class Header:
    """One file of a series."""

    path: Path
    dataset: Any


def looks_like_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: 'DICM' after 128 bytes, or at once with an element of group 0008.

    The second is how files without preamble begin, which old archives hold.
    """
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:] == b"DICM":
        return True
    element, vr = start[2:4], start[4:6]
    low_element = element in (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x12\x00", b"\x16\x00", b"\x18\x00")
    explicit = vr.isalpha() and vr.isupper()
    implicit = len(start) >= 8 and struct.unpack("<I", start[4:8])[0] < 256
    return start[:2] == _GROUP_8 and low_element and (explicit or implicit)


def read_header(path: Path, name: str) -> Any:
    """Read the wanted elements of one file, pixels left out.

    Raises
    ------
    FormatError
        If it begins as DICOM does and then cannot be parsed.
    InputError
        If the file is gone or may not be read.
    """
    return _read(path, name, stop_before_pixels=True, specific_tags=WANTED)


def read_all(path: Path, name: str) -> Any:
    """Read a whole file, pixels included; raises as `read_header`."""
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
    return text(dataset, "SOPClassUID") or text(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")


def transfer_syntax_uid(dataset: Any) -> str | None:
    """Return how the file is encoded; None for a file without meta header."""
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
    try:
        with lenient():
            return pydicom.dcmread(path, force=True, **options)
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
