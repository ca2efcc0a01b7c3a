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
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.geometry import Geometry
from voxmetry.core.records import Instance, InstanceMatching
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measurement.pairing import Match, Pair, pair_labels
from voxmetry.ops.boxes import Box, boxes_of, join

Rule: TypeAlias = Literal["overlap", "iou", "hungarian"]
Connectivity: TypeAlias = Literal[6, 18, 26]
Ids: TypeAlias = NDArray[np.uint32]
Float64: TypeAlias = NDArray[np.float64]

NOT_ONE_TO_ONE = "the rule 'overlap' does not match one to one: no IoU of pairs, and so no panoptic quality"


def match_instances(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    rule: Rule = "iou",
    min_iou: float = 0.5,
    connectivity: Connectivity = 26,
    labels: Sequence[str] | None = None,
    match: Match = "auto",
    names: Mapping[str, str] | None = None,
) -> tuple[InstanceMatching, ...]:
    """Match the connected components of each structure.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid.
    rule, min_iou
        When two components are the same thing; see the head of this module. 'overlap' does not use `min_iou`.
    connectivity
        Voxels are neighbours that share a face (6), also an edge (18), also a corner (26).
    labels
        Structures to look at; None takes all.
    match
        How structures are paired, as for `voxmetry.compare`.

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
    boxes = (boxes_of(prediction), boxes_of(reference))
    found = []
    for pair in pairs:
        cut = _cut(prediction, reference, pair, boxes)
        ours, theirs = (_components(mask, connectivity) for mask in cut.masks)
        found.append(_match(ours, theirs, cut, pair.name, rule, min_iou, connectivity))
    return tuple(found)


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
    whole = tuple(slice(0, n) for n in prediction.geometry.shape)
    cut = _Cut((prediction.array, reference.array), np.array([part.start for part in whole]), prediction.geometry)
    ours, theirs = (_by_size(array.astype(np.uint32)) for array in cut.masks)
    return _match(ours, theirs, cut, label, rule, min_iou, None)


@dataclass(frozen=True)
class _Cut:
    """Both masks of a structure, cropped to where one of them is."""

    masks: tuple[NDArray[Any], NDArray[Any]]
    corner: NDArray[np.intp]
    geometry: Geometry


def _cut(
    prediction: Segmentation, reference: Segmentation, pair: Pair, boxes: tuple[dict[int, Box], dict[int, Box]]
) -> _Cut:
    sides = ((prediction, pair.prediction or 0), (reference, pair.reference or 0))
    present = [mine[value] for mine, (_, value) in zip(boxes, sides, strict=True) if value in mine]
    box = join(present) if present else (slice(0, 1), slice(0, 1), slice(0, 1))
    ours, theirs = (
        (side.array[box] == value) if value else np.zeros(side.array[box].shape, bool) for side, value in sides
    )
    return _Cut((ours, theirs), np.array([part.start for part in box]), prediction.geometry)


def _components(mask: NDArray[np.bool_], connectivity: int) -> Ids:
    import cc3d

    return _by_size(cc3d.connected_components(mask, connectivity=connectivity, out_dtype=np.uint32))


def _by_size(ids: Ids) -> Ids:
    """Return the parts numbered from 1, from large to small, so that an id says something."""
    present, inverse, sizes = np.unique(ids, return_inverse=True, return_counts=True)
    order = [place for place in np.argsort(-sizes, kind="stable") if present[place]]
    number = np.zeros(len(present), np.uint32)
    number[order] = np.arange(1, len(order) + 1)
    return number[inverse].reshape(ids.shape)


class _Overlaps(NamedTuple):
    """Voxels of each part of the prediction (P,) and of the reference (R,), and of the N pairs that share some."""

    prediction: NDArray[np.int64]
    reference: NDArray[np.int64]
    pairs: NDArray[np.int64]
    """(N, 2), places in the two, from 0."""
    both: NDArray[np.int64]
    """(N,)"""

    @property
    def iou(self) -> Float64:
        """(N,); all other pairs have 0."""
        union = self.prediction[self.pairs[:, 0]] + self.reference[self.pairs[:, 1]] - self.both
        return self.both / union


def _overlaps(ours: Ids, theirs: Ids) -> _Overlaps:
    shared = (ours > 0) & (theirs > 0)
    together = np.column_stack([ours[shared], theirs[shared]]).astype(np.int64) - 1
    pairs, both = np.unique(together, axis=0, return_counts=True)
    n_prediction, n_reference = (np.bincount(ids.ravel())[1:].astype(np.int64) for ids in (ours, theirs))
    return _Overlaps(n_prediction, n_reference, pairs, both)


def _partners(counts: _Overlaps, rule: Rule, min_iou: float) -> NDArray[np.bool_]:
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
    ours: Ids, theirs: Ids, cut: _Cut, label: str, rule: Rule, min_iou: float, connectivity: int | None
) -> InstanceMatching:
    counts = _overlaps(ours, theirs)
    partners = _partners(counts, rule, min_iou)
    matched = counts.pairs[partners]
    one_to_one = rule != "overlap"
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
        instances=_rows(counts, partners, (ours, theirs), cut, label),
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
    counts: _Overlaps, partners: NDArray[np.bool_], ids: tuple[Ids, Ids], cut: _Cut, label: str
) -> tuple[Instance, ...]:
    """One row a part of the reference with all of its partners, then one a part of the prediction without any."""
    of_prediction, of_reference = (_centres(side, cut) for side in ids)
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


def _centres(ids: Ids, cut: _Cut) -> list[tuple[float, float, float]]:
    n = int(ids.max(initial=0))
    if not n:
        return []
    where = np.nonzero(ids)
    number = ids[where].astype(np.intp) - 1
    sizes = np.bincount(number, minlength=n)
    mean = np.column_stack([np.bincount(number, axis, n) / sizes for axis in where])
    return [(float(x), float(y), float(z)) for x, y, z in cut.geometry.to_mm(mean + cut.corner)]


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
