"""Panoptic quality: things counted by their parts and stuff as wholes, over one case or many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import InstanceMatching, PanopticQuality
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measurement.instances import Connectivity, Rule, label_map, match_instances, tally, told_apart_in
from voxmetry.measurement.overlap import Overlap, overlaps
from voxmetry.measurement.pairing import Match, Pair, chosen_pairs, pair_labels
from voxmetry.measurement.part_overlaps import HitRules

STUFF_IOU = 0.5
"""Stuff is matched above this IoU, as in the definition of panoptic quality."""

Part: TypeAlias = Literal["all", "things", "stuff"]


def match_panoptic(
    *,
    prediction: Segmentation | InstanceSegmentation,
    reference: Segmentation | InstanceSegmentation,
    things: Sequence[str] = (),
    rule: Rule = "iou",
    min_iou: float = 0.5,
    connectivity: Connectivity = 26,
    labels: Sequence[str] | None = None,
    match: Match = "auto",
    names: Mapping[str, str] | None = None,
    hits: HitRules = HitRules(),  # noqa: B008  (frozen)
) -> tuple[InstanceMatching, ...]:
    """Match all structures of a case: things by their instances, stuff each as one whole.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid, whose instances are connected components, or with instances of their own.
    things
        Names of the structures that are counted by their parts. Empty takes those of kind 'lesion' in either table, and
        those that have instances of their own.
    rule, min_iou, connectivity, labels, match
        As for `voxmetry.measurement.instances.match_instances`. Stuff always needs an IoU above 0.5.

    Returns
    -------
    tuple of InstanceMatching
        One a structure; `panoptic_quality` adds up those of many cases.

    Raises
    ------
    GeometryError, LabelError, ConfigError
        As `match_instances`; also where `things` names no structure, or is empty and no label is a lesion.
    """
    pairs = pair_labels(prediction.labels, reference.labels, labels=labels, match=match, names=names)
    ours, theirs = label_map(prediction), label_map(reference)
    chosen = _things(prediction, reference, pairs, things)
    of_things = match_instances(
        prediction=prediction,
        reference=reference,
        rule=rule,
        min_iou=min_iou,
        connectivity=connectivity,
        labels=chosen,
        match=match,
        names=names,
        hits=hits,
    )
    by_name = {row.label: row for row in of_things}
    counts = overlaps(
        prediction=ours,
        reference=theirs,
        pairs=[(pair.prediction or 0, pair.reference or 0) for pair in pairs],
    )
    return tuple(by_name.get(pair.name) or _stuff(pair.name, count) for pair, count in zip(pairs, counts, strict=True))


def _stuff(name: str, count: Overlap) -> InstanceMatching:
    """Match a whole structure: true if its IoU is above 0.5, else missed and invented at once."""
    matched = bool(count.iou > STUFF_IOU)
    return tally(
        label=name,
        kind="stuff",
        rule="iou",
        min_iou=STUFF_IOU,
        connectivity=None,
        n_prediction=int(count.n_prediction > 0),
        n_reference=int(count.n_reference > 0),
        tp_prediction=int(matched),
        tp_reference=int(matched),
        iou_sum=count.iou if matched else 0.0,
    )


def _things(
    prediction: Segmentation | InstanceSegmentation,
    reference: Segmentation | InstanceSegmentation,
    pairs: Sequence[Pair],
    things: Sequence[str],
) -> list[str]:
    if things:
        return [pair.name for pair in chosen_pairs(pairs, things)]
    of_kind = [
        {label.value for label in x.labels if label.kind == "lesion" or label.name in told_apart_in(x)}
        for x in (prediction, reference)
    ]
    chosen = [pair.name for pair in pairs if pair.prediction in of_kind[0] or pair.reference in of_kind[1]]
    if not chosen and isinstance(prediction, InstanceSegmentation) and isinstance(reference, InstanceSegmentation):
        # No instance on either side: whatever the maps could have had.
        return [pair.name for pair in pairs]
    if not chosen:
        raise ConfigError(
            found=f"no label of kind 'lesion' among {', '.join(pair.name for pair in pairs) or '(none)'}",
            expected="at least one structure that is counted by its parts",
            fix="name it: --thing NAME, or things=[...] in Python",
        )
    return chosen


def panoptic_quality(matchings: Iterable[InstanceMatching]) -> PanopticQuality:
    """Add up the counts of each structure over cases, and average panoptic quality over structures.

    Parameters
    ----------
    matchings
        Rows of one case or of many, made with one matching rule.

    Returns
    -------
    PanopticQuality
        `classes` has one row a structure with the counts of all cases. A structure that is in no mask of any case is
        in no mean; where there is no segmentation quality since nothing was matched, the mean SQ is nan.

    Raises
    ------
    ConfigError
        If a structure was matched with different rules.

    References
    ----------
    Kirillov et al., 2019, doi:10.1109/CVPR.2019.00963.
    """
    by_label: dict[str, list[InstanceMatching]] = {}
    for row in matchings:
        by_label.setdefault(row.label, []).append(row)
    classes = tuple(pooled(rows) for rows in by_label.values())
    seen = [row for row in classes if row.n_prediction + row.n_reference]
    parts: dict[Part, list[InstanceMatching]] = {
        "all": seen,
        "things": [row for row in seen if row.kind == "thing"],
        "stuff": [row for row in seen if row.kind == "stuff"],
    }

    def means(number: Callable[[InstanceMatching], float]) -> dict[Part, float]:
        return {part: math.fsum(map(number, rows)) / len(rows) if rows else math.nan for part, rows in parts.items()}

    reasons = dict.fromkeys(row.reason for row in seen if math.isnan(row.pq) or math.isnan(row.sq))
    return PanopticQuality(
        classes=classes,
        pq=means(lambda row: row.pq),
        sq=means(lambda row: row.sq),
        rq=means(lambda row: row.rq),
        reason="; ".join(reason for reason in reasons if reason) if seen else "no structure is in any mask",
    )


def pooled(rows: Sequence[InstanceMatching]) -> InstanceMatching:
    """Add up the counts of one structure over cases.

    Raises
    ------
    ConfigError
        If they were matched with different rules.
    """
    first = rows[0]
    settings = {(row.kind, row.rule, row.min_iou, row.connectivity) for row in rows}
    if len(settings) > 1:
        raise ConfigError(
            found=f"{first.label} matched in different ways: {sorted(map(str, settings))}",
            expected="one rule, least IoU and connectivity",
            fix="match all cases with the same settings",
        )
    return tally(
        label=first.label,
        kind=first.kind,
        rule=first.rule,
        min_iou=first.min_iou,
        connectivity=first.connectivity,
        n_prediction=sum(row.n_prediction for row in rows),
        n_reference=sum(row.n_reference for row in rows),
        tp_prediction=sum(row.tp_prediction for row in rows),
        tp_reference=sum(row.tp_reference for row in rows),
        iou_sum=math.fsum(row.iou_sum for row in rows),
    )
