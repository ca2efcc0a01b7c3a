"""VGG Image Annotator 1 and 2, JSON: a project or its annotations. See https://www.robots.ox.ac.uk/~vgg/software/via/."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxmetry.errors import FormatError
from voxmetry.io.annotations.content import not_filled
from voxmetry.io.annotations.shapes import Drawings, Picture, Shape, ellipse, polygon, rectangle

PROGRAM = "VIA"
_PROJECT = "_via_img_metadata"
_NAMES = ("label", "name", "class", "structure", "type", "category", "organ")
"""Attributes that name a structure, where a region has several."""


def is_own(content: Any) -> bool:
    """Whether parsed JSON is VIA's."""
    if not isinstance(content, dict) or not content:
        return False
    return _PROJECT in content or all(
        isinstance(x, dict) and {"filename", "regions"} <= x.keys() for x in content.values()
    )


def read(content: Any) -> Drawings:
    """Read parsed JSON.

    Raises
    ------
    FormatError
        If a region does not say its structure, or encloses nothing.
    """
    pictures = []
    for item in content.get(_PROJECT, content).values():
        regions = item["regions"].values() if isinstance(item["regions"], dict) else item["regions"]
        pictures.append(Picture(str(item["filename"]), None, tuple(map(_shape, regions))))
    return Drawings(PROGRAM, tuple(pictures))


def _shape(region: Mapping[str, Any]) -> Shape:
    label, shape = _label(region.get("region_attributes") or {}), region["shape_attributes"]
    kind = shape["name"]
    if kind in ("polygon", "polyline") and (kind == "polygon" or _is_closed(shape)):
        return Shape(label, (polygon(shape["all_points_x"], shape["all_points_y"]),))
    if kind == "rect":
        return Shape(label, (rectangle(shape["x"], shape["y"], shape["width"], shape["height"]),))
    if kind == "circle":
        return Shape(label, (ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"]),))
    if kind == "ellipse":
        # VIA keeps the angle in radians.
        turn = float(shape.get("theta", 0.0)) * 57.29577951308232
        return Shape(label, (ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], turn),))
    raise not_filled(str(kind), label)


def _is_closed(shape: Mapping[str, Any]) -> bool:
    xs, ys = shape["all_points_x"], shape["all_points_y"]
    return len(xs) > 3 and (xs[0], ys[0]) == (xs[-1], ys[-1])


def _label(attributes: Mapping[str, Any]) -> str:
    """Return the structure's name: of the only attribute, or of one that is called so."""
    given = {str(key).casefold(): value for key, value in attributes.items() if value not in ("", None, {})}
    keys = [key for key in _NAMES if key in given] or (list(given) if len(given) == 1 else [])
    value = given[keys[0]] if keys else None
    if isinstance(value, dict):
        chosen = [str(key) for key, is_on in value.items() if is_on]
        value = chosen[0] if len(chosen) == 1 else None
    if value is None:
        raise FormatError(
            found=f"a region with the attributes {', '.join(sorted(given)) or '(none)'}",
            expected="one that names the structure, called label or name",
            fix="add a region attribute label in VIA, and fill it for each region",
        )
    return str(value)
