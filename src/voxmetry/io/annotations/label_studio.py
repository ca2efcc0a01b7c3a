"""Label Studio, JSON export: polygons, rectangles, ellipses and brush strokes. See https://labelstud.io/guide/export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voxmetry.errors import FormatError
from voxmetry.io.annotations.content import not_filled, one_of
from voxmetry.io.annotations.shapes import Drawings, Picture, Shape, ellipse, polygon, rectangle

PROGRAM = "Label Studio"
_KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels", "keypointlabels")
_OTHERS = ("choices", "textarea", "rating", "taxonomy", "number", "datetime")
"""Answers about a picture, which enclose nothing and are not meant to."""


def is_own(content: Any) -> bool:
    """Whether parsed JSON is Label Studio's."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(task, dict) and "annotations" in task and "data" in task for task in content)
    )


def read(content: Any) -> Drawings:
    """Read parsed JSON; suggestions of models (`predictions`) and cancelled annotations are not looked at.

    Raises
    ------
    FormatError
        If several people drew one picture, or a shape encloses nothing.
    """
    pictures, authors, times = [], [], []
    for task in content:
        given = [one for one in task["annotations"] if not one.get("was_cancelled")]
        name = _name(task["data"])
        if len(given) > 1:
            raise FormatError(
                found=f"{len(given)} annotations of one picture, {name}",
                expected="one a picture",
                fix="export the one that holds, or cancel the others in Label Studio",
            )
        results = [item for one in given for item in one["result"] if item.get("type") not in _OTHERS]
        sizes = {(int(x["original_width"]), int(x["original_height"])) for x in results}
        if len(sizes) > 1:
            raise FormatError(found=f"sizes {sorted(sizes)} of one picture", expected="one", fix="export it again")
        pictures.append(Picture(name, next(iter(sizes), None), tuple(map(_shape, results))))
        authors += [_author(one.get("completed_by")) for one in given]
        times += [str(one.get("updated_at") or one.get("created_at") or "") for one in given]
    return Drawings(PROGRAM, tuple(pictures), one_of(authors), max(times, default=""))


def _name(data: Mapping[str, Any]) -> str:
    paths = [str(value) for value in data.values() if isinstance(value, str)]
    chosen = data.get("image") or next(iter(paths), "")
    return str(chosen)


def _author(who: Any) -> str:
    if isinstance(who, dict):
        return str(who.get("email") or who.get("username") or who.get("id") or "")
    return "" if who is None else f"Label Studio user {who}"


def _shape(item: Mapping[str, Any]) -> Shape:
    kind, value = str(item["type"]), item["value"]
    labels = value.get(kind) or value.get("labels") or []
    if len(labels) != 1:
        raise FormatError(
            found=f"a shape with {len(labels)} labels", expected="one structure a shape", fix="label each shape once"
        )
    label, size = str(labels[0]), np.array([float(item["original_width"]), float(item["original_height"])])
    share = size / 100
    if kind == "polygonlabels":
        points = np.asarray(value["points"], np.float64) * share
        return Shape(label, (polygon(points[:, 0], points[:, 1]),))
    turn = float(value.get("rotation", 0))
    if kind == "rectanglelabels":
        corner, extent = _pair(value, "x", "y") * share, _pair(value, "width", "height") * share
        return Shape(label, (rectangle(corner[0], corner[1], extent[0], extent[1], turn),))
    if kind == "ellipselabels":
        centre, radii = _pair(value, "x", "y") * share, _pair(value, "radiusX", "radiusY") * share
        return Shape(label, (ellipse(centre[0], centre[1], radii[0], radii[1], turn),))
    if kind == "brushlabels" and value.get("format") == "rle":
        return Shape(label, mask=_unpacked(value["rle"], int(size[0]), int(size[1]), label))
    raise not_filled(kind, label)


def _pair(value: Mapping[str, Any], first: str, second: str) -> NDArray[np.float64]:
    return np.array([float(value[first]), float(value[second])])


class _Bits:
    """Reads whole numbers of some bits each, the highest bit first."""

    def __init__(self, data: Sequence[int]) -> None:
        self._bits = np.unpackbits(np.asarray(data, np.uint8))
        self._at = 0

    def take(self, n: int) -> int:
        if self._at + n > len(self._bits):
            raise FormatError(found="brush strokes that end too early", expected="all of them", fix="export them again")
        number = int("".join(map(str, self._bits[self._at : self._at + n])), 2)
        self._at += n
        return number


def _unpacked(data: Sequence[int], width: int, height: int, label: str) -> NDArray[np.bool_]:
    """Unpack brush strokes: the alpha channel of a picture in the form of https://github.com/thi-ng/umbrella rle-pack.

    A head: 32 bits the number of values, 5 bits the size of a value less one, four sizes of a run length, 4 bits each,
    less one. Then blocks: one bit whether all values of the block are the same, two bits which size its length has, the
    length less one, and one value or as many as the length says.
    """
    bits = _Bits(data)
    n, size = bits.take(32), bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    if n != 4 * width * height:
        raise FormatError(
            found=f"brush strokes of {label} of {n} values",
            expected=f"{4 * width * height}, four for each of {width} x {height} pixels",
            fix="export the annotations again",
        )
    values = np.zeros(n, np.uint16)
    at = 0
    while at < n:
        is_same = bits.take(1)
        end = min(n, at + bits.take(lengths[bits.take(2)]) + 1)
        if is_same:
            values[at:end] = bits.take(size)
        else:
            values[at:end] = [bits.take(size) for _ in range(end - at)]
        at = end
    painted: NDArray[np.bool_] = values.reshape(height, width, 4)[..., 3] > 0
    return painted
