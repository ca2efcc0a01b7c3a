"""Labelbox: the NDJSON export of today and the JSON export of before. See https://docs.labelbox.com/reference/label-export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxmetry.errors import FormatError
from voxmetry.io.annotations.content import not_filled, one_of
from voxmetry.io.annotations.shapes import Drawings, Picture, Shape, polygon, rectangle

PROGRAM = "Labelbox"


def is_own(content: Any) -> bool:
    """Whether parsed JSON, a list or the lines of NDJSON, is Labelbox's."""
    rows = content if isinstance(content, list) else [content]
    return bool(rows) and all(
        isinstance(x, dict) and ("data_row" in x or {"Label", "External ID"} <= x.keys()) for x in rows
    )


def read(content: Any) -> Drawings:
    """Read parsed JSON.

    Raises
    ------
    FormatError
        If several people drew one picture, a mask lies on Labelbox's server, or a shape encloses nothing.
    """
    pictures, authors, times = [], [], []
    for row in content if isinstance(content, list) else [content]:
        picture, author, made = _today(row) if "data_row" in row else _before(row)
        pictures.append(picture)
        authors.append(author)
        times.append(made)
    return Drawings(PROGRAM, tuple(pictures), one_of(authors), max(times, default=""))


def _today(row: Mapping[str, Any]) -> tuple[Picture, str, str]:
    names, media = row["data_row"], row.get("media_attributes") or {}
    name = str(names.get("external_id") or names.get("global_key") or names["id"])
    labels = [label for project in (row.get("projects") or {}).values() for label in project["labels"]]
    if len(labels) > 1:
        raise FormatError(
            found=f"{len(labels)} labels of one picture, {name}",
            expected="one a picture",
            fix="export the one that holds, such as the benchmark or the consensus winner",
        )
    size = (int(media["width"]), int(media["height"])) if {"width", "height"} <= media.keys() else None
    objects = [item for label in labels for item in label["annotations"].get("objects", ())]
    details = labels[0].get("label_details", {}) if labels else {}
    made = str(details.get("updated_at") or details.get("created_at") or "")
    return Picture(name, size, tuple(map(_shape, objects))), str(details.get("created_by") or ""), made


def _before(row: Mapping[str, Any]) -> tuple[Picture, str, str]:
    label = row["Label"] if isinstance(row["Label"], dict) else {}
    shapes = tuple(_shape(item) for item in label.get("objects", ()))
    made = str(row.get("Updated At") or row.get("Created At") or "")
    return Picture(str(row["External ID"]), None, shapes), str(row.get("Created By") or ""), made


def _shape(item: Mapping[str, Any]) -> Shape:
    label = str(item.get("name") or item.get("title") or item["value"])
    if item.get("polygon"):
        points = item["polygon"]
        return Shape(label, (polygon((p["x"] for p in points), (p["y"] for p in points)),))
    box = item.get("bounding_box") or item.get("bbox")
    if box:
        return Shape(label, (rectangle(box["left"], box["top"], box["width"], box["height"]),))
    if any(key in item for key in ("mask", "composite_mask", "instanceURI")):
        raise FormatError(
            found=f"a mask of {label} that lies on Labelbox's server",
            expected="polygons, which stand in the file itself",
            fix="draw polygons, or export the masks as pictures and convert them to a label map",
        )
    raise not_filled(str(item.get("annotation_kind", "unknown")), label)
