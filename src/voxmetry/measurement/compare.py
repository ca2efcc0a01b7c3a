"""Hold a prediction against a reference, structure by structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from voxmetry.core.memory import is_mapped
from voxmetry.core.records import Comparison, ComparisonSummary
from voxmetry.core.segmentation import Segmentation
from voxmetry.errors import ConfigError
from voxmetry.measurement.distance import (
    PercentileRule,
    Status,
    SurfaceDistances,
    average_symmetric_surface_distance_mm,
    boundary_iou,
    distances_one_by_one,
    hausdorff_distance_mm,
    mean_surface_distances_mm,
    surface_dice,
    surface_distances,
)
from voxmetry.measurement.overlap import Overlap, overlaps
from voxmetry.measurement.pairing import Match, Pair, pair_labels
from voxmetry.ops.surface import SurfaceKind

EmptyPolicy: TypeAlias = Literal["nan", "diagonal"]

REASONS = {
    "missed": "the structure is in the reference only",
    "extra": "the structure is in the prediction only",
    "absent": "the structure is in neither mask: nothing to compare",
}
NO_MEMORY = "there is no memory for the surfaces of the structure: no distances"
_DISTANCES = (
    "hausdorff_mm",
    "hd95_mm",
    "assd_mm",
    "mean_prediction_to_reference_mm",
    "mean_reference_to_prediction_mm",
)
_MEANS = ("dice", "iou", "surface_dice", "boundary_iou", *_DISTANCES)


def compare(
    *,
    prediction: Segmentation,
    reference: Segmentation,
    tolerance_mm: float | Mapping[str, float] = 1.0,
    more_tolerances_mm: Sequence[float] = (),
    labels: Sequence[str] | None = None,
    match: Match = "auto",
    names: Mapping[str, str] | None = None,
    surface: SurfaceKind = "elements",
    percentile: PercentileRule = "directed max",
    empty: EmptyPolicy = "nan",
) -> tuple[Comparison, ...]:
    """Compare two label maps on the same grid.

    Parameters
    ----------
    prediction, reference
        What is judged, and what it is compared with.
    tolerance_mm
        Tolerance of the surface Dice: one for all structures, or one for each by its name in the result.
    more_tolerances_mm
        Further tolerances, for `surface_dice_at_mm`.
    labels
        Structures to compare, by name; None compares all that both sides know.
    match
        'auto' pairs by name if both label tables have real names, else by value; or force 'name' or 'value'. See
        `voxmetry.measurement.pairing.pair_labels`.
    names
        Names of the one side by those of the other: `{"GTV_Mass_CT": "tumour"}`.
    surface
        Surface definition: 'elements', weighted by area, or 'border voxels'.
    percentile
        HD95 is the larger of the two directed percentiles ('directed max') or that of both taken together ('pooled').
    empty
        What a distance is where a structure is in one mask only: 'nan', or the 'diagonal' of the grid in mm.
        In neither mask it is always nan.

    Returns
    -------
    tuple of Comparison
        One a structure. Dice, IoU, surface Dice and boundary IoU are 0 for a missed or an invented structure. Of label
        maps that lie in files, a structure whose surfaces have no room in memory has no distances, and says so.

    Raises
    ------
    GeometryError
        If the grids differ or are sheared.
    LabelError
        If the structures cannot be paired without doubt.
    ConfigError
        If a setting is unknown or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from voxmetry import Geometry, LabelTable
    >>> grid, table = Geometry(np.eye(4), (8, 8, 8)), LabelTable.from_names({1: "liver"})
    >>> a, b = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8), np.uint8)
    >>> a[1:5, 1:5, 1:5] = 1
    >>> b[2:6, 1:5, 1:5] = 1
    >>> row, = compare(prediction=Segmentation(a, grid, table), reference=Segmentation(b, grid, table))
    >>> row.dice, row.hausdorff_mm, row.surface_dice
    (0.75, 1.0, 1.0)
    """
    if empty not in ("nan", "diagonal"):
        raise ConfigError(found=f"empty={empty!r}", expected="'nan' or 'diagonal'", fix="choose one of the two")
    prediction.geometry.require_same(reference.geometry, what="prediction and reference")
    pairs = pair_labels(prediction.labels, reference.labels, labels=labels, match=match, names=names)
    tolerances = _tolerances(pairs, tolerance_mm)
    # Value 0 stands for a structure that a table does not have: no voxel of the foreground has it.
    values = [(pair.prediction or 0, pair.reference or 0) for pair in pairs]
    counts = overlaps(prediction=prediction, reference=reference, pairs=values)
    distances: Sequence[SurfaceDistances | None]
    if is_mapped(prediction.array) or is_mapped(reference.array):
        distances = distances_one_by_one(prediction=prediction, reference=reference, pairs=values, kind=surface)
    else:
        distances = surface_distances(prediction=prediction, reference=reference, pairs=values, kind=surface)
    diagonal_mm = prediction.geometry.diagonal_mm if empty == "diagonal" else math.nan
    voxel_ml = prediction.geometry.voxel_ml
    return tuple(
        Comparison(
            label=pair.name,
            value=pair.prediction or pair.reference or 0,
            value_reference=pair.reference,
            status=_status(count),
            tolerance_mm=tolerance,
            surface=surface,
            percentile=percentile,
            empty=empty,
            surface_dice_at_mm={f"{mm:g}": math.nan if d is None else surface_dice(d, mm) for mm in more_tolerances_mm},
            reason=NO_MEMORY if d is None else _reason(d, empty),
            **_volumes(count, voxel_ml),
            **_boundary(d, tolerance, percentile, diagonal_mm),
        )
        for pair, count, d, tolerance in zip(pairs, counts, distances, tolerances, strict=True)
    )


def summarise(comparisons: Sequence[Comparison]) -> ComparisonSummary:
    """Average over structures without dropping any silently.

    Parameters
    ----------
    comparisons
        Rows of one case or of many.

    Returns
    -------
    ComparisonSummary
        `mean` is over all structures in at least one of the masks and nan as soon as one of them is nan, as a
        distance is for a missed structure unless the policy is 'diagonal'; `mean_of_both` is over the structures in
        both masks.

    Raises
    ------
    ConfigError
        If the rows were made with different definitions or tolerances.
    """
    settings = {(row.surface, row.percentile, row.empty) for row in comparisons}
    by_label: dict[str, set[float]] = {}
    for row in comparisons:
        by_label.setdefault(row.label, set()).add(row.tolerance_mm)
    if len(settings) > 1 or any(len(tolerances) > 1 for tolerances in by_label.values()):
        raise ConfigError(
            found=f"rows of different definitions: {sorted(settings)} with tolerances {by_label}",
            expected="one surface definition, percentile rule, policy and tolerance a structure",
            fix="compare all cases with the same settings",
        )
    n = {status: sum(row.status == status for row in comparisons) for status in ("both", *REASONS)}
    present = [row for row in comparisons if row.status != "absent"]
    both = [row for row in comparisons if row.status == "both"]
    mean = {name: _mean([getattr(row, name) for row in present]) for name in _MEANS}
    undefined = [name for name in _MEANS if math.isnan(mean[name])]
    reason = (
        f"{n['missed']} missed and {n['extra']} invented structures have no distance" if present else "no structure"
    )
    return ComparisonSummary(
        n=len(comparisons),
        n_both=n["both"],
        n_missed=n["missed"],
        n_extra=n["extra"],
        n_absent=n["absent"],
        mean=mean,
        mean_of_both={name: _mean([getattr(row, name) for row in both]) for name in _MEANS},
        reason=reason if undefined else "",
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _tolerances(pairs: Sequence[Pair], tolerance_mm: float | Mapping[str, float]) -> list[float]:
    names = [pair.name for pair in pairs]
    if not isinstance(tolerance_mm, Mapping):
        return [float(tolerance_mm)] * len(names)
    if set(tolerance_mm) != set(names):
        raise ConfigError(
            found=f"tolerances for {', '.join(sorted(tolerance_mm)) or '(none)'}",
            expected=f"one for each of {', '.join(names)}",
            fix="name each structure once, or pass one tolerance for all",
        )
    return [float(tolerance_mm[name]) for name in names]


def _reason(d: SurfaceDistances, empty: EmptyPolicy) -> str:
    if d.status == "both":
        return ""
    reason = REASONS[d.status]
    return reason + "; distances are the grid's diagonal" if empty == "diagonal" and d.status != "absent" else reason


def _volumes(count: Overlap, voxel_ml: float) -> dict[str, float]:
    prediction_ml, reference_ml = count.n_prediction * voxel_ml, count.n_reference * voxel_ml
    return {
        "n_voxels_prediction": count.n_prediction,
        "n_voxels_reference": count.n_reference,
        "volume_prediction_ml": prediction_ml,
        "volume_reference_ml": reference_ml,
        "volume_difference_ml": (count.n_prediction - count.n_reference) * voxel_ml,
        "dice": count.dice,
        "iou": count.iou,
    }


def _status(count: Overlap) -> Status:
    if count.n_prediction and count.n_reference:
        return "both"
    return "missed" if count.n_reference else "extra" if count.n_prediction else "absent"


def _boundary(
    d: SurfaceDistances | None, tolerance_mm: float, rule: PercentileRule, diagonal_mm: float
) -> dict[str, float]:
    if d is None:
        return dict.fromkeys((*_DISTANCES, "surface_dice", "boundary_iou"), math.nan)
    ours, theirs = mean_surface_distances_mm(d)
    distances = (
        hausdorff_distance_mm(d, 100, rule),
        hausdorff_distance_mm(d, 95, rule),
        average_symmetric_surface_distance_mm(d),
        ours,
        theirs,
    )
    if d.status in ("missed", "extra"):
        distances = (diagonal_mm,) * 5
    return {
        **dict(zip(_DISTANCES, distances, strict=True)),
        "surface_dice": surface_dice(d, tolerance_mm),
        "boundary_iou": boundary_iou(d),
    }
