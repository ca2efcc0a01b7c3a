"""Segments in the header of a NRRD file, as 3D Slicer writes them into `.seg.nrrd`.

Each segment has a name, a colour, a value, the layer that holds it (segments of different layers may overlap), and a
terminology entry: `context~category~type~modifier~anatomic context~region~region modifier`, each code
`scheme^value^meaning`. See https://apidocs.slicer.org/main/classvtkMRMLSegmentationStorageNode.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pydantic import ValidationError

from voxmetry.core.labels import Code, Label, LabelTable
from voxmetry.io.label_header import damaged_table, first_problem, hex_colour

_TYPES_LIST = "Segmentation category and type - DICOM master list"
_REGIONS_LIST = "Anatomic codes - DICOM master list"
_ANATOMY = Code(value="91723000", meaning="Anatomical Structure")
_ABNORMAL = Code(value="49755003", meaning="Morphologically Abnormal Structure")
_ALTERED = (_ABNORMAL.value, "M-01000")
_BY_KIND = (_ANATOMY.value, "123037004", *_ALTERED)
"""Categories that say no more than a label's kind."""
_SIDES = {
    "left": Code(value="7771000", meaning="Left"),
    "right": Code(value="24028007", meaning="Right"),
}
_SIDE_OF = {**{code.value: side for side, code in _SIDES.items()}, "G-A101": "left", "G-A100": "right"}


class Segment(NamedTuple):
    """A segment: the layer and the value there that hold it, and its label, whose value is unique in the file."""

    layer: int
    stored: int
    label: Label


def to_slicer(tables: Sequence[LabelTable]) -> dict[str, str]:
    """Return the header fields of the segments, one table a layer."""
    fields: dict[str, str] = {}
    index = 0
    for layer, table in enumerate(tables):
        for label in table:
            colour = " ".join(f"{channel:.6g}" for channel in label.rgb)
            values = {"ID": f"Segment_{index + 1}", "Name": label.name, "LabelValue": str(label.value)}
            values |= {"Layer": str(layer), "Color": colour, "Tags": f"TerminologyEntry:{_terminology(label)}|"}
            fields |= {f"Segment{index}_{key}": value for key, value in values.items()}
            index += 1
    return fields


def slicer_segments(fields: Mapping[str, str], name: str) -> list[Segment]:
    """Read the segments of all layers from a header's fields; none where it has none.

    Raises
    ------
    LabelError
        If the fields are there but damaged.
    """
    found: list[Segment] = []
    try:
        while (prefix := f"Segment{len(found)}_") + "LabelValue" in fields or prefix + "Name" in fields:
            found.append(_segment(fields, prefix, [segment.label.name for segment in found], len(found)))
    except ValidationError as error:
        raise damaged_table(name, first_problem(error)) from error
    except (KeyError, ValueError) as error:
        raise damaged_table(name, f"segment {len(found)} has no whole-number label value or layer") from error
    return found


def _segment(fields: Mapping[str, str], prefix: str, taken: Sequence[str], index: int) -> Segment:
    stored = int(fields[prefix + "LabelValue"])
    named = (fields.get(prefix + key, "") for key in ("Name", "ID"))
    name = next((text for text in named if text.strip()), f"segment_{index + 1}")
    colour = [float(channel) for channel in fields.get(prefix + "Color", "").split()]
    entry = re.search(r"(?:^|\|)TerminologyEntry:([^|]*)", fields.get(prefix + "Tags", ""))
    parts = (entry[1] if entry else "").split("~") + [""] * 7
    category, kind = _code(parts[1]), _code(parts[2])
    modifiers = [code for part in (parts[3], parts[6]) if (code := _code(part)) is not None]
    sides = [_SIDE_OF[code.value] for code in modifiers if code.value in _SIDE_OF]
    others = [code for code in modifiers if code.value not in _SIDE_OF]
    is_lesion = category is not None and category.value in _ALTERED
    label = Label(
        value=stored,
        name=f"{name}_{index + 1}" if name in taken else name,
        colour=hex_colour(colour, index),
        kind="lesion" if is_lesion else "organ",
        code=kind if kind is not None and kind.value not in (_ANATOMY.value, _ABNORMAL.value) else None,
        modifier=others[0] if others else None,
        laterality="left" if sides[:1] == ["left"] else "right" if sides[:1] == ["right"] else None,
        category=category if category is not None and category.value not in _BY_KIND else None,
        region=_code(parts[5]),
    )
    return Segment(int(fields.get(prefix + "Layer", "0")), stored, label)


def _terminology(label: Label) -> str:
    category = _ABNORMAL if label.kind == "lesion" else _ANATOMY
    side = _SIDES.get(label.laterality or "")
    # The side stands beside the region where there is one, else beside the type.
    modifiers = [code for code in (None if label.region else side, label.modifier) if code is not None]
    first, second = (*modifiers, side if label.region else None, None)[:2]
    codes = (label.category or category, label.code or category, first)
    return "~".join([_TYPES_LIST, *map(_text, codes), _REGIONS_LIST, _text(label.region), _text(second)])


def _text(code: Code | None) -> str:
    if code is None:
        return "^^"
    return "^".join(re.sub(r"[\^~|\r\n]", " ", part) for part in (code.scheme, code.value, code.meaning))


def _code(text: str) -> Code | None:
    parts = [part.strip() for part in text.split("^")]
    if len(parts) != 3 or not parts[0] or not parts[1]:
        return None
    return Code(scheme=parts[0], value=parts[1], meaning=parts[2] or parts[1])
