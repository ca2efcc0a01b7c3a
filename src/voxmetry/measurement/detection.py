"""How well instances are found over many cases: average precision, FROC, panoptic quality, counts, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import CaseComparison, CohortSettings, DetectionSummary, InstanceMatching, MeanInterval
from voxmetry.measurement.panoptic import pooled
from voxmetry.measurement.statistics import bootstrap_means, bootstrap_statistic

Float64: TypeAlias = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)
FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives a case at which sensitivities are averaged, as in LUNA16."""


class Pool(NamedTuple):
    """The predictions of many cases together, from the most to the least certain."""

    score: Float64
    """(D,); predictions without a score have -inf."""
    hit: NDArray[np.bool_]
    patient: NDArray[np.intp]
    """(D,), whose prediction it is, from 0."""
    n_reference: Float64
    """(patients,), instances of the reference."""
    n_cases: Float64
    """(patients,)"""


class Curves(NamedTuple):
    """True and false positives at each threshold of the score, from the highest; (B, T) each."""

    tp: Float64
    fp: Float64


def curves_of(pool: Pool, times: Float64) -> Curves:
    """Return true and false positives as the threshold falls.

    Predictions of one score come in together: no order among them is made up.

    Parameters
    ----------
    pool
        The predictions.
    times
        (B, patients), how often each patient counts, B times over.
    """
    weight = times[:, pool.patient]
    # Scores are compared, not subtracted: those of predictions without one are all -inf.
    last = np.append(pool.score[1:] != pool.score[:-1], True) if len(pool.score) else np.zeros(0, bool)
    return Curves(np.cumsum(weight * pool.hit, axis=1)[:, last], np.cumsum(weight * ~pool.hit, axis=1)[:, last])


def average_precision(pool: Pool) -> float:
    """Return the mean, over 101 recalls from 0 to 1, of the largest precision at this recall or above; as COCO has it.

    nan where the reference has no instance; 0 where it has some and nothing was predicted.

    References
    ----------
    Lin et al., 2014, doi:10.1007/978-3-319-10602-1_48.

    Examples
    --------
    >>> pool = Pool(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), np.zeros(3, int), np.array([2.0]),
    ...     np.array([1.0]))
    >>> round(average_precision(pool), 4)
    0.835
    """
    return float(average_precisions(pool, np.ones((1, len(pool.n_reference))))[0])


def average_precisions(pool: Pool, times: Float64) -> Float64:
    """Return `average_precision`, (B,), for each row of `times` (B, patients): how often each patient counts."""
    n = times @ pool.n_reference
    curves = curves_of(pool, times)
    total = curves.tp + curves.fp
    precision = np.divide(curves.tp, total, out=np.zeros_like(total), where=total > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.column_stack([best, np.zeros(len(best))])
    recall = np.divide(curves.tp, n[:, None], out=np.zeros_like(total), where=n[:, None] > 0)
    # The slack keeps 2 of 3 at the recall 0.67 from depending on rounding.
    places = np.array([np.searchsorted(row, RECALLS - 1e-12) for row in recall])
    found: Float64 = np.take_along_axis(best, places, axis=1).mean(axis=1)
    return np.where(n > 0, found, math.nan)


def froc(pool: Pool) -> Float64:
    """Return the sensitivity at each of `FROC_RATES`, false positives a case, interpolated linearly.

    The curve begins at no prediction at all, and stays level beyond its last threshold. nan where the reference has no
    instance.

    References
    ----------
    Setio et al., 2017, doi:10.1016/j.media.2017.06.015.
    """
    found: Float64 = frocs(pool, np.ones((1, len(pool.n_reference))))[0]
    return found


def frocs(pool: Pool, times: Float64) -> Float64:
    """Return `froc`, (B, rates), for each row of `times` (B, patients): how often each patient counts."""
    n, cases = times @ pool.n_reference, times @ pool.n_cases
    curves = curves_of(pool, times)
    found = np.full((len(times), len(FROC_RATES)), math.nan)
    nothing = np.zeros((len(times), 1))
    rates = np.hstack([nothing, curves.fp]) / cases[:, None]
    # Of several sensitivities at one rate the last is the highest, which interpolation would not take.
    last = np.hstack([np.diff(rates, axis=1) > 0, nothing == 0])
    hits = np.hstack([nothing, curves.tp])
    for place in np.flatnonzero(n):
        kept = last[place]
        found[place] = np.interp(FROC_RATES, rates[place, kept], hits[place, kept] / n[place])
    return found


def summarise_detection(cases: Sequence[CaseComparison], settings: CohortSettings) -> tuple[DetectionSummary, ...]:
    """Say for each structure that is counted by instances how well these are found, over all cases."""
    whole = [case for case in cases if case.error is None]
    labels = dict.fromkeys(row.label for case in whole for row in case.matchings if row.kind == "thing")
    return tuple(_summary(label, whole, settings) for label in labels)


def _summary(label: str, cases: Sequence[CaseComparison], settings: CohortSettings) -> DetectionSummary:
    rows = [(case, row) for case in cases for row in case.matchings if row.label == label and row.kind == "thing"]
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(case.patient for case, _ in rows))}
    owner = np.array([numbers[case.patient] for case, _ in rows], np.intp)

    def interval(statistic: Callable[[Float64], Float64]) -> MeanInterval:
        return bootstrap_statistic(
            statistic,
            n=len(rows),
            n_patients=len(numbers),
            level=settings.level,
            resamples=settings.resamples,
            seed=settings.seed,
        )

    matchings = [row for _, row in rows]
    rules = [hits.rule for hits in matchings[0].detections]
    pools = {rule: _pool(matchings, rule, owner, len(numbers)) for rule in rules}
    quality = _Quality(matchings, owner, len(numbers))
    whole = pooled(matchings)
    off = [float(row.n_prediction - row.n_reference) for row in matchings]
    counts = _means([[abs(x) for x in off], off], owner.tolist(), settings)
    pairs = [(owner[n], x) for n, row in enumerate(matchings) for x in row.instances if x.status == "matched"]
    owners = [int(patient) for patient, _ in pairs]
    matched = _means([[x.dice for _, x in pairs], [x.hd95_mm for _, x in pairs]], owners, settings)
    return DetectionSummary(
        label=label,
        n_cases=len(rows),
        n_reference=whole.n_reference,
        n_prediction=whole.n_prediction,
        n_scored=sum(not math.isnan(x) for row in matchings for hits in row.detections[:1] for x in hits.scores),
        average_precision={rule: interval(partial(average_precisions, pool)) for rule, pool in pools.items()},
        froc={
            rule: {f"{rate:g}": float(x) for rate, x in zip(FROC_RATES, froc(pool), strict=True)}
            for rule, pool in pools.items()
        },
        froc_score={rule: interval(partial(_froc_scores, pool)) for rule, pool in pools.items()},
        pq=interval(quality.pq),
        sq=interval(quality.sq),
        rq=interval(quality.rq),
        all_found=sum(row.tp_reference == row.n_reference for row in matchings) / len(matchings),
        count_error=counts[0],
        count_bias=counts[1],
        dice=matched[0],
        hd95_mm=matched[1],
    )


def _froc_scores(pool: Pool, times: Float64) -> Float64:
    means: Float64 = frocs(pool, times).mean(axis=1)
    return means


def _means(columns: Sequence[Sequence[float]], patients: Sequence[int], settings: CohortSettings) -> list[MeanInterval]:
    how = settings
    return bootstrap_means(columns, patients=patients, level=how.level, resamples=how.resamples, seed=how.seed)


def _pool(rows: Sequence[InstanceMatching], rule: str, owner: NDArray[np.intp], n_patients: int) -> Pool:
    hits = [next(x for x in row.detections if x.rule == rule) for row in rows]
    score = np.array([-math.inf if math.isnan(s) else s for x in hits for s in x.scores])
    hit = np.array([h for x in hits for h in x.hits], bool)
    patient = np.repeat(owner, [len(x.hits) for x in hits])
    order = np.argsort(-score, kind="stable")
    n_reference = np.bincount(owner, [row.n_reference for row in rows], n_patients).astype(np.float64)
    n_cases = np.bincount(owner, minlength=n_patients).astype(np.float64)
    return Pool(score[order], hit[order], patient[order], n_reference, n_cases)


class _Quality:
    """Panoptic quality from counts that were added up by patient."""

    def __init__(self, rows: Sequence[InstanceMatching], owner: NDArray[np.intp], n_patients: int) -> None:
        columns = np.array([(row.tp_reference, row.fp, row.fn, row.iou_sum) for row in rows], np.float64).T
        self._sums = np.stack([np.bincount(owner, column, n_patients) for column in columns])
        self._one_to_one = rows[0].rule != "overlap"

    def _ratios(self, top: Float64, bottom: Float64) -> Float64:
        nothing = np.full(top.shape, math.nan)
        return np.divide(top, bottom, out=nothing, where=bottom > 0) if self._one_to_one else nothing

    def sq(self, times: Float64) -> Float64:
        tp, _, _, iou = self._sums @ times.T
        return self._ratios(iou, tp)

    def rq(self, times: Float64) -> Float64:
        tp, fp, fn, _ = self._sums @ times.T
        return self._ratios(tp, tp + fp / 2 + fn / 2)

    def pq(self, times: Float64) -> Float64:
        tp, fp, fn, iou = self._sums @ times.T
        return self._ratios(iou, tp + fp / 2 + fn / 2)
