"""Comparisons of many cases together: means with intervals, distributions, paired differences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from voxmetry.core.records import (
    CaseComparison,
    CohortComparison,
    CohortSettings,
    Comparison,
    Distribution,
    PairedComparison,
    StructureSummary,
)
from voxmetry.measurement.agreement import bland_altman, icc_2_1
from voxmetry.measurement.definitions import DETECTION, definitions
from voxmetry.measurement.detection import summarise_detection
from voxmetry.measurement.panoptic import panoptic_quality
from voxmetry.measurement.statistics import bootstrap_means, compare_paired, holm, quartiles

OVERLAPS = ("dice", "iou", "surface_dice")
DISTANCES = ("hausdorff_mm", "hd95_mm", "assd_mm")
METRICS = (*OVERLAPS, *DISTANCES)
PAIRED = ("dice", "surface_dice", "hd95_mm")
"""What two models are compared by: few numbers, since each further test costs the others power."""
OVERALL = "all structures"
POLICY = (
    "Means over 'present' take each case that has the structure in at least one mask: Dice, IoU and surface Dice are "
    "0 for a missed or an invented structure; a distance is {distance}. Quartiles rank such a case as the worst. Means "
    "over 'both' leave these cases out and are to be read with the number of missed and invented structures. A "
    "structure in neither mask of a case is in no mean. Intervals are resampled by patient."
)

_Row: TypeAlias = tuple[CaseComparison, Comparison]


def summarise_cohort(
    cases: Sequence[CaseComparison],
    settings: CohortSettings = CohortSettings(),  # noqa: B008  (frozen)
    *,
    other: Sequence[CaseComparison] = (),
    unmatched: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> CohortComparison:
    """Summarise cases that have been compared.

    Parameters
    ----------
    cases
        Rows of one model.
    settings
        How they were compared.
    other
        Rows of another model.
    unmatched
        Names of predictions and of references without a partner.
    """
    structures, overall = _summary(cases, settings)
    other_structures, other_overall = _summary(other, settings)
    matchings = [row for case in cases for row in case.matchings]
    return CohortComparison(
        settings=settings,
        cases=tuple(cases),
        unmatched_predictions=tuple(unmatched[0]),
        unmatched_references=tuple(unmatched[1]),
        structures=structures,
        overall=overall,
        panoptic=panoptic_quality(matchings) if matchings else None,
        detection=summarise_detection(cases, settings),
        other_detection=summarise_detection(other, settings),
        other=tuple(other),
        other_structures=other_structures,
        other_overall=other_overall,
        paired=_paired(cases, other, settings) if other else (),
        policy=POLICY.format(
            distance="the grid's diagonal" if settings.empty == "diagonal" else "undefined, and so is its mean"
        ),
        definitions=definitions(settings.surface, settings.percentile) | (DETECTION if matchings else {}),
    )


def _summary(
    cases: Sequence[CaseComparison], settings: CohortSettings
) -> tuple[tuple[StructureSummary, ...], StructureSummary | None]:
    """Summarise each structure of one model, and all together."""
    rows = [(case, row) for case in cases for row in case.comparisons]
    by_label: dict[str, list[_Row]] = {}
    for case, row in rows:
        by_label.setdefault(row.label, []).append((case, row))
    n_cases = sum(case.error is None for case in cases)
    structures = tuple(_structure(label, found, n_cases, settings) for label, found in by_label.items())
    return structures, _structure(OVERALL, rows, n_cases, settings) if rows else None


def _structure(label: str, rows: Sequence[_Row], n_cases: int, settings: CohortSettings) -> StructureSummary:
    by_status = {status: [r for r in rows if r[1].status == status] for status in ("both", "missed", "extra", "absent")}
    present = [r for r in rows if r[1].status != "absent"]
    volumes = [(r.volume_prediction_ml, r.volume_reference_ml) for _, r in present]
    return StructureSummary(
        label=label,
        n_cases=n_cases,
        n_both=len(by_status["both"]),
        n_missed=len(by_status["missed"]),
        n_extra=len(by_status["extra"]),
        n_absent=len(by_status["absent"]),
        present=_distributions(present, settings),
        both=_distributions(by_status["both"], settings),
        volumes=bland_altman([a for a, _ in volumes], [b for _, b in volumes], level=settings.level),
        reliability=icc_2_1([list(pair) for pair in volumes] or [[math.nan] * 2], level=settings.level),
    )


def _distributions(rows: Sequence[_Row], settings: CohortSettings) -> dict[str, Distribution]:
    columns = [[float(getattr(row, name)) for _, row in rows] for name in METRICS]
    means = bootstrap_means(
        columns,
        patients=[case.patient for case, _ in rows],
        level=settings.level,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    found = {}
    for name, column, mean in zip(METRICS, columns, means, strict=True):
        # What is undefined ranks as the worst; turned round, so that the worst is always the largest.
        sign = -1.0 if name in OVERLAPS else 1.0
        badness = [math.inf if math.isnan(x) else sign * x for x in column]
        low, median, high = (sign * x for x in quartiles(badness))
        q1, q3 = (high, low) if sign < 0 else (low, high)
        place = max(range(len(rows)), key=badness.__getitem__, default=None)
        found[name] = Distribution(
            mean=mean,
            sd=_sd(column, mean.mean),
            median=median,
            q1=q1,
            q3=q3,
            worst=column[place] if place is not None else math.nan,
            worst_case=rows[place][0].case if place is not None else None,
            n_undefined=sum(math.isnan(x) for x in column),
        )
    return found


def _sd(values: Sequence[float], mean: float) -> float:
    if len(values) < 2 or math.isnan(mean):
        return math.nan
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def _paired(
    first: Sequence[CaseComparison], second: Sequence[CaseComparison], settings: CohortSettings
) -> tuple[PairedComparison, ...]:
    """Compare two models by structure and metric, over the cases that both have."""
    ours, theirs = _index(first), _index(second)
    keys = [key for key in ours if key in theirs]
    numbers = {case.case: case.patient for case in first}
    found = []
    for label in dict.fromkeys(label for _, label in keys):
        # A structure in neither mask of one of the models is in its reference in neither: nothing to compare.
        of_label = [
            key
            for key in keys
            if key[1] == label and not (ours[key].status == "absent" and theirs[key].status == "absent")
        ]
        for metric in PAIRED:
            result = compare_paired(
                [getattr(ours[key], metric) for key in of_label],
                [getattr(theirs[key], metric) for key in of_label],
                patients=[numbers[case] for case, _ in of_label],
                level=settings.level,
                resamples=settings.resamples,
                seed=settings.seed,
            )
            found.append(result.model_copy(update={"label": label, "metric": metric}))
    adjusted = holm([row.p_value for row in found])
    return tuple(row.model_copy(update={"p_adjusted": float(p)}) for row, p in zip(found, adjusted, strict=True))


def _index(cases: Iterable[CaseComparison]) -> dict[tuple[str, str], Comparison]:
    return {(case.case, row.label): row for case in cases for row in case.comparisons}
