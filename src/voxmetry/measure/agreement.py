"""Statistics over patients: confidence intervals and the agreement of two methods or readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from voxmetry.core.records import Agreement, Interval
from voxmetry.errors import ConfigError, InputError

_NORMAL = NormalDist()


def bootstrap_mean(
    values: Sequence[float],
    patients: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return the mean and its bias-corrected and accelerated bootstrap interval, drawing whole patients.

    For a paired comparison of two models pass the differences of their values.

    Parameters
    ----------
    values
        One number a case or a structure.
    patients
        Whom each value belongs to; None counts each as a patient of its own. Values of one patient are not independent,
        so that they are drawn together.
    level
        Share that the interval is to cover, between 0 and 1.
    n_resamples, seed
        Number of draws; the same seed gives the same interval.

    Returns
    -------
    Interval
        All nan, with a reason, if a value is nan: leaving it out would be another mean. Interval nan for one patient.

    Raises
    ------
    InputError
        If there are no values, or values and patients differ in number.
    ConfigError
        If `level` or `n_resamples` is out of range.

    References
    ----------
    Efron, 1987, doi:10.1080/01621459.1987.10478410.

    Examples
    --------
    >>> found = bootstrap_mean([0.91, 0.88, 0.93, 0.90, 0.72, 0.89])
    >>> round(found.estimate, 4), found.low < found.estimate < found.high
    (0.8717, True)
    """
    if not 0 < level < 1 or n_resamples < 100:
        raise ConfigError(
            found=f"level={level}, n_resamples={n_resamples}",
            expected="a level between 0 and 1 and at least 100 resamples",
            fix="use 0.95 and 9999 if in doubt",
        )
    who = list(range(len(values))) if patients is None else list(patients)
    if not len(values) or len(who) != len(values):
        raise InputError(
            found=f"{len(values)} values of {len(who)} patients",
            expected="one patient a value, one value at least",
            fix="pass both in the same order",
        )
    array = np.asarray(values, dtype=np.float64)
    _, group = np.unique(np.array(who, dtype=str), return_inverse=True)
    totals, counts = (np.asarray(np.bincount(group, weights=w), np.float64) for w in (array, None))
    n = len(counts)
    estimate = float(array.mean())
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        return _interval(math.nan, math.nan, math.nan, level, n, f"{bad} of {len(array)} values are undefined")
    if n < 2:
        return _interval(estimate, math.nan, math.nan, level, n, "one patient: no interval")
    means = np.sort(_resampled(totals, counts, n_resamples, seed))
    low, high = _bca(means, estimate, (totals.sum() - totals) / (counts.sum() - counts), level)
    return _interval(estimate, low, high, level, n, "")


def bland_altman(first: Sequence[float], second: Sequence[float]) -> Agreement:
    """Return bias and 95 % limits of agreement of two methods on the same cases.

    Parameters
    ----------
    first, second
        One number a case, in the same order and unit.

    Returns
    -------
    Agreement
        The limits are bias -+ 1.96 standard deviations of the differences. All nan, with a reason, if a value is.

    Raises
    ------
    InputError
        If the two differ in number, or there are fewer than two cases.

    References
    ----------
    Bland and Altman, 1986, doi:10.1016/S0140-6736(86)90837-8.

    Examples
    --------
    >>> bland_altman([10.0, 12.0, 14.0], [9.0, 12.0, 13.0]).bias
    0.6666666666666666
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(
            found=f"{len(first)} and {len(second)} values",
            expected="the same cases twice, two at least",
            fix="pass one value a case from both methods, in the same order",
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.isfinite(differences).all():
        bad = int(np.count_nonzero(~np.isfinite(differences)))
        reason = f"{bad} of {len(differences)} differences are undefined"
        return Agreement(n=len(differences), bias=math.nan, sd=math.nan, low=math.nan, high=math.nan, reason=reason)
    bias, sd = float(differences.mean()), float(differences.std(ddof=1))
    return Agreement(n=len(differences), bias=bias, sd=sd, low=bias - 1.96 * sd, high=bias + 1.96 * sd)


def _interval(estimate: float, low: float, high: float, level: float, n: int, reason: str) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, level=level, n_patients=n, reason=reason)


def _resampled(
    totals: NDArray[np.float64], counts: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=n_resamples)
    means: NDArray[np.float64] = (times @ totals) / (times @ counts)
    return means


def _bca(
    means: NDArray[np.float64], estimate: float, jackknife: NDArray[np.float64], level: float
) -> tuple[float, float]:
    """Read the interval off the sorted means at percentiles corrected for bias and skewness."""
    below = (np.count_nonzero(means < estimate) + np.count_nonzero(means <= estimate)) / 2 / len(means)
    # A share of 0 or 1 has no normal quantile; half a draw is as close as the draws can tell.
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(means)), 1 - 0.5 / len(means)))
    pull = jackknife.mean() - jackknife
    spread = float((pull**2).sum())
    skew = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = []
    for share in ((1 - level) / 2, (1 + level) / 2):
        z = bias + _NORMAL.inv_cdf(share)
        ends.append(float(np.quantile(means, _NORMAL.cdf(bias + z / (1 - skew * z)))))
    return ends[0], ends[1]
