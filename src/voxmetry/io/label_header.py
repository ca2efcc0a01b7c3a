"""Label tables inside image files: this package's own form, and that of Caret; `slicer_header` has 3D Slicer's.

Own form: one JSON text `{"voxmetry": {"schema": 1, "labels": [...]}}`, each entry a `Label`. In NIfTI it is a header
extension of code 6 (comment), in NRRD and MetaImage the header field `voxmetry_labels`.
"""

from __future__ import annotations

import json
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
        raise damaged_table(name, f"not of schema {_SCHEMA}")
    try:
        return LabelTable.model_validate({"labels": body.get("labels")})
    except ValidationError as error:
        raise damaged_table(name, first_problem(error)) from error


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
            labels.append(Label(value=value, name=label_name, colour=hex_colour(colour, len(labels))))
        return LabelTable(labels=tuple(labels)) if labels else None
    except ValidationError as error:
        raise damaged_table(name, first_problem(error)) from error
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise damaged_table(name, f"not the XML that it claims to be ({type(error).__name__})") from error


def hex_colour(colour: list[float], index: int) -> str:
    """Turn red, green, blue in 0..1 into `#RRGGBB`; a colour of the palette where they are not that."""
    if len(colour) != 3 or not all(0 <= channel <= 1 for channel in colour):
        return PALETTE[index % len(PALETTE)]
    return "#" + "".join(f"{round(channel * 255):02X}" for channel in colour)


def first_problem(error: ValidationError) -> str:
    """Return the first problem that pydantic found, with its place."""
    problem: Any = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


def damaged_table(name: str, why: str) -> LabelError:
    """Return the error of a label table inside a file that cannot be used."""
    return LabelError(
        found=f"the label table inside {name} cannot be used: {why}",
        expected="a table with unique values from 1 and unique names",
        fix="export the label map again, or in Python pass the table yourself: read_segmentation(path, labels=...)",
    )
