"""How the elements of a DICOM file are encoded: transfer syntaxes, the meta header, and what damage looks like."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

from voxmetry.core.memory import free_bytes
from voxmetry.io.memory import SHARE, image_limit_bytes

UNDEFINED: Final = 0xFFFFFFFF
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_MOST_INFLATED = 1 << 31
_SMALL, _MOST_RATIO = 1 << 26, 250
"""What deflated content may always take, in bytes, and how many times its size beyond that."""
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_SHORT = frozenset(
    (
        *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH"),
        *(b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
    )
)


class MoreNeededError(Exception):
    """The header goes on beyond what was read of the file."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


class DamagedError(ValueError):
    """The bytes contradict themselves; the text says how, without a path."""


@dataclass(frozen=True)
class _Encoding:
    implicit: bool
    big: bool

    @property
    def order(self) -> str:
        return ">" if self.big else "<"


class _BeyondError(Exception):
    """A value ends beyond the bytes that are there."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


def _meta(data: bytes, whole: bool) -> tuple[int, str | None, str | None]:
    """Return where the data set begins, and transfer syntax and SOP class of the meta header."""
    if data[128:132] != b"DICM":
        return 0, None, None
    position, syntax, media_class = 132, None, None
    while True:
        if len(data) < position + 12:
            if whole:
                raise DamagedError("it ends in its meta header")
            raise MoreNeededError(position + 12)
        group, element = struct.unpack_from("<HH", data, position)
        if group != 2:
            return position, syntax, media_class
        vr = data[position + 4 : position + 6]
        if vr in _LONG:
            head, length = 12, struct.unpack_from("<I", data, position + 8)[0]
        elif vr in _SHORT:
            head, length = 8, struct.unpack_from("<H", data, position + 6)[0]
        else:
            head, length = 8, struct.unpack_from("<I", data, position + 4)[0]
        end = position + head + length
        if end > len(data):
            if whole:
                raise DamagedError("it ends in its meta header")
            raise MoreNeededError(end)
        if element in (0x02, 0x10):
            uid = data[position + head : end].decode("ascii", "replace").strip(" \0") or None
            syntax, media_class = (uid, media_class) if element == 0x10 else (syntax, uid)
        position = end


def _inflate(data: bytes) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    most = _most_inflated(len(data))
    try:
        inflated = stream.decompress(data, most)
    except zlib.error as error:
        raise DamagedError("its deflated content cannot be inflated") from error
    if not stream.eof:
        raise DamagedError(f"its deflated content is cut off, or larger than {most / 1e9:.2f} GB")
    return inflated


def _most_inflated(packed: int) -> int:
    """Return how many deflated bytes are taken: what images pack to, what is free, and any limit that is set.

    Deflate packs up to 1032 zeros into a byte; masks of whole bodies come near a quarter of that.
    """
    free, limit = free_bytes(), image_limit_bytes()
    room = [] if free is None else [int(SHARE * free)]
    return min(_MOST_INFLATED, _SMALL + _MOST_RATIO * packed, *room, *([] if limit is None else [limit]))


def _encoding(data: bytes, start: int, syntax: str | None) -> _Encoding:
    """Say how elements are encoded: by the transfer syntax, or by the first element where that is another way."""
    vr = data[start + 4 : start + 6]
    looks_explicit = vr in _LONG or vr in _SHORT
    if syntax == BIG_ENDIAN:
        return _Encoding(implicit=False, big=True)
    return _Encoding(implicit=not looks_explicit, big=False)
