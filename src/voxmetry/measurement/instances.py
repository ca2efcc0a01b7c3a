"""Match the separate parts of a structure, such as lesions, one by one; detection and panoptic quality.

Three rules say when a part of the prediction and a part of the reference are the same thing:

- 'overlap': they share a voxel. Several may share one, so this counts detections only.
- 'iou': their IoU is above `min_iou`, at least 0.5: then at most one partner is possible.
- 'hungarian': the one-to-one assignment with the largest sum of IoU, of pairs with an IoU above `min_iou`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.instances import InstanceSegmentation
from voxmetry.core.records import Hits, Instance, InstanceMatching
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measurement.pairing import Match, Pair, pair_labels
from voxmetry.measurement.part_distances import hd95_of_pairs
from voxmetry.measurement.part_overlaps import HitRules, Ids, PartOverlaps, hits_of, part_overlaps
from voxmetry.ops.boxes import Box, boxes_of, join

Rule: TypeAlias = Literal["overlap", "iou", "hungarian"]
Connectivity: TypeAlias = Literal[6, 18, 26]
Float64: TypeAlias = NDArray[np.float64]

NOT_ONE_TO_ONE = "the rule 'overlap' does not match one to one: no IoU of pairs, and so no panoptic quality"


def match_instances(
    *,
    prediction: Segmentation | InstanceSegmentation,
    reference: Segmentation | InstanceSegmentation,
    rule: Rule = "iou",
    min_iou: float = 0.5,
    connectivity: Connectivity = 26,
    labels: Sequence[str] | None = None,
    match: Match = "auto",
    names: Mapping[str, str] | None = None,
    hits: HitRules = HitRules(),  # noqa: B008  (frozen)
) -> tuple[InstanceMatching, ...]:
    """Match the instances of each structure.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid, whose instances are connected components, or with instances of their own.
    rule, min_iou
        When two instances are the same thing; see the head of this module. 'overlap' does not use `min_iou`.
    connectivity
        Voxels are neighbours that share a face (6), also an edge (18), also a corner (26).
    labels
        Structures to look at; None takes all.
    match
        How structures are paired, as for `voxmetry.compare`.
    hits
        What hits, for average precision and FROC.

    Returns
    -------
    tuple of InstanceMatching
        One a structure, with one row an instance: matched ones in the reference's order, then missed, then extra.

    Raises
    ------
    GeometryError
        If the grids differ.
    LabelError
        If the structures cannot be paired without doubt.
    ConfigError
        If a setting is unknown or out of range.

    References
    ----------
    Kirillov et al., 2019, doi:10.1109/CVPR.2019.00963, for the rule 'iou' and for PQ, SQ and RQ. Kuhn, 1955,
    doi:10.1002/nav.3800020109, for the assignment.

    Examples
    --------
    >>> from voxmetry import LabelTable
    >>> grid, table = Geometry(np.eye(4), (12, 4, 4)), LabelTable.from_names({1: "lesion"})
    >>> a, b = np.zeros((12, 4, 4), np.uint8), np.zeros((12, 4, 4), np.uint8)
    >>> a[0:3], b[0:4], b[6:8] = 1, 1, 1
    >>> row, = match_instances(
    ...     prediction=Segmentation(a, grid, table), reference=Segmentation(b, grid, table))
    >>> row.tp_reference, row.fp, row.fn, row.sensitivity, row.precision, row.sq, round(row.pq, 3)
    (1, 0, 1, 0.5, 1.0, 0.75, 0.5)
    """
    _require(rule, min_iou, connectivity)
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    pairs = pair_labels(prediction.labels, reference.labels, labels=labels, match=match, names=names)
    sides = (prediction, reference)
    apart = [x.array if isinstance(x, InstanceSegmentation) else None for x in sides]
    rows = prediction.detections if isinstance(prediction, InstanceSegmentation) else ()
    scores = {row.value: row.score for row in rows}
    boxes = (boxes_of(label_map(prediction)), boxes_of(label_map(reference)))
    used = None if all(x is not None for x in apart) else connectivity
    found = []
    for pair in pairs:
        cut = _cut(label_map(prediction), label_map(reference), pair, boxes)
        (ours, mine), (theirs, _) = (
            _components(mask, connectivity) if ids is None else _by_size(np.where(mask, ids[cut.box], 0))
            for mask, ids in zip(cut.masks, apart, strict=True)
        )
        known = [scores.get(int(value), math.nan) for value in mine]
        found.append(_match(ours, theirs, cut, pair.name, rule, min_iou, used, known, hits))
    return tuple(found)


def label_map(x: Segmentation | InstanceSegmentation) -> Segmentation:
    """Return the label map of instances, or the label map that it is."""
    return x.segmentation if isinstance(x, InstanceSegmentation) else x


def told_apart_in(x: Segmentation | InstanceSegmentation) -> set[str]:
    """Return the names of the structures that have instances."""
    return {row.label for row in x.detections} if isinstance(x, InstanceSegmentation) else set()


def match_instance_maps(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    rule: Rule = "iou",
    min_iou: float = 0.5,
    label: str = "instances",
) -> InstanceMatching:
    """Match two label maps whose values are instances of one structure already.

    Parameters
    ----------
    prediction, reference
        On the same grid; each value is one instance, whatever its number or its name.
    rule, min_iou
        As for `match_instances`.
    label
        What the structure is called in the result.

    Raises
    ------
    GeometryError, ConfigError
        As `match_instances`.
    """
    _require(rule, min_iou, 26)
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    i, j, k = (slice(0, n) for n in prediction.geometry.shape)
    whole = (i, j, k)
    cut = _Cut((prediction.array, reference.array), whole, prediction.geometry)
    ours, theirs = (_by_size(array.astype(np.uint32))[0] for array in cut.masks)
    unknown = [math.nan] * int(ours.max(initial=0))
    return _match(ours, theirs, cut, label, rule, min_iou, None, unknown, HitRules())


@dataclass(frozen=True)
class _Cut:
    """Both masks of a structure, cropped to where one of them is."""

    masks: tuple[NDArray[Any], NDArray[Any]]
    box: Box
    geometry: Geometry

    @property
    def corner(self) -> NDArray[np.intp]:
        """(3,), where the crop begins."""
        return np.array([part.start for part in self.box])


def _cut(
    prediction: Segmentation, reference: Segmentation, pair: Pair, boxes: tuple[dict[int, Box], dict[int, Box]]
) -> _Cut:
    sides = ((prediction, pair.prediction or 0), (reference, pair.reference or 0))
    present = [mine[value] for mine, (_, value) in zip(boxes, sides, strict=True) if value in mine]
    box = join(present) if present else (slice(0, 1), slice(0, 1), slice(0, 1))
    ours, theirs = (
        (side.array[box] == value) if value else np.zeros(side.array[box].shape, bool) for side, value in sides
    )
    return _Cut((ours, theirs), box, prediction.geometry)


def _components(mask: NDArray[np.bool_], connectivity: int) -> tuple[Ids, NDArray[Any]]:
    import cc3d

    return _by_size(cc3d.connected_components(mask, connectivity=connectivity, out_dtype=np.uint32))


def _by_size(ids: NDArray[Any]) -> tuple[Ids, NDArray[Any]]:
    """Return the parts numbered from 1, from large to small, so that an id says something; and their own values."""
    present, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    order = [place for place in np.argsort(-sizes, kind="stable") if present[place]]
    number = np.zeros(len(present), np.uint32)
    number[order] = np.arange(1, len(order) + 1)
    return number[inverse].reshape(ids.shape), present[order]


def _partners(counts: PartOverlaps, rule: Rule, min_iou: float) -> NDArray[np.bool_]:
    """Which of the pairs that share voxels are the same thing, (N,)."""
    if rule == "overlap":
        return np.ones(len(counts.pairs), bool)
    iou = counts.iou
    # A pair that may not be matched must not push others aside, so only those that may take part.
    allowed = iou > min_iou
    if rule == "iou" or not allowed.any():
        return allowed
    from scipy.optimize import linear_sum_assignment

    rows, columns = (np.unique(side, return_inverse=True)[1] for side in counts.pairs[allowed].T)
    worth = np.zeros((rows.max() + 1, columns.max() + 1))
    worth[rows, columns] = iou[allowed]
    chosen = np.zeros(worth.shape, bool)
    chosen[linear_sum_assignment(worth, maximize=True)] = True
    partners = allowed.copy()
    partners[allowed] = chosen[rows, columns]
    return partners


def _match(
    ours: Ids,
    theirs: Ids,
    cut: _Cut,
    label: str,
    rule: Rule,
    min_iou: float,
    connectivity: int | None,
    scores: Sequence[float],
    hits: HitRules,
) -> InstanceMatching:
    counts = part_overlaps(ours, theirs)
    partners = _partners(counts, rule, min_iou)
    matched = counts.pairs[partners]
    one_to_one = rule != "overlap"
    of_prediction, of_reference = (_centres(side, cut) for side in (ours, theirs))
    rows = _rows(counts, partners, (of_prediction, of_reference), cut, label)
    far = hd95_of_pairs(ours, theirs, matched, cut.geometry.cropped(cut.box)) if one_to_one else {}
    return tally(
        label=label,
        rule=rule,
        min_iou=min_iou if one_to_one else 0.0,
        connectivity=connectivity,
        n_prediction=len(counts.prediction),
        n_reference=len(counts.reference),
        tp_prediction=len(np.unique(matched[:, 0])),
        tp_reference=len(np.unique(matched[:, 1])),
        iou_sum=float(counts.iou[partners].sum()) if one_to_one else 0.0,
        instances=tuple(_with_pair(row, far, scores) for row in rows),
        detections=hits_of(counts, scores, (of_prediction, of_reference), cut.geometry.voxel_ml, hits),
    )


def tally(
    *,
    label: str,
    rule: Rule,
    min_iou: float,
    connectivity: int | None,
    n_prediction: int,
    n_reference: int,
    tp_prediction: int,
    tp_reference: int,
    iou_sum: float,
    instances: tuple[Instance, ...] = (),
    detections: tuple[Hits, ...] = (),
    kind: Literal["thing", "stuff"] = "thing",
) -> InstanceMatching:
    """Turn counts into sensitivity, precision, F1 and panoptic quality; nan where there is nothing to divide by."""
    sensitivity = tp_reference / n_reference if n_reference else math.nan
    precision = tp_prediction / n_prediction if n_prediction else math.nan
    one_to_one = rule != "overlap"
    fp, fn = n_prediction - tp_prediction, n_reference - tp_reference
    sq = iou_sum / tp_reference if tp_reference and one_to_one else math.nan
    rq = tp_reference / (tp_reference + fp / 2 + fn / 2) if n_prediction + n_reference and one_to_one else math.nan
    reasons = [] if n_prediction + n_reference else ["the structure is in neither mask: nothing to match"]
    reasons += [] if one_to_one else [NOT_ONE_TO_ONE]
    if not reasons:
        reasons += [] if n_reference else ["no instance in the reference: no sensitivity"]
        reasons += [] if n_prediction else ["no instance in the prediction: no precision"]
        reasons += [] if tp_reference else ["no pair was matched: no segmentation quality"]
    return InstanceMatching(
        label=label,
        kind=kind,
        rule=rule,
        min_iou=min_iou,
        connectivity=connectivity,
        n_prediction=n_prediction,
        n_reference=n_reference,
        tp_prediction=tp_prediction,
        tp_reference=tp_reference,
        fp=fp,
        fn=fn,
        iou_sum=iou_sum,
        sensitivity=sensitivity,
        precision=precision,
        f1=_f1(sensitivity, precision),
        sq=sq,
        rq=rq,
        # Nothing found of what there is has no quality of pairs, and a panoptic quality of 0.
        pq=0.0 if rq == 0 else sq * rq,
        instances=instances,
        detections=detections,
        reason="; ".join(reasons),
    )


def _f1(sensitivity: float, precision: float) -> float:
    """Harmonic mean; 0 where one side is empty and the other is not; nan where both are."""
    known = [x for x in (sensitivity, precision) if not math.isnan(x)]
    if not known:
        return math.nan
    if len(known) < 2 or sum(known) == 0:
        return 0.0
    return 2 * sensitivity * precision / (sensitivity + precision)


def _rows(
    counts: PartOverlaps, partners: NDArray[np.bool_], centres: tuple[Float64, Float64], cut: _Cut, label: str
) -> tuple[Instance, ...]:
    """One row a part of the reference with all of its partners, then one a part of the prediction without any."""
    of_prediction, of_reference = ([(float(x), float(y), float(z)) for x, y, z in side] for side in centres)
    matched, both = counts.pairs[partners], counts.both[partners]
    groups = [(matched[:, 1] == place, (place,), of_reference[place]) for place in range(len(counts.reference))]
    alone = sorted(set(range(len(counts.prediction))) - set(matched[:, 0].tolist()))
    rows = []
    for mine, theirs, centre in [
        *((tuple(matched[at, 0].tolist()), place, centre) for at, place, centre in groups),
        *(((place,), (), of_prediction[place]) for place in alone),
    ]:
        n_prediction = int(counts.prediction[list(mine)].sum())
        n_reference = int(counts.reference[list(theirs)].sum())
        n_both = int(both[matched[:, 1] == theirs[0]].sum()) if theirs else 0
        rows.append(
            Instance(
                label=label,
                status="matched" if mine and theirs else "missed" if theirs else "extra",
                prediction_ids=tuple(place + 1 for place in mine),
                reference_ids=tuple(place + 1 for place in theirs),
                volume_prediction_ml=n_prediction * cut.geometry.voxel_ml,
                volume_reference_ml=n_reference * cut.geometry.voxel_ml,
                dice=2 * n_both / (n_prediction + n_reference),
                iou=n_both / (n_prediction + n_reference - n_both),
                centroid_ras_mm=centre,
            )
        )
    order = ("matched", "missed", "extra")
    return tuple(sorted(rows, key=lambda row: order.index(row.status)))


def _with_pair(row: Instance, far: Mapping[tuple[int, int], float], scores: Sequence[float]) -> Instance:
    """Return a row with the surface distance of its pair, and the score of its prediction."""
    ids = row.prediction_ids
    update = {"score": scores[ids[0] - 1]} if len(ids) == 1 else {}
    if len(ids) == 1 and len(row.reference_ids) == 1:
        update["hd95_mm"] = far.get((ids[0], row.reference_ids[0]), math.nan)
    return row.model_copy(update=update)


def _centres(ids: Ids, cut: _Cut) -> Float64:
    n = int(ids.max(initial=0))
    if not n:
        return np.zeros((0, 3))
    where = np.nonzero(ids)
    number = ids[where].astype(np.intp) - 1
    sizes = np.bincount(number, minlength=n)
    mean = np.column_stack([np.bincount(number, axis, n) / sizes for axis in where])
    return cut.geometry.to_mm(mean + cut.corner)


def _require(rule: Rule, min_iou: float, connectivity: int) -> None:
    if rule not in ("overlap", "iou", "hungarian") or connectivity not in (6, 18, 26):
        raise ConfigError(
            found=f"rule {rule!r} with connectivity {connectivity}",
            expected="'overlap', 'iou' or 'hungarian' with 6, 18 or 26 neighbours",
            fix="choose one of these",
        )
    least = 0.5 if rule == "iou" else 0.0
    if rule != "overlap" and not least <= min_iou < 1:
        raise ConfigError(
            found=f"a least IoU of {min_iou:g} for the rule {rule!r}",
            expected=f"from {least:g} to below 1"
            + (": below 0.5 an instance could have several partners" if least else ""),
            fix="use 0.5, or the rule 'hungarian', which keeps pairs unique at any IoU",
        )
