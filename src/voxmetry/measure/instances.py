"""Lesions found and missed: detection and panoptic quality of one structure."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import InstanceComparison, InstanceMatch
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measure.lesions import Component, ordered_components

MatchRule: TypeAlias = Literal["one to one", "overlap"]


def compare_instances(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    label: str,
    rule: MatchRule = "one to one",
    iou_threshold: float = 0.5,
    connectivity: int = 26,
    min_volume_ml: float = 0.0,
) -> InstanceComparison:
    """Compare the connected components of one structure.

    Parameters
    ----------
    prediction, reference
        Label maps on the same grid, both with a structure of this name.
    rule
        'one to one': pairs of lesions with an IoU of at least `iou_threshold`, each lesion in one pair at most, chosen
        so that the sum of the IoUs is largest (Hungarian method). 'overlap': a lesion counts as found, or as true,
        if it shares a voxel with any lesion of the other mask.
    iou_threshold
        Above 0, up to 1; not used by 'overlap'.
    connectivity, min_volume_ml
        What a lesion is, see `voxmetry.measure.lesions.lesions`. Smaller ones are left out of both masks.

    Returns
    -------
    InstanceComparison
        Sensitivity is the share of the reference's lesions that were found, precision the share of the prediction's
        that are true; F1 is 2 TP / (2 TP + FP + FN) for 'one to one' and the harmonic mean of the two for 'overlap'.
        Panoptic quality is segmentation quality (mean IoU of the pairs) times recognition quality (F1), nan for
        'overlap'. Lesions carry the ids that `lesions` gives them.

    Raises
    ------
    GeometryError
        If the grids differ.
    LabelError
        If a table does not have the structure.
    ConfigError
        If the rule or the threshold is none.

    References
    ----------
    Kirillov et al., Panoptic segmentation, 2019, doi:10.1109/CVPR.2019.00963.
    """
    if rule not in ("one to one", "overlap") or not 0 < iou_threshold <= 1:
        raise ConfigError(
            found=f"rule={rule!r}, iou_threshold={iou_threshold}",
            expected="'one to one' or 'overlap', and a threshold above 0 and up to 1",
            fix="use 'one to one' and 0.5 if in doubt",
        )
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    ours, theirs = (
        ordered_components(x, x.labels[label], connectivity, min_volume_ml) for x in (prediction, reference)
    )
    iou = _iou_table(ours, theirs, prediction.geometry.shape)
    pairs = [(int(a), int(b)) for a, b in np.argwhere(iou > 0)] if rule == "overlap" else _assign(iou, iou_threshold)
    n_true, n_found = len({a for a, _ in pairs}), len({b for _, b in pairs})
    precision = n_true / len(ours) if ours else math.nan
    sensitivity = n_found / len(theirs) if theirs else math.nan
    f1 = _f1(rule, n_true, n_found, len(ours), len(theirs))
    quality = math.fsum(iou[a, b] for a, b in pairs) / len(pairs) if pairs and rule == "one to one" else math.nan
    panoptic = quality * f1 if pairs else (f1 if rule == "one to one" else math.nan)
    return InstanceComparison(
        label=label,
        rule=rule,
        iou_threshold=iou_threshold if rule == "one to one" else math.nan,
        n_prediction=len(ours),
        n_reference=len(theirs),
        n_found=n_found,
        n_true=n_true,
        sensitivity=sensitivity,
        precision=precision,
        f1=f1,
        segmentation_quality=quality,
        recognition_quality=f1 if rule == "one to one" else math.nan,
        panoptic_quality=panoptic,
        matches=tuple(
            InstanceMatch(prediction=f"{label}-{a + 1}", reference=f"{label}-{b + 1}", iou=float(iou[a, b]))
            for a, b in pairs
        ),
        reason=_reason(rule, len(ours), len(theirs), len(pairs)),
    )


def _iou_table(ours: list[Component], theirs: list[Component], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """IoU of each lesion of the prediction with each of the reference, (N, M)."""
    numbers = np.zeros(shape, np.int32)
    for number, x in enumerate(theirs, start=1):
        numbers[x.box][x.mask] = number
    sizes = np.array([np.count_nonzero(x.mask) for x in theirs], dtype=np.int64)
    table = np.zeros((len(ours), len(theirs)))
    for row, x in zip(table, ours, strict=True):
        shared = np.bincount(numbers[x.box][x.mask], minlength=len(theirs) + 1)[1:]
        row[:] = shared / (np.count_nonzero(x.mask) + sizes - shared)
    return table


def _assign(iou: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    allowed = np.where(iou >= threshold, iou, 0.0)
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if allowed[a, b] > 0]


def _f1(rule: MatchRule, n_true: int, n_found: int, n_ours: int, n_theirs: int) -> float:
    if n_ours + n_theirs == 0:
        return math.nan
    if rule == "one to one":
        return 2 * n_true / (n_ours + n_theirs)
    if n_true == 0 or n_found == 0:
        return 0.0
    precision, sensitivity = n_true / n_ours, n_found / n_theirs
    return 2 * precision * sensitivity / (precision + sensitivity)


def _reason(rule: MatchRule, n_ours: int, n_theirs: int, n_pairs: int) -> str:
    reasons = []
    if not n_ours:
        reasons.append("no lesion in the prediction: no precision")
    if not n_theirs:
        reasons.append("no lesion in the reference: no sensitivity")
    if rule == "overlap":
        reasons.append("no panoptic quality by the rule 'overlap'")
    elif not n_pairs:
        reasons.append("no pair: no segmentation quality")
    return "; ".join(reasons)
