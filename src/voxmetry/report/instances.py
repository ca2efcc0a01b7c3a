"""Instances in a report: each is drawn as a structure of its own, and has a row and a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from voxmetry.core.instances import UNCERTAIN, InstanceSegmentation
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Detection, InstanceMeasurement, Lesion, Part, StudyResult
from voxmetry.core.segmentation import Segmentation
from voxmetry.io.instances import own_labels
from voxmetry.ops.instances import each_its_own, values_beside
from voxmetry.report.language import ENGLISH, Language
from voxmetry.report.lesions import MOST_ROWS, part_table
from voxmetry.report.tables import Table

_BY = {
    "network": "by the network",
    "components": "by connected components",
    "watershed": "by watershed",
}


def drawn_result(result: StudyResult) -> StudyResult:
    """Return what pictures and viewer are drawn from: each instance in place of its structure.

    Its labels have the instances beside the structures, with the values and colours of `drawn_segmentation`; its
    lesions are those of structures without instances, and then the instances.
    """
    if not result.instances:
        return result
    rows = result.instances
    values = values_beside(result.labels, len(rows))
    own = own_labels(result.labels, detections(rows), [row.id for row in rows], values)
    fields = [{name: getattr(row, name) for name in Part.model_fields} for row in rows]
    parts = [Lesion(**{**mine, "value": value}) for mine, value in zip(fields, values, strict=True)]
    return result.model_copy(
        update={
            "labels": LabelTable(labels=(*result.labels, *own)),
            "lesions": (*_untold(result), *parts),
        }
    )


def drawn_segmentation(
    result: StudyResult, segmentation: Segmentation, instances: InstanceSegmentation | None
) -> Segmentation:
    """Return the label map with a value of its own for each instance, which goes with `drawn_result`."""
    if instances is None or not result.instances:
        return segmentation
    return each_its_own(segmentation, instances, {row.instance: row.id for row in result.instances})


def detections(rows: Sequence[InstanceMeasurement]) -> list[Detection]:
    """Return the rows of an instance map that belong to the rows of a result."""
    return [
        Detection(
            value=row.instance,
            label=row.label,
            score=row.score,
            box_ras_mm=(row.box_low_ras_mm, row.box_high_ras_mm),
        )
        for row in rows
    ]


def _untold(result: StudyResult) -> tuple[Lesion, ...]:
    told = {row.label for row in result.instances}
    return tuple(row for row in result.lesions if row.label not in told)


def without_told(result: StudyResult) -> StudyResult:
    """Return the result without the lesions of structures whose instances are listed instead."""
    return result.model_copy(update={"lesions": _untold(result)})


def instance_table(result: StudyResult, say: Language = ENGLISH) -> Table | None:
    """One row an instance, with its number; None where there is none."""
    rows = result.instances
    if not rows:
        return None
    drawn = drawn_result(result)
    colours = {label.name: label.colour for label in drawn.labels}
    first = len(drawn.lesions) - len(rows) + 1
    scores = {row.id: say.decimals(row.score, 2) for row in rows} if any(map(_scored, rows)) else {}
    plane = ", ".join(say(name.capitalize()).lower() for name in dict.fromkeys(row.plane for row in rows))
    how = say(_BY[result.instances_by]) if result.instances_by else ""
    if len(rows) > MOST_ROWS:
        words = "The first {rows} of {n} instances, told apart {how}; axes in one slice (RECIST 1.1), {plane}"
        caption = say(words, rows=MOST_ROWS, n=len(rows), how=how, plane=plane)
    else:
        caption = say.count(
            len(rows),
            "{n} instance, told apart {how}; axes in one slice (RECIST 1.1), {plane}",
            "{n} instances, told apart {how}; axes in one slice (RECIST 1.1), {plane}",
            how=how,
            plane=plane,
        )
    numbered = [(f"lesion-{first + place}", row) for place, row in enumerate(rows)]
    uncertain = {row.id for row in rows if row.score < UNCERTAIN}
    table = part_table(numbered, colours, say, scores=scores, uncertain=uncertain)
    return replace(table, id="instance-table", caption=caption, head=say("Instance"))


def _scored(row: InstanceMeasurement) -> bool:
    return math.isfinite(row.score)


def numbers_of(result: StudyResult) -> dict[int, str]:
    """Return the number that stands in each instance of a picture, by its value in the drawn label map."""
    values = values_beside(result.labels, len(result.instances))
    return {value: row.id.rpartition("-")[2] for value, row in zip(values, result.instances, strict=True)}


def instances_said(result: StudyResult, say: Language = ENGLISH) -> str:
    """Say how many instances there are; empty where nothing was told apart."""
    if not result.instances_by:
        return ""
    how = say(_BY[result.instances_by])
    if not result.instances:
        return say("No instance was found.")
    return say.count(
        len(result.instances), "{n} instance, told apart {how}.", "{n} instances, told apart {how}.", how=how
    )
