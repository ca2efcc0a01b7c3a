"""Labels in the header of a NRRD file, as MITK writes its multilabel segmentations: JSON, one group of labels a layer.

A label has a name, a colour of three numbers in 0..1, and a value. Labels of different groups may overlap, and several
may share a name (instances of one class). See https://docs.mitk.org/ (MultiLabelSegmentation).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from voxmetry.core.labels import Label
from voxmetry.errors import LabelError
from voxmetry.io.label_header import damaged_table, first_problem, hex_colour
from voxmetry.io.slicer_header import Segment

_GROUPS = "org.mitk.multilabel.segmentation.labelgroups"
_EARLIER = "org.mitk.image.multilabel"
"""Modality of the files that MITK wrote before 2022, whose labels are XML."""


def mitk_segments(fields: Mapping[str, str], name: str) -> list[Segment]:
    """Read the labels of all groups from a header's fields; none where it has none.

    Raises
    ------
    LabelError
        If the fields are there but damaged, or of a version whose labels are not read.
    """
    if _GROUPS not in fields:
        if fields.get("modality") == _EARLIER:
            raise LabelError(
                found=f"{name}, a segmentation of MITK before 2022, whose names are not read",
                expected="labels as MITK has written them since",
                fix="open it in MITK and save it again",
            )
        return []
    found: list[Segment] = []
    try:
        for layer, group in enumerate(json.loads(fields[_GROUPS])):
            for item in group["labels"]:
                # Older versions list what is outside of all labels as the first one.
                if item["value"] != 0:
                    found.append(_segment(item, layer, [segment.label.name for segment in found], len(found)))
    except ValidationError as error:
        raise damaged_table(name, first_problem(error)) from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged_table(name, f"{_GROUPS} is no list of groups of labels with values") from error
    return found


def _segment(item: Mapping[str, Any], layer: int, taken: list[str], index: int) -> Segment:
    value, colour = item["value"], item.get("color")
    if type(value) is not int:
        raise ValueError("a value that is no whole number")
    channels = colour.get("value") if isinstance(colour, dict) else None
    numbers = [float(x) for x in channels if isinstance(x, int | float)] if isinstance(channels, list) else []
    name = str(item.get("name") or "").strip() or f"label_{value}"
    unique = f"{name}_{index + 1}" if name in taken else name
    return Segment(layer, value, Label(value=value, name=unique, colour=hex_colour(numbers, index)))
