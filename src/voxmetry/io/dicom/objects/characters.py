"""Text on its way into a DICOM object: which character set holds it, and what an element may hold at all.

Reference: DICOM PS3.3 C.12.1.1.2 (Specific Character Set), PS3.5 6.1 (support of character repertoires) and 6.2 (value
representations).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import charset
from pydicom.tag import Tag

from voxmetry.io.dicom.read.headers import PARSING_ERRORS

UNICODE = "ISO_IR 192"
"""UTF-8, which holds every character."""
_SINGLE = (
    *("ISO_IR 100", "ISO_IR 101", "ISO_IR 109", "ISO_IR 110", "ISO_IR 144", "ISO_IR 127", "ISO_IR 126"),
    *("ISO_IR 138", "ISO_IR 148", "ISO_IR 203", "ISO_IR 13", "ISO_IR 166", UNICODE, "GB18030", "GBK"),
)
"""Defined terms of Specific Character Set that stand alone, Table C.12-2 and C.12-5."""
_DEFAULT = ("", "ISO_IR 6")
_TEXT = ("SH", "LO", "ST", "LT", "UC", "UT", "PN")
_ESCAPE = re.compile("\x1b[\x20-\x2f]+[\x30-\x7e]")
"""Switches between character sets, ISO/IEC 2022."""
_DELIMITERS = {ord(x) for x in "\\^=\n\r\f\t"}
_NO_TEXT_OF_OURS = frozenset(Tag(x) for x in ("PerFrameFunctionalGroupsSequence", "ROIContourSequence"))
"""Thousands of items whose text is codes alone."""

# Latin alphabet No. 9 is in the standard (CP-1912) and not in pydicom 3.0, which would read and write it as No. 1.
for _term in ("ISO_IR 203", "ISO 2022 IR 203"):
    charset.python_encoding.setdefault(_term, "iso8859_15")
charset.CODES_TO_ENCODINGS.setdefault(b"\x1b-b", "iso8859_15")


def fitted(text: str, most: int = 64) -> str:
    r"""Return text as a value of VR LO (or, with fewer characters, SH) may hold it.

    Control characters are left out and a backslash, which separates values, becomes a slash; the text is cut to `most`
    characters, and of what is empty then an underscore is left.

    Examples
    --------
    >>> fitted("tumour\\left \x1b[1m"), len(fitted("x" * 70)), fitted(" ")
    ('tumour/left [1m', 64, '_')
    """
    shown = "".join(x for x in text.replace("\\", "/") if unicodedata.category(x) not in ("Cc", "Cs"))
    return shown.strip()[:most].strip() or "_"


def fitted_apart(names: Sequence[str], most: int = 64) -> dict[str, str]:
    """Return `fitted` names that are as different as the names are: what was cut off is replaced by a number.

    Examples
    --------
    >>> fitted_apart(["lesion of the liver 1", "lesion of the liver 2"], most=12)
    {'lesion of the liver 1': 'lesion of th', 'lesion of the liver 2': 'lesion of~2'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        short, number = fitted(name, most), 1
        while short in taken:
            number += 1
            mark = f"~{number}"
            short = fitted(name, most - len(mark)).rstrip() + mark
        taken.add(short)
        found[name] = short
    return found


def decode_all(dataset: Any) -> None:
    """Decode every element of a data set that was read, and leave out those whose value cannot be parsed."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except PARSING_ERRORS:
            del dataset[tag]
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                decode_all(item)
        elif element.VR in _TEXT and element.value:
            values = [element.value] if element.VM == 1 else list(element.value)
            if any("\x1b" in str(value) for value in values):
                # pydicom leaves the escape sequences of some sets (ISO 2022 IR 58) in the text.
                clean = [_ESCAPE.sub("", str(value)) for value in values]
                element.value = clean[0] if element.VM == 1 else clean


def settle_characters(dataset: Any, source: Any, declared: str) -> None:
    """Set the character set of a new object: the source's where it holds all text and ours is ASCII, else UTF-8.

    Parameters
    ----------
    dataset
        Complete but for frames and contours.
    source
        The source's header, decoded.
    declared
        Specific Character Set of the source, values joined by backslashes.

    Notes
    -----
    Several sets that are switched by escape sequences become UTF-8: the standard allows it, and few programs read
    them right. So does text of ours beyond ASCII, even where the source's set holds it: dcmqi takes every name for
    UTF-8. A source that declares none and holds more than ASCII keeps its bytes.
    """
    found, theirs = set(texts(dataset)), set(texts(source))
    fits = (
        declared in (*_DEFAULT, *_SINGLE)
        and all(text.isascii() for text in found - theirs)
        and all(_holds(declared, text) for text in found)
    )
    chosen = declared if fits else UNICODE
    if chosen:
        dataset.SpecificCharacterSet = chosen
    elif "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet


def texts(dataset: Any) -> Iterator[str]:
    """Yield each value whose bytes depend on the character set, items of sequences included."""
    for tag in dataset.keys() - _NO_TEXT_OF_OURS:
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value or []:
                yield from texts(item)
        elif element.VR in _TEXT and element.value:
            values = [element.value] if element.VM == 1 else element.value
            yield from map(str, values)


def _holds(term: str, text: str) -> bool:
    """Whether text comes back from a character set as it was; pydicom would write question marks for the rest."""
    if text.isascii() and term != "ISO_IR 13":
        return True
    encodings = charset.convert_encodings(term)
    try:
        back: str = charset.decode_bytes(charset.encode_string(text, encodings), encodings, _DELIMITERS)
    except UnicodeError:
        return False
    return str(back) == text
