"""Stored values of the frames of a file: native ones straight from its bytes, encapsulated ones by a decoder.

The decoders are those of imagecodecs: they let other threads run while they work.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import generate_frames

from voxmetry.errors import FormatError
from voxmetry.io.dicom.read.elements import Elements
from voxmetry.io.dicom.read.encoding import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, UNDEFINED
from voxmetry.io.dicom.read.headers import PARSING_ERRORS, transfer_syntax_uid, whole
from voxmetry.io.dicom.read.opened import Opened

_RLE = "1.2.840.10008.1.2.5"
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51))
_JPEG_LOSSLESS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (57, 70))
_JPEG_LS = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (80, 81))
_JPEG_2000 = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93))
_HTJ2K = frozenset(f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203))
_ENCAPSULATED = _JPEG | _JPEG_LOSSLESS | _JPEG_LS | _JPEG_2000 | _HTJ2K | {_RLE}
SYNTAXES = (EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, *sorted(_ENCAPSULATED))
"""Transfer syntaxes that can be decoded."""
_END, _PADDING = b"\xff\xd9", 16
"""What JPEG, JPEG-LS and JPEG 2000 codes end with, and how many bytes of padding may follow."""
_OVERLAY, _OVERLAY_BIT_POSITION = 0x6000, 0x0102
_SMALLEST_OF_ZEROS = 64
"""A frame whose code holds more bytes than one for this many pixels is not a frame of one value."""


def is_encapsulated(syntax: str | None) -> bool:
    """Whether a transfer syntax holds each frame as a code of its own."""
    return syntax in _ENCAPSULATED


def can_decode(syntax: str) -> bool:
    """Whether frames of a transfer syntax can be decoded."""
    return syntax in SYNTAXES


def stored_type(header: Any) -> np.dtype[Any]:
    """Return the type of the stored values as they lie in the file, or of one bit a pixel as decoders give it."""
    order = ">" if transfer_syntax_uid(header) == BIG_ENDIAN else "<"
    kind = "i" if whole(header, "PixelRepresentation") else "u"
    return np.dtype(f"{order}{kind}{max(1, (whole(header, 'BitsAllocated') or 16) // 8)}")


def native_place(header: Elements, index: int, name: str) -> tuple[int, int]:
    """Return offset and length in bytes of a native frame.

    Raises
    ------
    FormatError
        If the pixel data hold fewer bytes than the frames need.
    """
    pixels = header.pixels
    rows, columns = whole(header, "Rows") or 0, whole(header, "Columns") or 0
    count = whole(header, "NumberOfFrames") or 1
    length = rows * columns * stored_type(header).itemsize
    if pixels is None or pixels.length < length * count:
        held = 0 if pixels is None else pixels.length
        raise damaged(name, f"{held} bytes of pixels where the header says {length * count}")
    return pixels.offset + index * length, length


def decoded(file: Opened, header: Elements, name: str, wanted: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Decode frames of an open file.

    Parameters
    ----------
    file, header
        The file, and what was found in it.
    name
        For messages.
    wanted
        Indices of the frames.

    Yields
    ------
    int, ndarray
        Index and stored values (rows, columns) in the machine's byte order, unused bits cleared.

    Raises
    ------
    FormatError
        If the pixels cannot be decoded, or are not as many as the header says.
    """
    if is_encapsulated(transfer_syntax_uid(header)):
        yield from _decompressed(file, header, name, wanted)
        return
    kind, shape = stored_type(header), (whole(header, "Rows") or 0, whole(header, "Columns") or 0)
    for index in wanted:
        offset, length = native_place(header, index, name)
        inflated = header.pixels.inflated if header.pixels else None
        raw = file.read_at(offset, length) if inflated is None else inflated[offset : offset + length]
        if len(raw) < length:
            raise damaged(name, "it became shorter while it was read")
        if kind.itemsize == 1 and transfer_syntax_uid(header) == BIG_ENDIAN:
            raw = _swapped(raw)
        values = np.frombuffer(raw, kind).reshape(shape).astype(kind.newbyteorder("="))
        yield index, used_bits(values, header, name)


def _swapped(raw: bytes) -> bytes:
    """Return bytes with each two swapped: big endian words of two pixels of 8 bits."""
    even = raw if len(raw) % 2 == 0 else raw + b"\0"
    return np.frombuffer(even, ">u2").astype("<u2").tobytes()[: len(raw)]


def used_bits(values: NDArray[Any], header: Any, name: str) -> NDArray[Any]:
    """Return values with the bits above Bits Stored cleared, or filled with the sign; in place.

    Raises
    ------
    FormatError
        If these bits hold something that is no overlay: then it is Bits Stored that is wrong, or the values lie in the
        upper bits, and readers take the file for different values.
    """
    allocated = values.dtype.itemsize * 8
    unused = allocated - (whole(header, "BitsStored") or allocated)
    if unused > 0:
        if not _are_spare(values, allocated - unused) and not _has_overlay_bits(header):
            raise FormatError(
                found=f"{name} has values beyond its {allocated - unused} stored bits (Bits Stored; High Bit is "
                f"{whole(header, 'HighBit')})",
                expected="values within them, High Bit one less than Bits Stored, or an overlay in the bits above",
                fix="export the series again; programs read such a file as different values",
            )
        if values.dtype.kind == "u":
            values &= values.dtype.type((1 << (allocated - unused)) - 1)
        else:
            values <<= unused
            values >>= unused
    return values


def _are_spare(values: NDArray[Any], stored: int) -> bool:
    """Whether the bits above the stored ones are zero, or all repeat the sign as numbers below 0 do in memory."""
    if values.dtype.kind == "u":
        return int(values.max(initial=0)) < 1 << stored
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    half = 1 << stored - 1
    return (-half <= low and high < half) or (low >= 0 and high < 2 * half)


def _has_overlay_bits(header: Any) -> bool:
    """Whether an overlay of before 2004 lies in the bits that the pixels leave unused (PS3.5 8.1.2)."""
    return isinstance(header, Elements) and any(header.repeated(_OVERLAY, _OVERLAY_BIT_POSITION))


def _decompressed(
    file: Opened, header: Elements, name: str, wanted: Sequence[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    place, count = header.pixels, whole(header, "NumberOfFrames") or 1
    if place is None or place.length != UNDEFINED:
        raise damaged(name, "its pixel data are not encapsulated")
    raw = file.read_at(place.offset, file.size - place.offset)
    chosen, seen = set(wanted), 0
    try:
        for index, code in enumerate(generate_frames(raw, number_of_frames=count)):
            if index in chosen:
                seen += 1
                yield index, decode_frame(code, header, name)
    except (*PARSING_ERRORS, RuntimeError) as error:
        raise damaged(
            name, f"its frames cannot be told apart ({type(error).__name__}); the file may be cut off"
        ) from error
    if seen != len(chosen):
        raise damaged(name, f"{seen} frames where the header says {count}")


def decode_frame(code: bytes, header: Any, name: str) -> NDArray[Any]:
    """Decode one frame from its code.

    Parameters
    ----------
    code
        The bytes of one frame, as the fragments of the pixel data give them.
    header
        `Elements`, or a pydicom data set.
    name
        For messages.

    Returns
    -------
    ndarray
        Stored values (rows, columns) in the machine's byte order, unused bits cleared.

    Raises
    ------
    FormatError
        If the code cannot be decoded, or holds something else than the header says.
    """
    import imagecodecs

    shape = (whole(header, "Rows") or 0, whole(header, "Columns") or 0)
    kind = stored_type(header).newbyteorder("=")
    syntax = transfer_syntax_uid(header) or ""
    values: NDArray[Any]
    try:
        if syntax == _RLE:
            if kind.itemsize * shape[0] * shape[1] > 128 * len(code):
                raise damaged(name, "its pixels are cut off")
            flat = imagecodecs.dicomrle_decode(code, kind.newbyteorder("<"))
            values = np.frombuffer(bytes(flat), kind.newbyteorder("<")).reshape(shape)
        else:
            said = _size_in(code)
            if said != shape:
                raise damaged(name, f"its pixels are encoded as {said} where the header says {shape}")
            if _END not in code[-_PADDING:]:
                # Some decoders fill up what is missing without a word.
                raise damaged(name, "the code of its pixels has no end; the file may be cut off")
            values = _codec(syntax)(code)
    except (*PARSING_ERRORS, RuntimeError, MemoryError) as error:
        raise damaged(
            name, f"its pixels cannot be decoded ({type(error).__name__}); the file may be cut off"
        ) from error
    if values.shape != shape or values.dtype.kind not in "iu" or values.dtype.itemsize > kind.itemsize:
        raise damaged(
            name, f"pixels of shape {values.shape} and type {values.dtype} where the header says {shape} of {kind}"
        )
    if len(code) > _SMALLEST_OF_ZEROS + values.size // 64 and not values.any():
        raise damaged(name, f"{len(code)} bytes of pixels decode to zeros alone")
    bits_stored = whole(header, "BitsStored") or kind.itemsize * 8
    if syntax != _RLE and not -(1 << bits_stored - 1) <= int(values.min()) <= int(values.max()) < 1 << bits_stored:
        raise damaged(name, f"pixels up to {values.max()} where the header says {bits_stored} bits")
    # Through the unsigned type of the same size: the bits are what counts, the sign comes from Pixel Representation.
    bits = values.view(f"u{values.dtype.itemsize}").astype(f"u{kind.itemsize}")
    return used_bits(bits.view(kind), header, name)


def _codec(syntax: str) -> Any:
    import imagecodecs

    if syntax in _JPEG_2000 or syntax in _HTJ2K:
        return imagecodecs.jpeg2k_decode
    # libjpeg-turbo for JPEG with loss and without: imagecodecs' other decoders of the second never end on a code that
    # is cut off.
    return imagecodecs.jpegls_decode if syntax in _JPEG_LS else imagecodecs.jpeg8_decode


def _size_in(code: bytes) -> tuple[int, int] | None:
    """Return rows and columns from the head of a JPEG, JPEG-LS or JPEG 2000 code; None where there is none.

    A decoder takes memory for what the head says, so it is looked at first.
    """
    start = code.find(b"\xff\x4f\xff\x51", 0, 512)
    if start >= 0 and len(code) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", code, start + 8)
        return bottom - top, right - left
    position = 2
    while code[:2] == b"\xff\xd8" and position + 9 <= len(code):
        if code[position] != 0xFF:
            return None
        marker = code[position + 1]
        if marker == 0xFF:
            position += 1
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", code, position + 5)
            return rows, columns
        elif marker == 0xDA:
            return None
        else:
            position += 2 + struct.unpack_from(">H", code, position + 2)[0]
    return None


def damaged(name: str, why: str) -> FormatError:
    """Say that a file's pixels are not what its header says."""
    return FormatError(
        found=f"{name}: {why}",
        expected="a DICOM file with as many pixels as its header says",
        fix="copy or export the file again from its source",
    )
