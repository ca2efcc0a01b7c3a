"""What a report draws from arrays, apart from what it says: pictures and the viewer's scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from voxmetry.core.records import StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.comparison.pictures import render_error
from voxmetry.report.instances import drawn_result, numbers_of
from voxmetry.report.pictures.figures import render_png
from voxmetry.report.pictures.fusion import render_fused, render_projection
from voxmetry.report.pictures.plan import PicturePlan, Planned
from voxmetry.report.pictures.planning import plan_pictures, require_one_grid
from voxmetry.report.viewer import Scene, build_scene

FEW_PANELS = 12
"""Up to this many pictures are drawn at full size; more are drawn smaller, so that a page stays small."""
FULL_PIXELS, SMALL_PIXELS = 520, 336


@dataclass(frozen=True)
class Material:
    """Pictures by the id of their plan and their place in it, as PNG files; the scene of the viewer."""

    plan: PicturePlan
    pictures: Mapping[tuple[str, int], bytes]
    scene: Scene | None


def draw(
    result: StudyResult,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    others: Sequence[Volume] = (),
    *,
    apart: Segmentation | None = None,
) -> Material:
    """Plan and draw the pictures of a report, and reduce the image and the further ones for its viewer.

    `apart` is the label map of `drawn_segmentation`, in which each instance has a value of its own; None where there
    are no instances.

    Raises
    ------
    GeometryError
        If the image, the segmentation, the reference and the result are not of one grid.
    """
    require_one_grid(result, volume, segmentation, reference)
    shown, drawn = (drawn_result(result), apart) if apart is not None else (result, segmentation)
    numbers, whole = (numbers_of(result), segmentation) if apart is not None else ({}, None)
    plan = plan_pictures(shown, volume, drawn, reference, others, whole=whole, numbers=numbers)
    n = sum(len(planned.panels) for planned in plan.pictures)
    pixels = FULL_PIXELS if n <= FEW_PANELS else SMALL_PIXELS
    pictures = {}
    # The scene is packed while pictures are drawn: each leaves the other half of its time.
    with ThreadPoolExecutor(1) as pool:
        scene = pool.submit(build_scene, shown, volume, drawn, others)
        for planned in plan.pictures:
            size = FULL_PIXELS if planned.kind in ("overview", "fusion", "projection") else pixels
            for place in range(len(planned.panels)):
                outlined = segmentation if planned.kind == "error" else drawn
                pictures[planned.id, place] = _draw(planned, place, volume, outlined, reference, others, size)
        return Material(plan, pictures, scene.result())


def _draw(
    planned: Planned,
    place: int,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None,
    others: Sequence[Volume],
    pixels: int,
) -> bytes:
    panel = planned.panels[place]
    if planned.kind == "fusion":
        return render_fused(panel, volume, segmentation, others[0], pixels=pixels)
    if planned.kind == "projection":
        return render_projection(panel, others[0], segmentation, pixels=pixels)
    if planned.kind == "error" and reference is not None:
        ours, theirs = segmentation.array == planned.value, reference.array == planned.value
        return render_error(panel, ours, theirs, volume.geometry, volume, pixels=pixels)
    return render_png(panel, volume, segmentation, reference, pixels=pixels)
