"""The plan of a report's pictures: which structures have some, in which order, with which words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from voxmetry.core.base import Record
from voxmetry.core.records import Comparison, Measurement, StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.report.panels import Panel, Structure, find_structures, overview_panels, structure_panels
from voxmetry.report.text import clean, count, decimals, intensity_places, millilitres, millimetres, ratio, unit_name
from voxmetry.report.window import Window

MOST_STRUCTURES = 12
"""Structures that have pictures of their own; with more, a page would be slow to open and tiring to read."""
MOST_KEYS = 12
"""Structures that are named beside the overview; with more, their colours repeat and a key would mislead."""


class Key(Record):
    """A colour of an outline and what it stands for."""

    label: str
    colour: str


class Picture(Record):
    """One panel with the words that belong to it."""

    panel: Panel
    caption: str
    alt: str


class Illustration(Record):
    """The pictures of one structure, or of all together."""

    id: str
    title: str
    label: str | None
    colour: str = ""
    caption: str
    keys: tuple[Key, ...] = ()
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Illustrations:
    """All pictures of a report, and the names of the structures that have none of their own."""

    illustrations: tuple[Illustration, ...]
    left_out: tuple[str, ...]


def illustrate(
    result: StudyResult, volume: Volume, segmentation: Segmentation, reference: Segmentation | None
) -> Illustrations:
    """Plan the overview and the pictures of up to `MOST_STRUCTURES` structures, in the order of the table.

    A structure that only the reference holds is shown where the reference has it.
    """
    present = find_structures(segmentation)
    places = {**(find_structures(reference) if reference is not None else {}), **present}
    measured = [m for m in result.measurements if m.value in places]
    ranked = sorted(measured, key=lambda m: _rank(m, result))
    chosen = {m.value for m in ranked[:MOST_STRUCTURES]}
    overview = _overview(result, volume, places, reference)
    usual_window = overview.pictures[0].panel.window
    made = [overview]
    for m in measured:
        if m.value in chosen:
            made.append(_one(result, volume, m, places[m.value], reference, usual_window))
    left_out = tuple(m.label for m in measured if m.value not in chosen)
    return Illustrations(tuple(made), left_out)


def _rank(m: Measurement, result: StudyResult) -> tuple[bool, bool, bool, float, float]:
    review = any(flag.label == m.label and flag.severity == "review" for flag in result.flags)
    comparison = _comparison(result, m)
    wrong = comparison is not None and comparison.status in ("missed", "extra")
    dice = comparison.dice if comparison is not None and math.isfinite(comparison.dice) else 2.0
    return (not review, not wrong, m.kind != "lesion", dice, -m.volume_ml)


def _overview(
    result: StudyResult, volume: Volume, places: dict[int, Structure], reference: Segmentation | None
) -> Illustration:
    panels = overview_panels(volume, places)
    labels = [label for label in result.labels if label.value in places]
    if labels:
        what = count(len(labels), "outlined structure")
        caption = "The slices that together show most of all structures. "
    else:
        what = "no structure"
        caption = "No structure was found; the middle of the image is shown. "
    if len(labels) > MOST_KEYS:
        caption += "Colours repeat: neighbours are best told apart in the pictures of each structure. "
    caption += _lines(reference) + _window(panels[0].window, volume)
    return Illustration(
        id="overview",
        title="All structures",
        label=None,
        caption=caption,
        keys=_keys(result, labels_shown=places) if len(labels) <= MOST_KEYS else (),
        pictures=tuple(_picture(panel, f"with {what}", reference) for panel in panels),
    )


def _keys(result: StudyResult, *, labels_shown: dict[int, Structure]) -> tuple[Key, ...]:
    shown = (label for label in result.labels if label.value in labels_shown)
    return tuple(Key(label=clean(label.name), colour=label.colour) for label in shown)


def _one(
    result: StudyResult,
    volume: Volume,
    m: Measurement,
    place: Structure,
    reference: Segmentation | None,
    usual_window: Window,
) -> Illustration:
    panels = structure_panels(volume, place, median=m.intensity_median)
    name = clean(m.label)
    comparison = _comparison(result, m)
    if m.n_voxels:
        numbers = f"{millilitres(m.volume_ml)} mL"
        extents = {
            "right–left": m.extent_rl_mm,
            "anterior–posterior": m.extent_ap_mm,
            "superior–inferior": m.extent_si_mm,
        }
        caption = f"{numbers}; " + ", ".join(f"{millimetres(x)} mm {way}" for way, x in extents.items()) + ". "
    else:
        caption, numbers = "Missed: only the reference holds it. ", "0.00 mL, missed"
    if comparison is not None:
        if comparison.status == "extra":
            caption += "Extra: the reference does not hold it. "
        elif math.isfinite(comparison.dice):
            caption += f"Dice {ratio(comparison.dice)}. "
            numbers += f", Dice {ratio(comparison.dice)}"
    if panels[0].window != usual_window:
        caption += _window(panels[0].window, volume)
    return Illustration(
        id=f"structure-{m.value}",
        title=name,
        label=name,
        colour=result.labels.by_value(m.value).colour,
        caption=caption.strip(),
        pictures=tuple(_picture(panel, f"through {name} ({numbers})", reference) for panel in panels),
    )


def _picture(panel: Panel, what: str, reference: Segmentation | None) -> Picture:
    where = f"slice {panel.index + 1} of {panel.n_slices}"
    turned = {
        "axial": "Patient right on the left, anterior on top",
        "coronal": "Patient right on the left, superior on top",
        "sagittal": "Anterior on the left, superior on top",
    }[panel.plane]
    dashed = ", the reference dashed" if reference is not None else ""
    plane = panel.plane.capitalize()
    return Picture(panel=panel, caption=f"{plane}, {where}", alt=f"{plane} {where} {what}, outlined{dashed}. {turned}.")


def _lines(reference: Segmentation | None) -> str:
    return "Solid: segmentation; dashed white: reference. " if reference is not None else ""


def _window(window: Window, volume: Volume) -> str:
    places = intensity_places(window, volume.unit, significant=3)
    low, high = (decimals(x, places) for x in window)
    return f"Black to white: {low} to {high} {unit_name(volume.unit)}."


def _comparison(result: StudyResult, m: Measurement) -> Comparison | None:
    return next((c for c in result.comparisons if c.value == m.value), None)
