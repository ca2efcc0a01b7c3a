"""Two time points of a patient: which lesion is which, what changed, and the RECIST 1.1 category."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.base import require_settings
from voxmetry.core.geometry import Geometry
from voxmetry.core.labels import LabelTable
from voxmetry.core.records import Flag, Lesion
from voxmetry.core.records.follow_up import FollowUp, FollowUpSettings, LesionChange, RegistrationInfo
from voxmetry.core.segmentation import Segmentation
from voxmetry.core.volume import Volume
from voxmetry.errors import ConfigError, LabelError
from voxmetry.measurement import recist
from voxmetry.measurement.alignment import align
from voxmetry.measurement.definitions import FOLLOW_UP, MEASURED
from voxmetry.measurement.lesion_links import Links, link, places
from voxmetry.measurement.lesions import Component, lesions, ordered_components
from voxmetry.measurement.pairing import same_names
from voxmetry.ops.boxes import boxes_of
from voxmetry.ops.registration import Float64, inverse, transformed, within

COVERED_SHARE = 0.9
"""A lesion that is gone counts as gone only where so much of its place lies in the follow-up image."""


class TimePoint(NamedTuple):
    """One examination of a patient.

    Parameters
    ----------
    segmentation
        Its label map.
    image
        Its image on the same grid: for intensities, and to bring it together with another one.
    overview
        A coarser image of the same place, to bring the two together where the image itself is not at hand.
    """

    segmentation: Segmentation
    image: Volume | None = None
    overview: Volume | None = None


class _Side(NamedTuple):
    """The lesions of one time point: their records, and their voxels' places in the follow-up's space."""

    rows: tuple[Lesion, ...]
    components: tuple[Component, ...]
    geometry: Geometry


def follow_up(
    *,
    baseline: TimePoint,
    current: TimePoint,
    settings: FollowUpSettings = FollowUpSettings(),  # noqa: B008  (frozen)
    matrix_ras_mm: NDArray[np.float64] | None = None,
) -> FollowUp:
    """Hold two time points of a patient against each other, lesion by lesion.

    Sizes are measured on each time point's own grid; the registration only says which lesion is which.

    Parameters
    ----------
    baseline, current
        The earlier and the later one.
    settings
        Which structures are lesions and lymph nodes, which lesions are targets, how they are registered and matched.
    matrix_ras_mm
        (4, 4), takes a place at follow-up to the same place at baseline, where it is known; nothing is registered then.

    Returns
    -------
    FollowUp
        One `LesionChange` a lesion or group of lesions that merged or split, and the RECIST 1.1 category.

    Raises
    ------
    GeometryError
        If an image lies on another grid than its label map.
    InputError
        If a registration is needed and an image is missing, or cannot be registered.
    LabelError
        If no structure is a lesion, or a name or id is unknown.
    ConfigError
        If the targets break the rules of RECIST.

    Examples
    --------
    >>> from voxmetry import Geometry, LabelTable
    >>> grid = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), (40, 40, 10))
    >>> table = LabelTable.from_names({1: "tumour"}).with_kind("tumour", "lesion")
    >>> before, after = np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    >>> before[5:25, 5:25, 2:6] = after[5:17, 5:25, 2:6] = after[30:34, 5:9, 5] = 1
    >>> found = follow_up(
    ...     baseline=TimePoint(Segmentation(before, grid, table)),
    ...     current=TimePoint(Segmentation(after, grid, table)),
    ...     settings=FollowUpSettings(registration="none"),
    ... )
    >>> [(row.status, row.baseline_ids, round(row.volume_change_percent)) for row in found.changes[:1]]
    [('matched', ('tumour-1',), -40)]
    >>> found.changes[1].status, found.response.category
    ('new', 'SD')
    """
    require_settings(settings, FollowUpSettings)
    for point in (baseline, current):
        if point.image is not None:
            point.segmentation.geometry.require_same(point.image.geometry, what="segmentation and image")
    named, settings = _in_common(baseline.segmentation.labels, current.segmentation.labels, settings)
    tables = [_prepared(x, table) for x, table in zip((baseline, current), named, strict=True)]
    matrix, info = align(
        baseline=baseline.image or baseline.overview,
        current=current.image or current.overview,
        grids=(tables[0].geometry, tables[1].geometry),
        how=settings.registration,
        given=matrix_ras_mm,
        ignore=_any_lesion(tables[1]),
    )
    sides = [_side(table, point.image, settings) for table, point in zip(tables, (baseline, current), strict=True)]
    links = link(
        (sides[0].components, sides[1].components),
        (sides[0].geometry, sides[1].geometry),
        matrix,
        min_overlap=settings.min_overlap,
        max_distance_mm=settings.max_distance_mm,
    )
    geometry = sides[0].geometry
    if settings.targets is None:
        targets = recist.choose_targets(sides[0].rows, geometry, settings.nodes)
    else:
        targets = settings.targets
        recist.require_targets(targets, sides[0].rows, geometry, settings.nodes)
    changes = _changes(sides, links, matrix, targets, settings.nodes)
    response = recist.respond(
        changes,
        baseline={x.id: x for x in sides[0].rows},
        follow_up={x.id: x for x in sides[1].rows},
        grids=(geometry, sides[1].geometry),
        targets=targets,
        nodes=settings.nodes,
        nadir_mm=settings.nadir_mm,
    )
    return FollowUp(
        settings=settings,
        registration=info,
        baseline=sides[0].rows,
        follow_up=sides[1].rows,
        changes=changes,
        response=response,
        flags=_flags(info, changes, sides),
        definitions={**MEASURED, **FOLLOW_UP},
    )


def _prepared(point: TimePoint, table: LabelTable) -> Segmentation:
    """Give a time point's label map the table that both share, and the image's frame of reference."""
    geometry = point.segmentation.geometry
    if point.image is not None and point.image.geometry.frame_uid:
        geometry = dataclasses.replace(geometry, frame_uid=point.image.geometry.frame_uid)
    return Segmentation(point.segmentation.array, geometry, table)


def _in_common(
    baseline: LabelTable, current: LabelTable, settings: FollowUpSettings
) -> tuple[tuple[LabelTable, LabelTable], FollowUpSettings]:
    """Give what is one structure at both time points one name and one kind, and resolve the names in the settings.

    A structure that one time point's table does not know is neither gone nor new there: it is refused.
    """
    tables = same_names(baseline, current, settings.names)
    everything = list(dict.fromkeys(label.name for table in tables for label in table))
    of_kind = {label.name for table in tables for label in table if label.kind == "lesion"}
    lesions, nodes = (
        None if names is None else tuple(dict.fromkeys(_found(tables, name) for name in names))
        for names in (settings.lesions, settings.nodes)
    )
    chosen = lesions if lesions is not None else tuple(x for x in everything if x in of_kind)
    if not chosen:
        raise LabelError(
            found="no structure of kind 'lesion'",
            expected=f"one that is a lesion, of {', '.join(everything) or '(none)'}",
            fix="name the structures that are lesions: --lesion NAME, or lesions=(...) in Python",
        )
    unknown = [name for name in chosen if any(name not in table.names for table in tables)]
    if unknown:
        raise LabelError(
            found=f"structures that only one of the two time points knows: {', '.join(unknown)}",
            expected=f"the same lesions in both label tables; baseline has {', '.join(tables[0].names) or '(none)'}; "
            f"follow-up has {', '.join(tables[1].names) or '(none)'}",
            fix="say which is which: --map THEIRS=OURS (names={theirs: ours} in Python); of a lesion that is gone the "
            "label stays in the table, without voxels",
        )
    alone = [name for name in nodes or () if name not in chosen]
    if alone:
        raise ConfigError(
            found=f"lymph nodes {', '.join(alone)} that are no lesions",
            expected=f"some of {', '.join(chosen)}",
            fix="name them as lesions too",
        )
    marked = tuple(_marked(table, chosen) for table in tables)
    return (marked[0], marked[1]), settings.model_copy(update={"lesions": lesions, "nodes": nodes or ()})


def _found(tables: tuple[LabelTable, LabelTable], name: str) -> str:
    try:
        return tables[0].find(name).name
    except LabelError:
        return tables[1].find(name).name


def _marked(table: LabelTable, lesions: Sequence[str]) -> LabelTable:
    for name in lesions:
        table = table.with_kind(name, "lesion")
    return table


def _any_lesion(segmentation: Segmentation) -> Volume | None:
    values = [label.value for label in segmentation.labels if label.kind == "lesion"]
    mask = np.isin(segmentation.array, values)
    return Volume(mask.view(np.uint8), segmentation.geometry) if mask.any() else None


def _side(segmentation: Segmentation, image: Volume | None, settings: FollowUpSettings) -> _Side:
    chosen = [
        label
        for label in segmentation.labels
        if label.kind == "lesion" and (settings.lesions is None or label.name in settings.lesions)
    ]
    rows = lesions(
        segmentation,
        image,
        labels=[label.name for label in chosen],
        organs=segmentation,
        connectivity=settings.connectivity,
        min_volume_ml=settings.min_volume_ml,
    )
    boxes = boxes_of(segmentation)
    components = [
        part
        for label in chosen
        if label.value in boxes
        for part in ordered_components(
            segmentation, label, boxes[label.value], settings.connectivity, settings.min_volume_ml
        )
    ]
    return _Side(rows, tuple(components), segmentation.geometry)


def _changes(
    sides: Sequence[_Side], links: Links, matrix: Float64, targets: Sequence[str], nodes: Sequence[str]
) -> tuple[LesionChange, ...]:
    rows = []
    for group in links.groups:
        before = [sides[0].rows[place] for place in group.baseline]
        after = [sides[1].rows[place] for place in group.follow_up]
        status = _status(len(before), len(after))
        if status == "gone" and not _is_covered([sides[0].components[p] for p in group.baseline], sides, matrix):
            status = "not covered"
        is_target = any(x.id in targets for x in before)
        d0 = math.fsum(recist.diameter_mm(x, nodes) for x in before)
        d1 = math.fsum(recist.diameter_mm(x, nodes) for x in after)
        v0, v1 = (math.fsum(x.volume_ml for x in found) for found in (before, after))
        if status == "not covered":
            d1 = v1 = math.nan
        rows.append(
            LesionChange(
                label=(before or after)[0].label,
                status=status,
                rule=group.rule,
                baseline_ids=tuple(x.id for x in before),
                follow_up_ids=tuple(x.id for x in after),
                overlap=group.overlap,
                centroid_distance_mm=_apart(before, after, matrix),
                volume_baseline_ml=v0,
                volume_follow_up_ml=v1,
                volume_change_ml=v1 - v0,
                volume_change_percent=recist.percent(v1, v0),
                diameter_baseline_mm=d0,
                diameter_follow_up_mm=d1,
                diameter_change_mm=d1 - d0,
                diameter_change_percent=recist.percent(d1, d0),
                trend=_trend(d0, d1) if before and after else "",
                target=is_target,
                reason=_REASONS.get(status, ""),
            )
        )
    return tuple(rows)


_REASONS = {
    "new": "not at baseline: no change in percent, no distance",
    "gone": "not at follow-up: no distance",
    "not covered": "its place lies outside the follow-up image",
}


def _status(before: int, after: int) -> str:
    if not before or not after:
        return "new" if after else "gone"
    if before == after == 1:
        return "matched"
    return "split" if before == 1 else "merged" if after == 1 else "regrouped"


def _trend(before: float, after: float) -> str:
    grown = after - before
    if grown >= recist.PROGRESSION_MM and grown >= recist.PROGRESSION_SHARE * before:
        return "larger"
    return "smaller" if -grown >= recist.RESPONSE_SHARE * before else "stable"


def _apart(before: Sequence[Lesion], after: Sequence[Lesion], matrix: Float64) -> float:
    if not before or not after:
        return math.nan
    centres = [
        np.average([x.centroid_ras_mm for x in found], axis=0, weights=[x.volume_ml for x in found])
        for found in (before, after)
    ]
    return float(np.linalg.norm(transformed(centres[0], inverse(matrix)) - centres[1]))


def _is_covered(parts: Sequence[Component], sides: Sequence[_Side], matrix: Float64) -> bool:
    voxels = np.concatenate([places(part) for part in parts])
    there = transformed(sides[0].geometry.to_mm(voxels), inverse(matrix))
    return bool(within(there, sides[1].geometry).mean() >= COVERED_SHARE)


def _flags(info: RegistrationInfo, changes: Sequence[LesionChange], sides: Sequence[_Side]) -> tuple[Flag, ...]:
    flags = []
    if not info.ok:
        flags.append(Flag(code="registration", severity="review", message=f"look at the registration: {info.reason}"))
    lost = [name for row in changes if row.status == "not covered" for name in row.baseline_ids]
    if lost:
        flags.append(
            Flag(
                code="not_covered",
                severity="review",
                message=f"outside the follow-up image, so neither gone nor measured: {', '.join(lost)}",
            )
        )
    far = [row for row in changes if row.rule == "distance"]
    if far:
        names = ", ".join(f"{row.baseline_ids[0]} and {row.follow_up_ids[0]}" for row in far)
        flags.append(Flag(code="matched_by_distance", severity="note", message=f"paired by distance alone: {names}"))
    for side, when in zip(sides, ("baseline", "follow-up"), strict=True):
        cut = [x.id for x in side.rows if x.touches_border]
        if cut:
            message = f"cut off by the image's border at {when}: {', '.join(cut)}"
            flags.append(Flag(code="truncated", severity="review", message=message))
    return tuple(flags)
