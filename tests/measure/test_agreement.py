from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from voxmetry.errors import ConfigError, InputError
from voxmetry.measure import bland_altman, bootstrap_mean


def test_interval_as_scipys_bca():
    values = np.random.default_rng(0).gamma(2.0, size=25)
    expected = stats.bootstrap((values,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(1))
    found = bootstrap_mean(values.tolist())
    assert found.estimate == pytest.approx(values.mean())
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.03 * width)
    assert (found.n_patients, found.level, found.reason) == (25, 0.95, "")
    assert bootstrap_mean(values.tolist()) == found


def test_values_of_one_patient_are_drawn_together():
    # Ten equal values a patient carry no more than one.
    values = np.random.default_rng(2).normal(size=12)
    single = bootstrap_mean(values.tolist(), [f"p{n}" for n in range(12)])
    tenfold = bootstrap_mean(values.repeat(10).tolist(), [f"p{n}" for n in range(12) for _ in range(10)])
    assert (tenfold.low, tenfold.high) == pytest.approx((single.low, single.high))
    assert tenfold.n_patients == 12
    alone = bootstrap_mean(values.repeat(10).tolist())
    assert alone.high - alone.low < 0.5 * (single.high - single.low)


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        found = bootstrap_mean(rng.normal(5, 1, 30).tolist(), n_resamples=500, seed=trial)
        covered += found.low <= 5 <= found.high
    assert 0.89 < covered / 200 < 0.985


def test_an_undefined_value_is_not_dropped():
    found = bootstrap_mean([0.9, math.nan, 0.8])
    assert math.isnan(found.estimate)
    assert found.reason == "1 of 3 values are undefined"
    one = bootstrap_mean([0.9, 0.7], ["a", "a"])
    assert one.estimate == pytest.approx(0.8)
    assert math.isnan(one.low)
    assert "one patient" in one.reason
    same = bootstrap_mean([0.5] * 5)
    assert (same.low, same.high) == (0.5, 0.5)


def test_limits_of_agreement_by_hand():
    # Differences 1, 0, 1, -2: mean 0, SD sqrt(6 / 3).
    found = bland_altman([11, 12, 14, 8], [10, 12, 13, 10])
    assert (found.n, found.bias, found.sd) == (4, 0, pytest.approx(math.sqrt(2)))
    assert (found.low, found.high) == pytest.approx((-1.96 * math.sqrt(2), 1.96 * math.sqrt(2)))
    undefined = bland_altman([1, math.nan], [1, 2])
    assert math.isnan(undefined.bias)
    assert "1 of 2" in undefined.reason


def test_refusals():
    with pytest.raises(InputError, match="0 values"):
        bootstrap_mean([])
    with pytest.raises(InputError, match="2 values of 1 patients"):
        bootstrap_mean([1, 2], ["a"])
    for wrong in ({"level": 1}, {"n_resamples": 10}):
        with pytest.raises(ConfigError, match="level="):
            bootstrap_mean([1, 2], **wrong)
    for a, b in (([1], [1]), ([1, 2], [1])):
        with pytest.raises(InputError, match="values"):
            bland_altman(a, b)
