"""Files of slice annotations as each program writes them, of polygons in pixels from the picture's corner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Drawn(NamedTuple):
    """A polygon on a picture: its name, the structure, points (x, y) in pixels from the upper left corner."""

    picture: str
    label: str
    points: list[tuple[float, float]]


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """The corners of a box."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def cvat(path: Path, drawn: list[Drawn], size: tuple[int, int], *, author: str = "reader_a") -> Path:
    """CVAT for images 1.1."""
    width, height = size
    images = "".join(
        f'<image id="{n}" name="{name}" width="{width}" height="{height}">'
        + "".join(
            f'<polygon label="{x.label}" source="manual" occluded="0" '
            f'points="{";".join(f"{a:.2f},{b:.2f}" for a, b in x.points)}" z_order="0"></polygon>'
            for x in drawn
            if x.picture == name
        )
        + "</image>"
        for n, name in enumerate(dict.fromkeys(x.picture for x in drawn))
    )
    meta = f"<meta><job><assignee><username>{author}</username></assignee><updated>2026-11-28 09:30:00+00:00</updated>"
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>{meta}</job></meta>{images}'
        "</annotations>",
        encoding="utf-8",
    )
    return path


def coco(path: Path, drawn: list[Drawn], size: tuple[int, int]) -> Path:
    """COCO with polygons."""
    names, labels = ([*dict.fromkeys(getattr(x, key) for x in drawn)] for key in ("picture", "label"))
    content = {
        "info": {"contributor": "reader_a", "date_created": "2026-11-28T09:30:00+00:00"},
        "images": [
            {"id": n, "file_name": name, "width": size[0], "height": size[1]} for n, name in enumerate(names, start=1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(labels, start=1)],
        "annotations": [
            {
                "id": n,
                "image_id": 1 + names.index(x.picture),
                "category_id": 1 + labels.index(x.label),
                "segmentation": [[coordinate for point in x.points for coordinate in point]],
                "iscrowd": 0,
            }
            for n, x in enumerate(drawn, start=1)
        ],
    }
    return _json(path, content)


def label_studio(path: Path, drawn: list[Drawn], size: tuple[int, int]) -> Path:
    """Label Studio's JSON: points are per cent of the picture, and upload puts a code before its name."""
    tasks = [
        {
            "id": n,
            "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"},
            "annotations": [
                {
                    "completed_by": {"email": "reader_a@example.org"},
                    "updated_at": "2026-11-28T09:30:00.000000Z",
                    "was_cancelled": False,
                    "result": [
                        {
                            "type": "polygonlabels",
                            "original_width": size[0],
                            "original_height": size[1],
                            "value": {
                                "points": [[100 * a / size[0], 100 * b / size[1]] for a, b in x.points],
                                "polygonlabels": [x.label],
                            },
                        }
                        for x in drawn
                        if x.picture == name
                    ],
                }
            ],
            "predictions": [{"result": [{"type": "polygonlabels"}]}],
        }
        for n, name in enumerate(dict.fromkeys(x.picture for x in drawn), start=1)
    ]
    return _json(path, tasks)


def via(path: Path, drawn: list[Drawn], size: tuple[int, int]) -> Path:
    """A project of VIA 2, which does not know how large its pictures are."""
    content = {
        f"{name}1234": {
            "filename": name,
            "size": 1234,
            "regions": [
                {
                    "shape_attributes": {
                        "name": "polygon",
                        "all_points_x": [a for a, _ in x.points],
                        "all_points_y": [b for _, b in x.points],
                    },
                    "region_attributes": {"label": x.label},
                }
                for x in drawn
                if x.picture == name
            ],
            "file_attributes": {},
        }
        for name in dict.fromkeys(x.picture for x in drawn)
    }
    return _json(path, {"_via_settings": {}, "_via_img_metadata": content, "_via_attributes": {}})


def labelbox(path: Path, drawn: list[Drawn], size: tuple[int, int]) -> Path:
    """Labelbox's NDJSON: one picture a line."""
    lines = [
        {
            "data_row": {"id": f"row{n}", "external_id": name},
            "media_attributes": {"width": size[0], "height": size[1]},
            "projects": {
                "p": {
                    "labels": [
                        {
                            "label_details": {
                                "created_by": "reader_a@example.org",
                                "updated_at": "2026-11-28T09:30:00.000+00:00",
                            },
                            "annotations": {
                                "objects": [
                                    {
                                        "name": x.label,
                                        "annotation_kind": "ImagePolygon",
                                        "polygon": [{"x": a, "y": b} for a, b in x.points],
                                    }
                                    for x in drawn
                                    if x.picture == name
                                ]
                            },
                        }
                    ]
                }
            },
        }
        for n, name in enumerate(dict.fromkeys(x.picture for x in drawn))
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return path


PROGRAMS = {
    "CVAT": (cvat, "annotations.xml"),
    "COCO": (coco, "instances.json"),
    "Label Studio": (label_studio, "project.json"),
    "VIA": (via, "via.json"),
    "Labelbox": (labelbox, "export.ndjson"),
}


def packed_brush(mask: np.ndarray) -> list[int]:
    """Label Studio's code of a painted mask (height, width): runs of at most 16 values, four for each pixel."""
    values = np.repeat((mask.ravel() * 255).astype(np.uint8), 4)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    for start in range(0, len(values), 8):
        part = values[start : start + 8]
        same = bool((part == part[0]).all())
        bits.append("1" if same else "0")
        bits.append("00" + f"{len(part) - 1:03b}")
        bits += [f"{x:08b}" for x in (part[:1] if same else part)]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[place : place + 8], 2) for place in range(0, len(text), 8)]


def _json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
