"""What the numbers of many cases say together: intervals and paired tests.

Cases of one patient resemble each other, so all resampling draws patients, with all of their rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxmetry.core.records import MeanInterval, PairedComparison
from voxmetry.errors import ConfigError

Float64: TypeAlias = NDArray[np.float64]

LEVEL, RESAMPLES = 0.95, 9999
_BATCH = 1_000_000


def bootstrap_mean(
    values: ArrayLike,
    *,
    patients: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MeanInterval:
    """Return the mean with its bias-corrected and accelerated (BCa) bootstrap interval, resampled by patient.

    Parameters
    ----------
    values
        (N,), one a row.
    patients
        (N,), whose row it is: rows of one patient are drawn together. None takes each row for a patient of its own.
    level
        Coverage that the interval aims at.
    resamples
        Number of bootstrap samples.
    seed
        Of the random numbers; the same seed gives the same interval.

    Returns
    -------
    MeanInterval
        The mean is over rows, so that a patient with more rows weighs more. It is nan, with the reason, if one value
        is; the interval is nan where patients do not differ, since nothing can be learnt from resampling them.

    Raises
    ------
    ConfigError
        If there is not one patient for each value, or a setting is out of range.

    References
    ----------
    Efron, 1987, doi:10.1080/01621459.1987.10478410. Davison and Hinkley, Bootstrap Methods and their Application,
    1997, section 3.8, doi:10.1017/CBO9780511802843: resampling whole clusters.

    Examples
    --------
    >>> result = bootstrap_mean([0.90, 0.80, 0.85, 0.95, 0.70, 0.88])
    >>> round(result.mean, 3), round(result.low, 2), round(result.high, 2)
    (0.847, 0.77, 0.9)
    """
    x = as_vector(values)
    (interval,) = bootstrap_means([x], patients=patients, level=level, resamples=resamples, seed=seed)
    return interval


def bootstrap_means(
    columns: Sequence[ArrayLike],
    *,
    patients: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[MeanInterval]:
    """Return `bootstrap_mean` of several numbers of the same rows, from the same draws of patients.

    Parameters
    ----------
    columns
        M sequences of N values.
    patients, level, resamples, seed
        As for `bootstrap_mean`.
    """
    require_level(level, resamples)
    if not columns:
        return []
    x = np.stack([as_vector(column) for column in columns])
    groups = _groups(x[0], patients)
    n = int(groups.max()) + 1 if len(groups) else 0
    counts = np.bincount(groups, minlength=n).astype(np.float64)
    means = [plain_mean(column) for column in x]
    sums = {
        place: np.bincount(groups, x[place], n).astype(np.float64)
        for place, (_, reason) in enumerate(means)
        if not reason
    }
    flat = {place: _no_spread(column, counts) for place, column in sums.items()}
    drawn = [place for place, reason in flat.items() if not reason]
    ends = {}
    if drawn:
        ends = dict(zip(drawn, _bca(np.stack([sums[p] for p in drawn]), counts, level, resamples, seed), strict=True))
    return [
        MeanInterval(
            n=x.shape[1],
            n_patients=n,
            mean=mean,
            low=ends.get(place, (math.nan, math.nan))[0],
            high=ends.get(place, (math.nan, math.nan))[1],
            level=level,
            reason=reason or flat[place],
        )
        for place, (mean, reason) in enumerate(means)
    ]


def plain_mean(x: Float64) -> tuple[float, str]:
    """Return the mean, or nan and why there is none."""
    if not len(x):
        return math.nan, "there is no value"
    undefined = int(np.count_nonzero(~np.isfinite(x)))
    if undefined:
        return math.nan, f"{undefined} of {len(x)} values are undefined"
    return math.fsum(x) / len(x), ""


def _no_spread(sums: Float64, counts: Float64) -> str:
    if len(sums) < 2:
        return "one patient has no spread between patients: no interval"
    means = sums / counts
    # Rounding alone would otherwise pass for a spread.
    if np.ptp(means) <= 1e-12 * np.abs(means).max():
        return "all patients have the same value: no interval"
    return ""


def _bca(sums: Float64, counts: Float64, level: float, resamples: int, seed: int) -> list[tuple[float, float]]:
    """Interval of each row of `sums` (M, patients) over `counts` (patients,)."""
    n = len(counts)
    rng = np.random.default_rng(seed)
    drawn = []
    for first in range(0, resamples, batch := max(1, _BATCH // n)):
        # How often each patient is drawn: all that a mean needs to know of a resample.
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(batch, resamples - first)).astype(np.float64)
        drawn.append((times @ sums.T) / (times @ counts)[:, None])
    boot = np.concatenate(drawn)
    whole = sums.sum(axis=1) / counts.sum()
    without = (sums.sum(axis=1)[:, None] - sums) / (counts.sum() - counts)
    ends = []
    for place in range(len(sums)):
        ends.append(_ends(boot[:, place], float(whole[place]), without[place], level))
    return ends


def _ends(boot: Float64, whole: float, without: Float64, level: float) -> tuple[float, float]:
    """Return the BCa interval from the number of each draw, of all, and of all without each patient."""
    from scipy.special import ndtr, ndtri

    # Rounding must not decide on which side of the mean an equal resample lies.
    apart = boot - whole
    apart[np.abs(apart) <= 1e-12 * abs(whole)] = 0
    below = (np.count_nonzero(apart < 0) + np.count_nonzero(apart == 0) / 2) / len(boot)
    bias = ndtri(below)
    d = without.mean() - without
    d = d / np.abs(d).max()
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = bias + ndtri(np.array([(1 - level) / 2, (1 + level) / 2]))
    low, high = np.quantile(boot, ndtr(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


_DRAWS = 500
"""Draws of patients that are looked at together: a statistic may need memory for each prediction of each."""


def bootstrap_statistic(
    statistic: Callable[[Float64], Float64],
    *,
    n: int,
    n_patients: int,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MeanInterval:
    """Return a number of many cases that is no mean, such as average precision, with its BCa interval by patient.

    Parameters
    ----------
    statistic
        Takes how often each patient counts, (B, patients) float64, B times over, and returns the B numbers; nan where
        one is not defined.
    n, n_patients
        Rows and patients.
    level, resamples, seed
        As for `bootstrap_mean`.

    Returns
    -------
    MeanInterval
        `mean` is the number itself. Without an interval where there is one patient, where leaving one out changes
        nothing, or where the number is not defined for some draws.
    """
    require_level(level, resamples)
    whole = float(statistic(np.ones((1, n_patients)))[0])
    found = MeanInterval(n=n, n_patients=n_patients, mean=whole, low=math.nan, high=math.nan, level=level)
    if math.isnan(whole):
        return found.model_copy(update={"reason": "it is not defined: there is nothing to divide by"})
    if n_patients < 2:
        return found.model_copy(update={"reason": "one patient has no spread between patients: no interval"})
    without = statistic(1.0 - np.eye(n_patients))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples)
    # Of few patients the same draw comes many times.
    times, place = np.unique(draws, axis=0, return_inverse=True)
    parts = range(0, len(times), _DRAWS)
    values = np.concatenate([statistic(times[first : first + _DRAWS].astype(np.float64)) for first in parts])
    boot = values[place.ravel()]
    if not (np.isfinite(without).all() and np.isfinite(boot).all()):
        return found.model_copy(update={"reason": "it is not defined for some draws of patients: no interval"})
    if np.ptp(without) <= 1e-12 * max(abs(whole), 1e-300):
        return found.model_copy(update={"reason": "no patient changes it: no interval"})
    low, high = _ends(boot, whole, without, level)
    return found.model_copy(update={"low": low, "high": high})


def compare_paired(
    first: ArrayLike,
    second: ArrayLike,
    *,
    patients: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedComparison:
    """Compare two models by their values on the same cases.

    Parameters
    ----------
    first, second
        (N,), the two models' values of the same case at the same place.
    patients, level, resamples, seed
        As for `bootstrap_mean`.

    Returns
    -------
    PairedComparison
        The mean difference, first minus second, with its BCa interval; Wilcoxon's signed-rank test of the patients'
        mean differences, where zeros are ranked and then dropped (Pratt); the rank-biserial correlation
        (W+ - W-) / (W+ + W-) as the effect size. Pairs with an undefined value are left out and counted.

    Raises
    ------
    ConfigError
        If the two are not of the same length, or a setting is out of range.

    References
    ----------
    Wilcoxon, 1945, doi:10.2307/3001968. Pratt, 1959, doi:10.1080/01621459.1959.10501526. Kerby, 2014,
    doi:10.2466/11.IT.3.1.

    Examples
    --------
    >>> result = compare_paired([0.9, 0.8, 0.85, 0.95, 0.7], [0.88, 0.8, 0.8, 0.91, 0.71])
    >>> round(result.difference.mean, 3), result.n_ties, result.w_plus, result.w_minus
    (0.02, 1, 12.0, 2.0)
    """
    a, b = as_vector(first), as_vector(second)
    if len(a) != len(b):
        raise ConfigError(
            found=f"{len(a)} values of the first model and {len(b)} of the second",
            expected="values of the same cases in the same order",
            fix="leave out the cases that only one of the two models has",
        )
    groups = _groups(a, patients)
    whole = np.isfinite(a) & np.isfinite(b)
    difference, groups = (a - b)[whole], groups[whole]
    mean = bootstrap_mean(difference, patients=groups.tolist(), level=level, resamples=resamples, seed=seed)
    by_patient = _patient_means(difference, groups)
    plus, minus, p_value, reason = _signed_rank(by_patient)
    return PairedComparison(
        difference=mean,
        median_difference=float(np.median(difference)) if len(difference) else math.nan,
        n_ties=int(np.count_nonzero(by_patient == 0)),
        w_plus=plus,
        w_minus=minus,
        p_value=p_value,
        effect_size=(plus - minus) / (plus + minus) if plus + minus > 0 else math.nan,
        n_undefined=int(np.count_nonzero(~whole)),
        reason=reason,
    )


def _signed_rank(difference: Float64) -> tuple[float, float, float, str]:
    """W+ and W- with Pratt's zeros, the two-sided p-value, and why there is none."""
    from scipy.stats import rankdata, wilcoxon

    if not len(difference):
        return math.nan, math.nan, math.nan, "there is no pair"
    if not difference.any():
        return 0.0, 0.0, math.nan, "all pairs are equal: there is nothing to test"
    ranks = rankdata(np.abs(difference))
    plus, minus = float(ranks[difference > 0].sum()), float(ranks[difference < 0].sum())
    return plus, minus, float(wilcoxon(difference, zero_method="pratt").pvalue), ""


def _patient_means(values: Float64, groups: NDArray[np.intp]) -> Float64:
    if not len(values):
        return values
    counts = np.bincount(groups)
    means: Float64 = np.bincount(groups, values)[counts > 0] / counts[counts > 0]
    return means


def holm(p_values: ArrayLike) -> Float64:
    """Adjust p-values of several tests by Holm's step-down method; nan stays nan and counts as no test.

    References
    ----------
    Holm, 1979, Scandinavian Journal of Statistics 6, 65-70, https://www.jstor.org/stable/4615733.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = as_vector(p_values)
    adjusted = np.full(len(p), math.nan)
    order = [int(place) for place in np.argsort(p, kind="stable") if np.isfinite(p[place])]
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * float(p[place])))
        adjusted[place] = largest
    return adjusted


def quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """Return the first quartile, median and third quartile, interpolated linearly between ranks.

    Infinite values take part in the ranking; a quartile that reaches one is nan.

    Examples
    --------
    >>> quartiles([1.0, 2.0, 3.0, 4.0, float("inf")])
    (2.0, 3.0, 4.0)
    >>> quartiles([1.0, 2.0, float("inf")])
    (1.5, 2.0, nan)
    """
    x = np.sort(as_vector(values))
    if not len(x):
        return (math.nan, math.nan, math.nan)

    def at(share: float) -> float:
        place = share * (len(x) - 1)
        low, part = int(place), place - int(place)
        value = float(x[low]) if part == 0 else float(x[low]) * (1 - part) + float(x[low + 1]) * part
        return value if math.isfinite(value) else math.nan

    return at(0.25), at(0.5), at(0.75)


def as_vector(values: ArrayLike) -> Float64:
    """Return the values as float64 of shape (N,), or raise `ConfigError`."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ConfigError(
            found=f"values of shape {x.shape}", expected="one value a row, shape (N,)", fix="pass one metric at a time"
        )
    return x


def _groups(x: Float64, patients: Sequence[Hashable] | None) -> NDArray[np.intp]:
    """Return the patients as numbers from 0, in the order in which they first appear."""
    if patients is None:
        return np.arange(len(x))
    if len(patients) != len(x):
        raise ConfigError(
            found=f"{len(patients)} patients for {len(x)} values",
            expected="the patient of each value",
            fix="pass one patient a value, the same one for rows that belong together",
        )
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(patient, len(numbers)) for patient in patients], dtype=np.intp)


def require_level(level: float, resamples: int = RESAMPLES) -> None:
    """Raise `ConfigError` for a level outside 0 to 1 or too few resamples."""
    if not 0 < level < 1 or resamples < 100:
        raise ConfigError(
            found=f"level {level:g} and {resamples} resamples",
            expected="a level between 0 and 1 and at least 100 resamples",
            fix="use 0.95 and 9999 where there is no reason for other ones",
        )
