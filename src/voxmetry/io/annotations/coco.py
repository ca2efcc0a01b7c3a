"""COCO: polygons and run lengths, JSON. See https://cocodataset.org/#format-data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.errors import FormatError
from voxmetry.io.annotations.content import not_filled
from voxmetry.io.annotations.shapes import Drawings, Picture, Shape, from_runs, polygon

PROGRAM = "COCO"


def is_own(content: Any) -> bool:
    """Whether parsed JSON is COCO's."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def read(content: Any) -> Drawings:
    """Read parsed JSON.

    Raises
    ------
    FormatError
        If an annotation is of no picture or no category, or encloses nothing.
    """
    names = {item["id"]: str(item["name"]) for item in content["categories"]}
    shapes: dict[Any, list[Shape]] = {item["id"]: [] for item in content["images"]}
    sizes = {item["id"]: (int(item["width"]), int(item["height"])) for item in content["images"]}
    for item in content["annotations"]:
        if item["image_id"] not in shapes or item["category_id"] not in names:
            raise FormatError(
                found=f"an annotation of picture {item['image_id']!r} and category {item['category_id']!r}",
                expected="pictures and categories that the file lists",
                fix="export the annotations again",
            )
        name = names[item["category_id"]]
        shapes[item["image_id"]].append(_shape(name, item.get("segmentation"), sizes[item["image_id"]]))
    pictures = tuple(
        Picture(str(item["file_name"]), sizes[item["id"]], tuple(shapes[item["id"]])) for item in content["images"]
    )
    info = content.get("info") if isinstance(content.get("info"), dict) else {}
    return Drawings(PROGRAM, pictures, str(info.get("contributor") or ""), str(info.get("date_created") or ""))


def _shape(label: str, segmentation: Any, size: tuple[int, int]) -> Shape:
    if isinstance(segmentation, dict):
        return Shape(label, mask=_unpacked(segmentation, size, label))
    if not segmentation:
        raise not_filled("bbox alone", label)
    return Shape(label, tuple(polygon(points[0::2], points[1::2]) for points in segmentation))


def _unpacked(rle: Mapping[str, Any], size: tuple[int, int], label: str) -> NDArray[np.bool_]:
    """Unpack run lengths, which run down the columns."""
    height, width = (int(n) for n in rle["size"])
    if (width, height) != size:
        raise FormatError(
            found=f"run lengths of {label} for {width} x {height} pixels on a picture of {size[0]} x {size[1]}",
            expected="the same size",
            fix="export the annotations again",
        )
    counts = rle["counts"]
    runs = [int(n) for n in counts] if isinstance(counts, list) else _compressed(str(counts))
    return from_runs(runs, width * height, label).reshape(width, height).T


def _compressed(text: str) -> list[int]:
    """Decode COCO's text of run lengths.

    Each number is in groups of five bits, lowest first, as characters from "0" on; bit 6 says that more follow, the
    highest bit of the last group is the sign. From the fourth number on, each is a difference from the one two before.

    Examples
    --------
    >>> _compressed("2112")
    [2, 1, 1, 3]
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64:
            raise FormatError(
                found="run lengths in another code than COCO's", expected="COCO's text", fix="export them again"
            )
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs
