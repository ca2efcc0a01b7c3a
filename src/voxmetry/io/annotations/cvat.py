"""CVAT: "CVAT for images 1.1" and "CVAT for video 1.1", XML. See https://docs.cvat.ai/docs/dataset_management/formats/."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from voxmetry.core.geometry import Float64
from voxmetry.errors import FormatError
from voxmetry.io.annotations.content import not_filled
from voxmetry.io.annotations.shapes import Drawings, Picture, Shape, ellipse, from_runs, polygon, rectangle

PROGRAM = "CVAT"
_SHAPES = ("polygon", "box", "ellipse", "mask", "polyline", "points", "skeleton", "cuboid")


def read(text: str) -> Drawings:
    """Read the XML text.

    Raises
    ------
    FormatError
        If it is no such file, or holds shapes that enclose nothing.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise FormatError(
            found="XML with definitions of its own", expected="an export of CVAT, which has none", fix="export it again"
        )
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise FormatError(
            found="XML that does not parse", expected="the file as CVAT exported it", fix="export it again"
        ) from error
    if root.tag != "annotations":
        raise FormatError(
            found=f"XML with the root {root.tag[:40]}",
            expected="annotations, as CVAT writes it",
            fix="export the task as CVAT for images 1.1",
        )
    pictures = [_picture(image) for image in root.iterfind("image")] or _frames(root)
    author = next((x.text or "" for x in root.iterfind("meta//assignee/username")), "")
    author = author or next((x.text or "" for x in root.iterfind("meta//owner/username")), "")
    made = next((x.text or "" for path in ("meta//updated", "meta/dumped") for x in root.iterfind(path)), "")
    return Drawings(PROGRAM, tuple(pictures), author.strip(), made.strip().replace(" ", "T", 1))


def _picture(image: ElementTree.Element) -> Picture:
    size = (int(image.attrib["width"]), int(image.attrib["height"]))
    shapes = [_shape(item, size) for item in image if item.tag in _SHAPES]
    return Picture(image.attrib["name"], size, tuple(shapes))


def _frames(root: ElementTree.Element) -> list[Picture]:
    """Return the frames of a video, such as a volume that was uploaded as one: tracks hold shapes by frame."""
    source = next((x.text or "" for x in root.iterfind("meta//source")), "")
    width, height = (
        next((x.text for x in root.iterfind(f"meta//original_size/{n}")), None) for n in ("width", "height")
    )
    size = (int(width), int(height)) if width and height else None
    start = int(next((x.text or "0" for x in root.iterfind("meta//start_frame")), "0"))
    found: dict[int, list[Shape]] = {}
    for track in root.iterfind("track"):
        for item in track:
            if item.tag in _SHAPES and item.attrib.get("outside") != "1":
                item.attrib.setdefault("label", track.attrib["label"])
                found.setdefault(int(item.attrib["frame"]) + start, []).append(_shape(item, size))
    return [Picture(source, size, tuple(shapes), frame=frame) for frame, shapes in sorted(found.items())]


def _shape(item: ElementTree.Element, size: tuple[int, int] | None) -> Shape:
    label, values = item.attrib["label"], item.attrib
    if item.tag == "polygon":
        return Shape(label, (_points(values["points"]),))
    turn = float(values.get("rotation", 0))
    if item.tag == "box":
        left, top, right, bottom = (float(values[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        box = rectangle(-(right - left) / 2, -(bottom - top) / 2, right - left, bottom - top)
        angle = np.deg2rad(turn)
        # CVAT turns a box about its centre.
        matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return Shape(label, (box @ matrix.T + np.array([(left + right) / 2, (top + bottom) / 2]),))
    if item.tag == "ellipse":
        x, y, rx, ry = (float(values[name]) for name in ("cx", "cy", "rx", "ry"))
        return Shape(label, (ellipse(x, y, rx, ry, turn),))
    if item.tag == "mask" and size is not None:
        left, top, width, height = (int(float(values[name])) for name in ("left", "top", "width", "height"))
        runs = [int(run) for run in values["rle"].split(",")]
        mask = np.zeros((size[1], size[0]), bool)
        inside = (slice(top, top + height), slice(left, left + width))
        if left < 0 or top < 0 or mask[inside].shape != (height, width):
            raise FormatError(
                found=f"a painted mask of {label} that reaches beyond its picture",
                expected="masks within the picture",
                fix="export the annotations again",
            )
        mask[inside] = from_runs(runs, width * height, label).reshape(height, width)
        return Shape(label, mask=mask)
    raise not_filled(item.tag, label)


def _points(text: str) -> Float64:
    pairs = [pair.split(",") for pair in text.split(";")]
    return polygon((float(x) for x, _ in pairs), (float(y) for _, y in pairs))
