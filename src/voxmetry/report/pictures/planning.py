"""Choose the pictures of a report: through which slices, in which window, of which structures and lesions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from voxmetry.core.geometry import Geometry
from voxmetry.core.memory import is_mapped
from voxmetry.core.records import Comparison, Lesion, Measurement, StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import GeometryError
from voxmetry.report.comparison.pictures import error_panels
from voxmetry.report.pictures.fusion import projection_panels
from voxmetry.report.pictures.panels import (
    MARGIN_MM,
    Panel,
    Structure,
    find_structures,
    overview_panels,
    structure_panels,
)
from voxmetry.report.pictures.plan import MOST_ERRORS, MOST_LESIONS, MOST_STRUCTURES, PicturePlan, Planned
from voxmetry.report.pictures.planes import PLANES, View, plane_of, square_view
from voxmetry.report.pictures.window import display_window


def require_one_grid(
    result: StudyResult, volume: Volume, segmentation: Segmentation, reference: Segmentation | None
) -> None:
    """See that the image, its labels, the reference and the result belong together.

    Raises
    ------
    GeometryError
        If they do not.
    """
    volume.geometry.require_same(segmentation.geometry, what="the image and its segmentation")
    if reference is not None:
        volume.geometry.require_same(reference.geometry, what="the image and the reference")
    if tuple(result.source.shape) != volume.geometry.shape:
        raise GeometryError(
            found=f"a result of a study of shape {tuple(result.source.shape)} and an image of {volume.geometry.shape}",
            expected="the image that the result was measured on",
            fix="pass the image and the segmentation of the same run as the result",
        )


def plan_pictures(
    result: StudyResult,
    volume: Volume,
    segmentation: Segmentation,
    reference: Segmentation | None = None,
    others: Sequence[Volume] = (),
    *,
    whole: Segmentation | None = None,
    numbers: Mapping[int, str] | None = None,
) -> PicturePlan:
    """Plan the overview, the pictures of up to `MOST_STRUCTURES` structures and `MOST_LESIONS` lesions, and the errors.

    A structure that only the reference holds is shown where the reference has it.

    Parameters
    ----------
    result
        What was measured.
    volume
        The image, (I, J, K).
    segmentation
        The labels that were measured, on the image's grid.
    reference
        The labels that they were compared with, on the same grid, with the same label values.
    others
        The further images of `result.others`: the first one, where it is a PET, is shown over the image and projected.
    whole
        The labels that were compared with the reference, where `segmentation` has instances in place of structures.
    numbers
        What is written inside of values in the overview: the numbers of instances.
    """
    present = find_structures(segmentation)
    places = {**(find_structures(reference) if reference is not None else {}), **present}
    measured = [m for m in result.measurements if m.value in places]
    chosen = {m.value for m in sorted(measured, key=lambda m: _rank(m, result))[:MOST_STRUCTURES]}
    named = tuple((numbers or {}).items())
    panels = tuple(replace(panel, numbers=named) for panel in overview_panels(volume, places))
    made = [Planned(id="overview", kind="overview", panels=panels)]
    made += _uptake(volume, places, others)
    alone = [lesion.value for lesion in result.lesions]
    for m in measured:
        # A structure of one lesion is that lesion: its pictures would be the same again.
        if m.value in chosen and alone.count(m.value) != 1:
            panels = structure_panels(volume, places[m.value], median=m.intensity_median)
            made.append(Planned(id=f"structure-{m.value}", kind="structure", value=m.value, panels=panels))
    large = sorted(range(len(result.lesions)), key=lambda n: -result.lesions[n].volume_ml)[:MOST_LESIONS]
    for n in sorted(large):
        lesion = result.lesions[n]
        panels = lesion_panels(volume, lesion)
        made.append(Planned(id=f"lesion-{n + 1}", kind="lesion", value=lesion.value, lesion=lesion.id, panels=panels))
    if reference is not None:
        made += _errors(result, volume, whole or segmentation, reference)
    return PicturePlan(
        extent_mm=volume.geometry.extent_mm,
        oblique_degrees=volume.geometry.obliqueness_degrees,
        present=tuple(places),
        compared=reference is not None,
        pictures=tuple(made),
        left_out=tuple(m.label for m in measured if m.value not in chosen),
        lesions_left_out=len(result.lesions) - len(large),
        apart=whole is not None,
    )


def _uptake(volume: Volume, places: Mapping[int, Structure], others: Sequence[Volume]) -> list[Planned]:
    """Plan the pictures of a PET: over the image through the same slices as the overview, and from front and side."""
    if not others or others[0].unit != "SUVbw":
        return []
    return [
        Planned(id="fusion", kind="fusion", panels=overview_panels(volume, places)),
        Planned(id="projection", kind="projection", panels=projection_panels(others[0])),
    ]


def _rank(m: Measurement, result: StudyResult) -> tuple[bool, bool, bool, float, float]:
    review = any(flag.label == m.label and flag.severity != "note" for flag in result.flags)
    comparison = comparison_of(result, m.value)
    wrong = comparison is not None and comparison.status in ("missed", "extra")
    dice = comparison.dice if comparison is not None and math.isfinite(comparison.dice) else 2.0
    return (not review, not wrong, m.kind != "lesion", dice, -m.volume_ml)


def comparison_of(result: StudyResult, value: int) -> Comparison | None:
    """Return how a structure was compared, or None."""
    return next((c for c in result.comparisons if c.value == value), None)


def lesion_panels(volume: Volume, lesion: Lesion) -> tuple[Panel, ...]:
    """Three slices through a lesion: the one that its axes were measured in, and two across it through its middle.

    The long and the short axis are drawn on the first.
    """
    geometry = volume.geometry
    axes = (lesion.long_axis_ends_ras_mm, lesion.short_axis_ends_ras_mm)
    middle = np.mean(lesion.long_axis_ends_ras_mm, axis=0)
    seen = max(lesion.max_diameter_mm, lesion.long_axis_mm)
    window = display_window(volume, lesion.intensity_median)
    panels = []
    for name in PLANES:
        plane = plane_of(geometry, name)
        in_slice = plane.normal == lesion.slice_axis
        centre = middle if in_slice else np.array(lesion.centroid_ras_mm)
        ijk = _voxel(geometry, centre)
        index = lesion.slice_index if in_slice else round(float(ijk[plane.normal]))
        x, y = plane.point_mm(ijk)
        bounds: View = (x - seen / 2, x + seen / 2, y - seen / 2, y + seen / 2)
        panels.append(
            Panel(
                plane=name,
                index=min(max(index, 0), geometry.shape[plane.normal] - 1),
                n_slices=geometry.shape[plane.normal],
                view_mm=square_view(plane, bounds, margin_mm=MARGIN_MM, least_mm=3 * MARGIN_MM),
                window=window,
                values=(lesion.value,),
                axes=axes if in_slice else (),
            )
        )
    return tuple(panels)


def _voxel(geometry: Geometry, point: np.ndarray) -> np.ndarray:
    """Return a position in mm as (fractional) indices."""
    voxel: np.ndarray = np.linalg.solve(geometry.affine, np.append(point, 1.0))[:3]
    return voxel


def _errors(result: StudyResult, volume: Volume, segmentation: Segmentation, reference: Segmentation) -> list[Planned]:
    """Plan the slices with the most wrong voxels of the structures that were segmented worst.

    They take masks of the whole grid, for which there is no memory where a label map lies in a file.
    """
    if is_mapped(segmentation.array) or is_mapped(reference.array):
        return []
    wrong = [c for c in result.comparisons if c.status != "absent" and c.dice != 1]
    worst = sorted(wrong, key=lambda c: c.dice if math.isfinite(c.dice) else 0.0)[:MOST_ERRORS]
    made = []
    for c in worst:
        panels = error_panels(segmentation.array == c.value, reference.array == c.value, volume.geometry, volume)
        made.append(Planned(id=f"error-{c.value}", kind="error", value=c.value, panels=panels))
    return made
