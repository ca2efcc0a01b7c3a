"""The words of a report's pictures: titles, captions, and what each shows for who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from voxmetry.core.labels import Label
from voxmetry.core.records import Comparison, Lesion, Measurement, StudyResult
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.pictures.panels import Panel
from voxmetry.report.pictures.plan import PicturePlan, Planned
from voxmetry.report.pictures.window import Window
from voxmetry.report.text import clean, intensity_places, unit_name

MOST_KEYS = 12
"""Structures that are named beside the overview; with more, their colours repeat and a key would mislead."""

_PLANES = {"axial": "Axial", "coronal": "Coronal", "sagittal": "Sagittal"}
_TURNED = {
    "axial": "Patient right on the left, anterior on top",
    "coronal": "Patient right on the left, superior on top",
    "sagittal": "Anterior on the left, superior on top",
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """A colour of an outline and what it stands for."""

    label: str
    colour: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One panel with the words that belong to it."""

    panel: Panel
    caption: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Illustration:
    """The pictures of one structure or lesion, or of all together."""

    id: str
    kind: str
    title: str
    label: str | None
    colour: str = ""
    caption: str
    keys: tuple[Key, ...] = ()
    pictures: tuple[Picture, ...]


def illustrate(plan: PicturePlan, result: StudyResult, say: Language = ENGLISH) -> tuple[Illustration, ...]:
    """Put words to the pictures of a plan, in the plan's order."""
    usual_window = plan.pictures[0].panels[0].window if plan.pictures else (0.0, 0.0)
    made = []
    for planned in plan.pictures:
        if planned.kind == "overview":
            made.append(_overview(planned, plan, result, say))
        elif planned.kind in ("fusion", "projection"):
            made.append(_of_uptake(planned, result, say))
        elif planned.kind == "structure":
            made.append(_structure(planned, plan, result, usual_window, say))
        elif planned.kind == "lesion":
            made.append(_lesion(planned, plan, result, usual_window, say))
        else:
            made.append(_error(planned, result, say))
    return tuple(made)


def _overview(planned: Planned, plan: PicturePlan, result: StudyResult, say: Language) -> Illustration:
    labels = [label for label in result.labels if label.value in plan.present]
    if labels:
        what = say.count(len(labels), "with {n} outlined structure", "with {n} outlined structures")
        caption = [say("The slices that together show most of all structures.")]
    else:
        what = say("with no structure")
        caption = [say("No structure was found; the middle of the image is shown.")]
    if len(labels) > MOST_KEYS:
        caption.append(say("Colours repeat: neighbours are best told apart in the pictures of each structure."))
    if plan.compared:
        caption.append(say("Solid: segmentation; dashed white: reference."))
    caption.append(_window(planned.panels[0].window, result, say))
    return Illustration(
        id=planned.id,
        kind=planned.kind,
        title=say("All structures"),
        label=None,
        caption=" ".join(caption),
        keys=_keys(labels) if len(labels) <= MOST_KEYS else (),
        pictures=_pictures(planned.panels, what, say, dashed=plan.compared),
    )


def _of_uptake(planned: Planned, result: StudyResult, say: Language) -> Illustration:
    other = result.others[0]
    name = clean(other.name).upper()
    labels = [label for label in result.labels if any(m.value == label.value for m in other.measurements)]
    top = say.decimals(planned.panels[0].window[1], 1)
    if planned.kind == "fusion":
        title = say("{name} over the image", name=name)
        caption = say(
            "The slices that together show most of all structures, with uptake in colour; outlined: the segmentation."
        )
        what = say("with uptake of {name} in colour", name=name)
        pictures = _pictures(planned.panels, what, say, dashed=False)
    else:
        title = say("{name}: largest value along each line of sight", name=name)
        caption = say(
            "From the front and from the side. White to black: 0 to {top} SUV; outlined: the segmentation.", top=top
        )
        views = (say("From the front"), say("From the side"))
        pictures = tuple(
            Picture(
                panel=panel,
                caption=view,
                alt=f"{view}: {title}, " + say("outlined") + f". {say(_TURNED[panel.plane])}.",
            )
            for panel, view in zip(planned.panels, views, strict=True)
        )
    return Illustration(
        id=planned.id,
        kind=planned.kind,
        title=title,
        label=None,
        caption=caption,
        keys=_keys(labels) if len(labels) <= MOST_KEYS else (),
        pictures=pictures,
    )


def _keys(labels: Sequence[Label]) -> tuple[Key, ...]:
    return tuple(Key(label=clean(label.name), colour=label.colour) for label in labels)


def _structure(
    planned: Planned, plan: PicturePlan, result: StudyResult, usual_window: Window, say: Language
) -> Illustration:
    m = next(m for m in result.measurements if m.value == planned.value)
    comparison = next((c for c in result.comparisons if c.value == m.value), None)
    caption, numbers = _size(m, comparison, say)
    if planned.panels[0].window != usual_window:
        caption.append(_window(planned.panels[0].window, result, say))
    return _illustration(planned, m.label, result.labels.by_value(m.value).colour, caption, numbers, plan, say)


def _illustration(
    planned: Planned, title: str, colour: str, caption: list[str], numbers: str, plan: PicturePlan, say: Language
) -> Illustration:
    name = clean(title)
    through = say("through {name} ({numbers})", name=name, numbers=numbers)
    return Illustration(
        id=planned.id,
        kind=planned.kind,
        title=name,
        label=name,
        colour=colour,
        caption=" ".join(caption),
        pictures=_pictures(planned.panels, through, say, dashed=plan.compared),
    )


def _size(m: Measurement, comparison: Comparison | None, say: Language) -> tuple[list[str], str]:
    if m.n_voxels:
        numbers = f"{say.millilitres(m.volume_ml)} mL"
        sizes = say(
            "{rl} mm right–left, {ap} mm anterior–posterior, {si} mm superior–inferior",
            rl=say.millimetres(m.extent_rl_mm),
            ap=say.millimetres(m.extent_ap_mm),
            si=say.millimetres(m.extent_si_mm),
        )
        caption = [f"{numbers}; {sizes}."]
    else:
        caption, numbers = [say("Missed: only the reference holds it.")], say("{ml} mL, missed", ml=say.millilitres(0))
    if comparison is not None:
        if comparison.status == "extra":
            caption.append(say("Extra: the reference does not hold it."))
        elif math.isfinite(comparison.dice):
            caption.append(f"Dice {say.ratio(comparison.dice)}.")
            numbers += f", Dice {say.ratio(comparison.dice)}"
    return caption, numbers


def _lesion(
    planned: Planned, plan: PicturePlan, result: StudyResult, usual_window: Window, say: Language
) -> Illustration:
    lesion = next(x for x in result.lesions if x.id == planned.lesion)
    numbers = f"{say.millilitres(lesion.volume_ml)} mL"
    caption = [f"{numbers}; {axes_in_words(lesion, say)}."]
    if planned.panels[0].window != usual_window:
        caption.append(_window(planned.panels[0].window, result, say))
    return _illustration(planned, lesion.id, result.labels.by_value(lesion.value).colour, caption, numbers, plan, say)


def axes_in_words(lesion: Lesion, say: Language) -> str:
    """Say how long and how wide a lesion is, as RECIST 1.1 measures, and on which slice."""
    return say(
        "long axis {long} mm, short axis {short} mm on slice {slice}",
        long=say.millimetres(lesion.long_axis_mm),
        short=say.millimetres(lesion.short_axis_mm),
        slice=lesion.slice_index + 1,
    )


def _error(planned: Planned, result: StudyResult, say: Language) -> Illustration:
    c = next(c for c in result.comparisons if c.value == planned.value)
    name = clean(c.label)
    return Illustration(
        id=planned.id,
        kind=planned.kind,
        title=say("Error of {name}", name=name),
        label=name,
        colour=result.labels.by_value(c.value).colour,
        caption=say(
            "The slices with the most wrong voxels. Grey: in both; blue: only in the reference; orange: only in the "
            "segmentation. Dice {dice}.",
            dice=say.ratio(c.dice),
        ),
        pictures=_pictures(planned.panels, say("with the error of {name}", name=name), say, dashed=True),
    )


def _pictures(panels: Sequence[Panel], what: str, say: Language, *, dashed: bool) -> tuple[Picture, ...]:
    return tuple(_picture(panel, what, say, dashed=dashed) for panel in panels)


def _picture(panel: Panel, what: str, say: Language, *, dashed: bool) -> Picture:
    plane = say(_PLANES[panel.plane])
    where = say("slice {slice} of {n}", slice=panel.index + 1, n=panel.n_slices)
    lined = say("outlined, the reference dashed") if dashed else say("outlined")
    if panel.axes:
        lined += ", " + say("with its long and short axis")
    return Picture(
        panel=panel,
        caption=f"{plane}, {where}",
        alt=f"{plane} {where} {what}, {lined}. {say(_TURNED[panel.plane])}.",
    )


def _window(window: Window, result: StudyResult, say: Language) -> str:
    unit = result.source.unit
    places = intensity_places(window, unit, significant=3)
    low, high = (say.decimals(x, places) for x in window)
    return say("Black to white: {low} to {high} {unit}.", low=low, high=high, unit=say(unit_name(unit)))
