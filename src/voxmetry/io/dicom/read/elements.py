"""The elements of a DICOM file up to its pixels, found by their lengths and decoded when they are asked for.

pydicom builds an object for every element; for the headers of ten thousand files that is most of the time. Here an
element is a place in the bytes that were read. Every length is compared with what is there, nesting is bounded, and
nothing is guessed from what a length that lies would point at.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final

import pydicom.charset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from voxmetry.io.dicom.read.encoding import (
    _LONG,
    _SHORT,
    DEFLATED,
    UNDEFINED,
    DamagedError,
    MoreNeededError,
    _BeyondError,
    _Encoding,
    _encoding,
    _inflate,
    _meta,
)

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
PIXEL_DATA: Final = 0x7FE00010
_CHARSET: Final = 0x00080005
_DEEPEST = 16

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "UV": "Q", "SV": "q"}
_ONE_TEXT = frozenset(("LT", "ST", "UT", "UR"))


@dataclass(frozen=True)
class Pixels:
    """Where the pixel data lie in the file, or in what was inflated from it."""

    tag: int
    offset: int
    length: int
    """In bytes; `UNDEFINED` for encapsulated data."""
    inflated: bytes | None = None
    """The data set of a deflated file."""


class Elements:
    """The elements of a data set or of one item of a sequence, by keyword."""

    __slots__ = ("_charset", "_data", "_encoding", "_places", "file_size", "media_class", "pixels", "syntax")

    def __init__(self, data: bytes, places: dict[int, tuple[bytes, int, int]], encoding: _Encoding) -> None:
        self._data = data
        self._places = places
        self._encoding = encoding
        self._charset: tuple[str, ...] | None = None
        self.pixels: Pixels | None = None
        self.syntax: str | None = None
        """Transfer Syntax UID of the file's meta header; None without one."""
        self.media_class: str | None = None
        """Media Storage SOP Class UID of the file's meta header; None without one."""
        self.file_size = 0

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self._places

    def get(self, keyword: str, default: Any = None) -> Any:
        """Return the decoded value: text, number, list of them, or None where empty.

        Raises
        ------
        ValueError, struct.error
            If the bytes are no value of its type.
        """
        tag = _tag(keyword)
        if tag not in self._places:
            return default
        return self._value(tag, _dictionary_vr(keyword))

    def private(self, group: int, creator: str, element: int, vr: str) -> Any:
        """Return a private element of a creator's block; None where it is absent."""
        tag = self._private_tag(group, creator, element)
        return None if tag is None else self._value(tag, vr)

    def private_items(self, group: int, creator: str, element: int) -> list[Elements]:
        """Return the items of a private sequence, as `items` does."""
        tag = self._private_tag(group, creator, element)
        return [] if tag is None else self._items(tag, f"({group:04X},xx{element:02X})")

    def _private_tag(self, group: int, creator: str, element: int) -> int | None:
        for block in range(0x10, 0x20):
            place = self._places.get(group << 16 | block)
            if place is None:
                continue
            owner = self._data[place[1] : place[1] + place[2]].decode("ascii", "replace").strip(" \0")
            tag = group << 16 | block << 8 | element
            if owner == creator and tag in self._places:
                return tag
        return None

    def tags(self, keyword: str) -> tuple[int, ...]:
        """Return the tags that an element points at, as group and element in one number; empty where absent.

        Raises
        ------
        DamagedError
            If it holds something else.
        """
        place = self._places.get(_tag(keyword))
        if place is None:
            return ()
        vr, start, length = place
        if vr not in (b"AT", b"UN", b"") or length % 4:
            raise DamagedError("a value where a tag belongs")
        halves = struct.unpack(f"{self._encoding.order}{length // 2}H", self._data[start : start + length])
        return tuple(group << 16 | element for group, element in zip(halves[::2], halves[1::2], strict=True))

    def repeated(self, group: int, element: int) -> list[int]:
        """Return the values (US) of an element in each of the groups that repeat it, such as those of 16 overlays."""
        places = [self._places.get((group + 2 * number) << 16 | element) for number in range(16)]
        order = self._encoding.order
        return [struct.unpack_from(order + "H", self._data, x[1])[0] for x in places if x is not None and x[2] >= 2]

    def items(self, keyword: str) -> list[Elements]:
        """Return the items of a sequence; empty where it is absent.

        Raises
        ------
        DamagedError
            If it is there and is no sequence.
        """
        tag = _tag(keyword)
        return self._items(tag, keyword) if tag in self._places else []

    def _items(self, tag: int, keyword: str) -> list[Elements]:
        vr, start, length = self._places[tag]
        if vr not in (b"SQ", b"UN", b""):
            raise DamagedError(f"{keyword} is no sequence")
        # PS3.5 6.2.2: a sequence of unknown representation is encoded as implicit little endian.
        encoding = _Encoding(True, False) if vr == b"UN" else self._encoding
        found: list[Elements] = []
        try:
            _walk_items(self._data, start, start + length, encoding, 1, found)
        except _BeyondError:
            raise DamagedError(f"{keyword} is cut off, or a length in it is wrong") from None
        for item in found:
            item._charset = self.charset
        return found

    @property
    def charset(self) -> tuple[str, ...]:
        """Python's names of the character sets of the text in here."""
        if self._charset is None:
            place = self._places.get(_CHARSET)
            names = self._data[place[1] : place[1] + place[2]].decode("ascii", "replace") if place else ""
            parts = [part.strip(" \0") for part in names.split("\\")]
            try:
                self._charset = tuple(pydicom.charset.convert_encodings(parts))
            except (LookupError, ValueError):
                self._charset = ("iso8859",)
        return self._charset

    def _value(self, tag: int, expected: str) -> Any:
        vr_bytes, start, length = self._places[tag]
        vr = vr_bytes.decode("ascii") if vr_bytes not in (b"", b"UN") else expected
        raw = self._data[start : start + length]
        if vr == "SQ":
            raise DamagedError("a sequence where a value belongs")
        if vr == "US or SS":
            vr = "SS" if self.get("PixelRepresentation") == 1 else "US"
        if vr in _BINARY:
            code = _BINARY[vr]
            size = struct.calcsize(code)
            if len(raw) % size:
                raise DamagedError("a value of another length than its type")
            values = struct.unpack(f"{self._encoding.order}{len(raw) // size}{code}", raw)
            return None if not values else values[0] if len(values) == 1 else list(values)
        if vr in ("OB", "OW", "OF", "OD", "UN"):
            return raw
        if vr == "AT":
            raise DamagedError("a tag where a value belongs")
        text = raw.decode("ascii") if raw.isascii() else pydicom.charset.decode_bytes(raw, list(self.charset), set())
        if vr in ("DS", "IS") and "\0" in text.rstrip(" \0"):
            # Only padding at the end may be NUL; inside a number it is a sign of damage that stripping would hide.
            raise DamagedError("a NUL inside a number")
        if "\\" in text and vr not in _ONE_TEXT:
            return [part.strip(" \0") for part in text.split("\\")]
        return text.strip(" \0") or None


_TAGS: dict[str, int] = {}
_VRS: dict[str, str] = {}


def _tag(keyword: str) -> int:
    if keyword not in _TAGS:
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise KeyError(keyword)
        _TAGS[keyword], _VRS[keyword] = int(tag), dictionary_VR(tag)
    return _TAGS[keyword]


def _dictionary_vr(keyword: str) -> str:
    return _VRS[keyword]


def _check_charset(data: bytes, places: dict[int, tuple[bytes, int, int]]) -> None:
    """Refuse a Specific Character Set with a NUL inside: its length lies, and elements that follow are hidden in it."""
    place = places.get(_CHARSET)
    if place is not None and b"\0" in data[place[1] : place[1] + place[2]].rstrip(b" \0"):
        raise DamagedError("a NUL inside Specific Character Set")


def parse(data: bytes, *, whole: bool) -> Elements:
    """Find the elements of a file up to its pixels.

    Parameters
    ----------
    data
        The file's first bytes, or all of them.
    whole
        Whether these are all bytes of the file.

    Raises
    ------
    MoreNeededError
        If the header goes on beyond `data` and `whole` is false; says how far it reaches at least.
    DamagedError
        If the bytes contradict themselves.
    """
    start, syntax, media_class = _meta(data, whole)
    inflated = None
    if syntax == DEFLATED:
        if not whole:
            raise MoreNeededError(UNDEFINED)
        inflated = _inflate(data[start:])
        data, start, whole = inflated, 0, True
    encoding = _encoding(data, start, syntax)
    try:
        places, place = _scan_top(data, start, encoding, whole)
    except _BeyondError as error:
        if whole:
            raise DamagedError("it is cut off, or a length in it is wrong") from None
        raise MoreNeededError(error.end) from None
    _check_charset(data, places)
    # The bytes of the pixels need not be kept for as long as the header is.
    kept = data if place is None or place[1] >= len(data) else data[: place[1]]
    elements = Elements(kept, places, encoding)
    elements.syntax, elements.media_class = syntax, media_class
    if place is not None:
        elements.pixels = Pixels(*place, inflated=inflated)
    return elements


def _scan_top(
    data: bytes, position: int, encoding: _Encoding, whole: bool
) -> tuple[dict[int, tuple[bytes, int, int]], tuple[int, int, int] | None]:
    places: dict[int, tuple[bytes, int, int]] = {}
    end = len(data)
    short = struct.Struct(encoding.order + "HH2sH").unpack_from
    plain = not encoding.implicit
    while position + 8 <= end:
        group, element, vr, length = short(data, position)
        tag = group << 16 | element
        if plain and vr in _SHORT:
            start = position + 8
        else:
            vr, start, length = _head(data, position, encoding)
        if tag in _PIXELS:
            return places, (tag, start, length)
        if tag > PIXEL_DATA:
            return places, None
        stop = start + length
        if length == UNDEFINED or stop > end:
            stop = _end_of_value(data, start, length, vr, encoding, 1)
        if tag in places:
            _same(data, places[tag], start, stop)
        places[tag] = (b"SQ" if length == UNDEFINED and not vr else vr, start, stop - start)
        position = stop
    if position != end or not whole:
        raise _BeyondError(position + 8)
    return places, None


def _same(data: bytes, earlier: tuple[bytes, int, int], start: int, stop: int) -> None:
    _, first, length = earlier
    if data[first : first + length] != data[start:stop]:
        raise DamagedError("it holds one element twice, with two values")


def _head(data: bytes, position: int, encoding: _Encoding) -> tuple[bytes, int, int]:
    """Return value representation (empty if implicit), start and length of the value of the element at a place."""
    if encoding.implicit:
        return b"", position + 8, struct.unpack_from("<I", data, position + 4)[0]
    vr = data[position + 4 : position + 6]
    if vr in _SHORT:
        return vr, position + 8, struct.unpack_from(encoding.order + "H", data, position + 6)[0]
    if vr in _LONG:
        if position + 12 > len(data):
            raise _BeyondError(position + 12)
        return vr, position + 12, struct.unpack_from(encoding.order + "I", data, position + 8)[0]
    raise DamagedError("an element has no known value representation")


def _end_of_value(data: bytes, start: int, length: int, vr: bytes, encoding: _Encoding, depth: int) -> int:
    if length == UNDEFINED:
        if vr not in (b"SQ", b"UN", b""):
            raise DamagedError("a plain element has no length")
        inner = _Encoding(True, False) if vr == b"UN" else encoding
        return _walk_items(data, start, None, inner, depth, None)
    if start + length > len(data):
        raise _BeyondError(start + length)
    return start + length


def _walk_items(
    data: bytes, position: int, end: int | None, encoding: _Encoding, depth: int, found: list[Elements] | None
) -> int:
    """Go through the items of a sequence; collect them where asked to, and return where it ends."""
    if depth > _DEEPEST:
        raise DamagedError(f"sequences are nested deeper than {_DEEPEST}")
    head = struct.Struct(encoding.order + "HHI")
    last = len(data) if end is None else end
    while end is None or position < end:
        if position + 8 > last:
            raise _BeyondError(position + 8) if end is None else DamagedError("a sequence ends within an item")
        group, element, length = head.unpack_from(data, position)
        tag = group << 16 | element
        position += 8
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise DamagedError("a sequence holds something that is no item")
        stop = None if length == UNDEFINED else position + length
        if stop is not None and stop > last:
            raise _BeyondError(stop) if end is None else DamagedError("an item reaches beyond its sequence")
        if found is None and stop is not None:
            position = stop
            continue
        places, position = _scan_item(data, position, stop, last, encoding, depth)
        if found is not None:
            found.append(Elements(data, places, encoding))
    return position


def _scan_item(
    data: bytes, position: int, end: int | None, last: int, encoding: _Encoding, depth: int
) -> tuple[dict[int, tuple[bytes, int, int]], int]:
    places: dict[int, tuple[bytes, int, int]] = {}
    unpack_tag = struct.Struct(encoding.order + "HH").unpack_from
    limit = last if end is None else end
    while end is None or position < end:
        if position + 8 > limit:
            raise _BeyondError(position + 8)
        group, element = unpack_tag(data, position)
        tag = group << 16 | element
        if tag == _ITEM_END:
            return places, position + 8
        vr, start, length = _head(data, position, encoding)
        stop = _end_of_value(data, start, length, vr, encoding, depth + 1)
        if stop > limit:
            raise DamagedError("an element reaches beyond its item")
        places[tag] = (b"SQ" if length == UNDEFINED and not vr else vr, start, stop - start)
        position = stop
    return places, position
