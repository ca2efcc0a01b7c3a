"""Label tables inside image files: this package's own form, and the two others that are met in practice.

Own form: one JSON text `{"voxmetry": {"schema": 1, "labels": [...]}}`, each entry a `Label`. In NIfTI it is a header
extension of code 6 (comment), in NRRD and MetaImage the header field `voxmetry_labels`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from pydantic import ValidationError

from voxmetry.core.labels import PALETTE, Label, LabelTable
from voxmetry.errors import LabelError

FIELD = "voxmetry_labels"
"""Name of the header field in NRRD and MetaImage files."""

_SCHEMA = 1
_CARET_LIMIT = 4_000_000


def to_json(table: LabelTable) -> str:
    """Return the table as one line of ASCII JSON.

    Examples
    --------
    >>> from_json(to_json(LabelTable.from_names({3: "liver"})), "seg.nii.gz")["liver"].value
    3
    """
    labels = table.model_dump(mode="json", exclude_none=True)["labels"]
    return json.dumps({"voxmetry": {"schema": _SCHEMA, "labels": labels}}, separators=(",", ":"))


def from_json(text: str, name: str) -> LabelTable | None:
    """Read a table that `to_json` wrote; None where the text is something else.

    Parameters
    ----------
    text
        The header's text.
    name
        The file's name, for the error.

    Raises
    ------
    LabelError
        If the text is this package's but damaged or from a later version.
    """
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or "voxmetry" not in content:
        return None
    body = content["voxmetry"]
    if not isinstance(body, dict) or body.get("schema") != _SCHEMA:
        raise _damaged(name, f"not of schema {_SCHEMA}")
    try:
        return LabelTable.model_validate({"labels": body.get("labels")})
    except ValidationError as error:
        raise _damaged(name, _first(error)) from error


def from_caret(text: str, name: str) -> LabelTable | None:
    """Read the XML label table of Caret and Connectome Workbench, which TotalSegmentator writes into its NIfTI files.

    Returns None where the text is something else.

    Raises
    ------
    LabelError
        If the XML is a Caret extension whose label table is damaged.
    """
    if "<CaretExtension" not in text[:1000] or len(text) > _CARET_LIMIT or "<!DOCTYPE" in text:
        return None
    try:
        found = ElementTree.fromstring(text.strip("\0 \r\n\t")).iterfind(".//LabelTable/Label")
        labels: list[Label] = []
        for element in found:
            value, label_name = int(element.attrib["Key"]), (element.text or "").strip()
            if value == 0:
                continue
            colour = [float(element.attrib.get(channel, "nan")) for channel in ("Red", "Green", "Blue")]
            labels.append(Label(value=value, name=label_name, colour=_hex(colour, len(labels))))
        return LabelTable(labels=tuple(labels)) if labels else None
    except ValidationError as error:
        raise _damaged(name, _first(error)) from error
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise _damaged(name, f"not the XML that it claims to be ({type(error).__name__})") from error


def to_slicer(table: LabelTable) -> dict[str, str]:
    """Return the header fields by which 3D Slicer names and colours the segments of a `.seg.nrrd`."""
    fields: dict[str, str] = {}
    for index, label in enumerate(table):
        colour = " ".join(f"{channel:.6g}" for channel in label.rgb)
        values = {"ID": label.name, "Name": label.name, "LabelValue": str(label.value), "Layer": "0", "Color": colour}
        fields |= {f"Segment{index}_{key}": value for key, value in values.items()}
    return fields


def from_slicer(fields: Mapping[str, str], name: str) -> LabelTable | None:
    """Read the segments of a 3D Slicer `.seg.nrrd` from its header fields; None where it has none.

    Raises
    ------
    LabelError
        If the fields are there but damaged.
    """
    labels: list[Label] = []
    try:
        while (prefix := f"Segment{len(labels)}") + "_Name" in fields:
            colour = [float(channel) for channel in fields.get(prefix + "_Color", "").split()]
            labels.append(
                Label(
                    value=int(fields[prefix + "_LabelValue"]),
                    name=fields[prefix + "_Name"],
                    colour=_hex(colour, len(labels)),
                )
            )
        return LabelTable(labels=tuple(labels)) if labels else None
    except ValidationError as error:
        raise _damaged(name, _first(error)) from error
    except (KeyError, ValueError) as error:
        raise _damaged(name, f"segment {len(labels)} has no whole-number label value or colour") from error


def _hex(colour: list[float], index: int) -> str:
    """Turn red, green, blue in 0..1 into `#RRGGBB`; a colour of the palette where they are not that."""
    if len(colour) != 3 or not all(0 <= channel <= 1 for channel in colour):
        return PALETTE[index % len(PALETTE)]
    return "#" + "".join(f"{round(channel * 255):02X}" for channel in colour)


def _first(error: ValidationError) -> str:
    problem: Any = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def _damaged(name: str, why: str) -> LabelError:
    return LabelError(
        found=f"the label table inside {name} cannot be used: {why}",
        expected="a table with unique values from 1 and unique names",
        fix="pass the label table yourself: read_segmentation(path, labels=...)",
    )
