"""Statistics over cases: means with intervals, agreement, paired differences."""

from __future__ import annotations

from voxmetry.core.base import Number, Record


class MeanInterval(Record):
    """A mean with its bootstrap confidence interval, resampled by patient."""

    n: int
    """Rows."""
    n_patients: int
    mean: Number
    low: Number
    high: Number
    level: float
    """Coverage that the interval aims at, such as 0.95."""
    reason: str = ""
    """Why a number is nan; empty where none is."""


class Distribution(Record):
    """How a number is spread over the rows of one structure."""

    mean: MeanInterval
    sd: Number
    """Standard deviation of the sample (division by n - 1)."""
    median: Number
    q1: Number
    q3: Number
    """Quartiles, interpolated linearly. A row without the number ranks as the worst; nan where they reach it."""
    worst: Number
    worst_case: str | None
    """The case of the worst row: one in a single mask first, then the lowest overlap or largest distance."""
    n_undefined: int
    """Rows without this number: structures in one mask only have no distance."""


class BlandAltman(Record):
    """Agreement of two measurements of the same things: bias and 95 % limits of agreement."""

    n: int
    bias: Number
    bias_low: Number
    bias_high: Number
    sd: Number
    """Standard deviation of the differences (division by n - 1)."""
    lower: Number
    lower_low: Number
    lower_high: Number
    upper: Number
    upper_low: Number
    upper_high: Number
    level: float
    """Coverage of the three intervals."""
    reason: str = ""


class Reliability(Record):
    """Intraclass correlation ICC(2,1): two-way random effects, single rater, absolute agreement."""

    n: int
    n_raters: int
    icc: Number
    low: Number
    high: Number
    level: float
    reason: str = ""


class PairedComparison(Record):
    """Two models on the same cases: differences are first minus second."""

    label: str = ""
    metric: str = ""
    difference: MeanInterval
    median_difference: Number
    n_ties: int
    """Patients whose mean difference is exactly 0."""
    w_plus: Number
    w_minus: Number
    """Sums of the ranks of the positive and negative differences of patients."""
    p_value: Number
    """Wilcoxon's signed-rank test on patients, two-sided."""
    p_adjusted: Number = float("nan")
    """The p-value after Holm's correction over all comparisons of the same table."""
    effect_size: Number
    """Matched-pairs rank-biserial correlation, -1 to 1."""
    n_undefined: int = 0
    """Cases left out because one of the two models has no value there."""
    reason: str = ""
