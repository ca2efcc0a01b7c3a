"""How far two measurements, or several readers, agree."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxmetry.core.records import BlandAltman, Reliability
from voxmetry.errors import ConfigError
from voxmetry.measurement.statistics import LEVEL, as_vector, plain_mean, require_level

Float64: TypeAlias = NDArray[np.float64]


def bland_altman(first: ArrayLike, second: ArrayLike, *, level: float = LEVEL) -> BlandAltman:
    """Return the bias and the 95 % limits of agreement of two measurements of the same things.

    Parameters
    ----------
    first, second
        (N,), in the same unit; differences are first minus second and are taken to be independent.
    level
        Coverage of the intervals round the bias and round each limit; the limits themselves are always
        bias +- 1.96 SD.

    Raises
    ------
    ConfigError
        If the two are not of the same length, or the level is out of range.

    Notes
    -----
    The standard error of the bias is SD / sqrt(n), that of a limit SD sqrt(1 / n + 1.96^2 / (2 (n - 1))); both
    intervals use the t distribution with n - 1 degrees of freedom.

    References
    ----------
    Bland and Altman, 1986, doi:10.1016/S0140-6736(86)90837-8, and 1999, doi:10.1177/096228029900800204.

    Examples
    --------
    >>> result = bland_altman([10.0, 12.0, 14.0], [9.0, 12.0, 15.0])
    >>> result.bias, result.sd, round(result.upper, 2)
    (0.0, 1.0, 1.96)
    """
    from scipy.stats import norm, t

    a, b = as_vector(first), as_vector(second)
    if len(a) != len(b):
        raise ConfigError(
            found=f"{len(a)} and {len(b)} measurements",
            expected="two of each thing, in the same order",
            fix="leave out what was measured once",
        )
    require_level(level)
    difference, n = a - b, len(a)
    bias, reason = plain_mean(difference)
    sd = se = width = math.nan
    if not reason and n < 2:
        reason = "one pair has no spread: no limits of agreement"
    z = float(norm.ppf(0.975))
    if not reason:
        sd, width = float(np.std(difference, ddof=1)), float(t.ppf((1 + level) / 2, n - 1))
        se = sd * math.sqrt(1 / n + z**2 / (2 * (n - 1)))
    error = width * sd / math.sqrt(n) if n else math.nan
    lower, upper = bias - z * sd, bias + z * sd
    return BlandAltman(
        n=n,
        bias=bias,
        bias_low=bias - error,
        bias_high=bias + error,
        sd=sd,
        lower=lower,
        lower_low=lower - width * se,
        lower_high=lower + width * se,
        upper=upper,
        upper_low=upper - width * se,
        upper_high=upper + width * se,
        level=level,
        reason=reason,
    )


def icc_2_1(ratings: ArrayLike, *, level: float = LEVEL) -> Reliability:
    """Return ICC(2,1), how far single readers agree absolutely, with its confidence interval.

    Parameters
    ----------
    ratings
        (N, K), one row a thing that was rated, one column a reader.
    level
        Coverage of the interval.

    Raises
    ------
    ConfigError
        If the table has fewer than two readers, or the level is out of range.

    Notes
    -----
    With the mean squares of a two-way analysis of variance for rows R, columns C and the rest E:
    ICC(2,1) = (MSR - MSE) / (MSR + (K - 1) MSE + K / N (MSC - MSE)). The interval is that of ICC(A,1).

    References
    ----------
    Shrout and Fleiss, 1979, doi:10.1037/0033-2909.86.2.420. McGraw and Wong, 1996, doi:10.1037/1082-989X.1.1.30.

    Examples
    --------
    >>> round(icc_2_1([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]).icc, 2)
    0.29
    """
    x = np.asarray(ratings, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] < 2:
        raise ConfigError(
            found=f"ratings of shape {x.shape}",
            expected="(N, K): N things, rated by K of at least 2 readers",
            fix="give each reader a column",
        )
    require_level(level)
    n, k = x.shape
    icc = low = high = math.nan
    reason = _unrateable(x)
    if not reason:
        icc, low, high = _icc(x, level)
        reason = "" if math.isfinite(low) else "the things that were rated do not differ: no interval"
    return Reliability(n=n, n_raters=k, icc=icc, low=low, high=high, level=level, reason=reason)


def _unrateable(x: Float64) -> str:
    if len(x) < 2:
        return "an ICC needs at least two things that were rated"
    if not np.isfinite(x).all():
        return f"{int(np.count_nonzero(~np.isfinite(x).all(axis=1)))} of {len(x)} rows are undefined"
    if np.ptp(x) == 0:
        return "all ratings are equal: an ICC is a share of their spread"
    return ""


def _icc(x: Float64, level: float) -> tuple[float, float, float]:
    from scipy.stats import f

    n, k = x.shape
    rows, columns, mean = x.mean(axis=1), x.mean(axis=0), x.mean()
    msr = k * float(((rows - mean) ** 2).sum()) / (n - 1)
    msc = n * float(((columns - mean) ** 2).sum()) / (k - 1)
    mse = float(((x - rows[:, None] - columns + mean) ** 2).sum()) / ((n - 1) * (k - 1))
    icc = (msr - mse) / (msr + (k - 1) * mse + k / n * (msc - mse))
    # Readers that agree to the last digit have no error to build an interval from.
    if mse <= 1e-24 * msr and msc <= 1e-24 * msr:
        return 1.0, 1.0, 1.0
    if msr <= 1e-24 * msc:
        return icc, math.nan, math.nan
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    v = (a * msc + b * mse) ** 2 / ((a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1)))
    tail = (1 + level) / 2
    over, under = float(f.ppf(tail, n - 1, v)), float(f.ppf(tail, v, n - 1))
    rest = k * msc + (k * n - k - n) * mse
    low = n * (msr - over * mse) / (over * rest + n * msr)
    high = n * (under * msr - mse) / (rest + n * under * msr)
    return icc, low, high
