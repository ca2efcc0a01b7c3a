"""What a segment is, in codes: between a label table and the Segment Sequence of DICOM.

Codes are SNOMED CT (SCT) and DICOM's own (DCM), from PS3.16: categories of CID 7150, laterality of CID 244.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from voxmetry.core.labels import PALETTE, Code, Label, LabelTable
from voxmetry.errors import LabelError
from voxmetry.io.dicom.read.headers import text, whole

ANATOMY = Code(value="91723000", meaning="Anatomical Structure")
ABNORMAL = Code(value="49755003", meaning="Morphologically Abnormal Structure")
LATERALITY = {
    "left": Code(value="7771000", meaning="Left"),
    "right": Code(value="24028007", meaning="Right"),
}
_SIDES = {code.value: side for side, code in LATERALITY.items()}
_MOST_NAME = 64
"""Characters of an element of VR LO."""
_BACKGROUND = ("DCM", "125040")
_ABNORMAL = (ABNORMAL.value, "M-01000")
_BY_KIND = (*_ABNORMAL, ANATOMY.value, "123037004", "T-D000A")
"""Categories that a label's kind says; 123037004 is what TotalSegmentator and older writers have for anatomy."""


def labels_of(dataset: Any, name: str) -> LabelTable:
    """Read the segments of a DICOM segmentation as a label table; a label's value is its segment number.

    Parameters
    ----------
    dataset
        The segmentation's header.
    name
        The file's name, for the error.

    Raises
    ------
    LabelError
        If segments have no or the same number.
    """
    labels: list[Label] = []
    for item in dataset.get("SegmentSequence") or []:
        value = whole(item, "SegmentNumber")
        if value is None or value < 0 or value in [label.value for label in labels]:
            raise LabelError(
                found=f"{name}: a segment number that is absent, negative or used twice",
                expected="one number a segment, from 1",
                fix="export the segmentation again",
            )
        kind = code_of(item, "SegmentedPropertyTypeCodeSequence")
        # A label map describes its background as segment 0; nothing else can be 0 in a label table.
        if value and not (kind and (kind.scheme, kind.value) == _BACKGROUND):
            labels.append(_label(item, value, kind, [label.name for label in labels]))
    return LabelTable(labels=tuple(labels))


def _label(item: Any, value: int, kind: Code | None, taken: Sequence[str]) -> Label:
    name = full_name(item, "SegmentLabel", "SegmentDescription") or f"segment_{value}"
    types = item.get("SegmentedPropertyTypeCodeSequence") or [{}]
    modifiers = _codes(types[0], "SegmentedPropertyTypeModifierCodeSequence")
    # Some writers put the side beside the anatomic region and not beside the type.
    for region in item.get("AnatomicRegionSequence") or []:
        modifiers += _codes(region, "AnatomicRegionModifierSequence")
    sides = [_SIDES[code.value] for code in modifiers if code.value in _SIDES]
    others = [code for code in modifiers if code.value not in _SIDES]
    category = code_of(item, "SegmentedPropertyCategoryCodeSequence")
    return Label(
        value=value,
        name=f"{name}_{value}" if name in taken else name,
        colour=_colour(item, value),
        kind="lesion" if category is not None and category.value in _ABNORMAL else "organ",
        code=kind,
        modifier=others[0] if others else None,
        laterality="left" if sides[:1] == ["left"] else "right" if sides[:1] == ["right"] else None,
        category=category if category and category.value not in _BY_KIND else None,
        region=code_of(item, "AnatomicRegionSequence"),
    )


def code_of(item: Any, keyword: str) -> Code | None:
    """Return the first complete code of a sequence, or None."""
    return next(iter(_codes(item, keyword)), None)


def full_name(item: Any, short: str, long: str) -> str:
    """Return a name that may have been cut to the 64 characters of its element, in full where another one has it.

    Parameters
    ----------
    item
        A segment or a structure.
    short, long
        Keywords of the name and of the description.
    """
    name, whole = text(item, short) or "", text(item, long) or ""
    begin = name.rpartition("~")[0] or name
    is_cut = len(whole) > _MOST_NAME >= len(name) and whole.startswith(begin) and len(begin) > _MOST_NAME - 5
    return whole if is_cut or not name else name


def _codes(item: Any, keyword: str) -> list[Code]:
    found = []
    for part in item.get(keyword) or []:
        value, meaning, scheme = (text(part, key) for key in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator"))
        value = value or text(part, "LongCodeValue")
        if value and meaning and scheme:
            found.append(Code(value=value, meaning=meaning, scheme=scheme))
    return found


def _colour(item: Any, value: int) -> str:
    from highdicom.color import CIELabColor

    stored = item.get("RecommendedDisplayCIELabValue")
    if stored is None or len(stored) != 3:
        return PALETTE[(value - 1) % len(PALETTE)]
    red, green, blue = CIELabColor.from_dicom_value(tuple(int(x) for x in stored)).to_rgb()
    return f"#{red:02X}{green:02X}{blue:02X}"
