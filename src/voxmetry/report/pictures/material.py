"""What a report draws from arrays, apart from what it says: pictures, the viewer's scene, the image's grid.

A report that was written holds its own material, so that it can be written again in another language or as a PDF
without the image.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from pydantic import ValidationError

from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import FormatError, InputError
from voxmetry.report.comparison.pictures import render_error
from voxmetry.report.pictures.figures import render_png
from voxmetry.report.pictures.plan import Plan, Planned
from voxmetry.report.pictures.planning import plan_pictures, require_one_grid
from voxmetry.report.viewer import Scene, build_scene

FEW_PANELS = 12
"""Up to this many pictures are drawn at full size; more are drawn smaller, so that a page stays small."""
FULL_PIXELS, SMALL_PIXELS = 520, 336

PLAN, SCENE, IMAGE, LABELS, MESH, OVERLAY = (
    "plan",
    "scene",
    "scene-image",
    "scene-labels",
    "scene-mesh",
    "scene-overlay",
)
"""Ids of the page's blocks of data."""


@dataclass(frozen=True)
class Material:
    """Pictures by the id of their plan and their place in it, as PNG files; the scene of the viewer."""

    plan: Plan
    pictures: Mapping[tuple[str, int], bytes]
    scene: Scene | None


def draw(
    result: StudyResult,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    others: Sequence[Volume] = (),
) -> Material:
    """Plan and draw the pictures of a report, and reduce the image and the further ones for its viewer.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    """
    require_one_grid(result, volume, segmentation, reference)
    plan = plan_pictures(result, volume, segmentation, reference)
    n = sum(len(planned.panels) for planned in plan.pictures)
    pixels = FULL_PIXELS if n <= FEW_PANELS else SMALL_PIXELS
    pictures = {}
    # The scene is packed while pictures are drawn: each leaves the other half of its time.
    with ThreadPoolExecutor(1) as pool:
        scene = pool.submit(build_scene, result, volume, segmentation, others)
        for planned in plan.pictures:
            size = FULL_PIXELS if planned.kind == "overview" else pixels
            for place in range(len(planned.panels)):
                pictures[planned.id, place] = _draw(planned, place, volume, segmentation, reference, size)
        return Material(plan, pictures, scene.result())


def _draw(
    planned: Planned,
    place: int,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None,
    pixels: int,
) -> bytes:
    panel = planned.panels[place]
    if planned.kind == "error" and reference is not None:
        ours, theirs = segmentation.array == planned.value, reference.array == planned.value
        return render_error(panel, ours, theirs, volume.geometry, volume, pixels=pixels)
    return render_png(panel, volume, segmentation, reference, pixels=pixels)


def read_material(path: Path | str) -> Material:
    """Take the material out of a report that was written before.

    Parameters
    ----------
    path
        A `report.html` of this software.

    Raises
    ------
    InputError
        If the file is not there.
    FormatError
        If it holds no material, as a report of an earlier version.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            found=f"{path.name} cannot be read",
            expected="the report.html of the run, whose pictures are used again",
            fix="name the folder of a run, or pass --image STUDY to draw the pictures anew",
        ) from error
    page = _Page()
    page.feed(text)
    page.close()
    try:
        plan = Plan.model_validate_json(page.blocks[PLAN])
        pictures = {
            (planned.id, place): page.pictures[f"{planned.id}/{place}"]
            for planned in plan.pictures
            for place in range(len(planned.panels))
        }
        scene = _scene(page.blocks) if SCENE in page.blocks else None
    except (KeyError, ValueError, ValidationError) as error:
        raise FormatError(
            found=f"{path.name} without the pictures of this version of the report",
            expected="a report.html that this version of voxmetry wrote",
            fix="pass --image STUDY to draw the pictures anew, or run voxmetry segment again",
        ) from error
    return Material(plan, pictures, scene)


def _scene(blocks: Mapping[str, str]) -> Scene:
    parts = {"image": blocks[IMAGE], "labels": blocks[LABELS], "mesh": blocks[MESH]}
    small = json.loads(blocks[SCENE])
    if small.get("overlay"):
        small["overlay"]["image"] = blocks[OVERLAY].strip()
    return Scene.model_validate({**small, **{name: part.strip() for name, part in parts.items()}})


class _Page(HTMLParser):
    """The blocks of data of a page and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks: dict[str, str] = {}
        self.pictures: dict[str, bytes] = {}
        self._open: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self._open = given.get("id")
        name, source = given.get("data-picture"), given.get("src")
        if tag == "img" and name and source:
            self.pictures[name] = base64.b64decode(source.partition(",")[2])

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  (as HTMLParser calls it)
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.blocks[self._open] = self.blocks.get(self._open, "") + data
