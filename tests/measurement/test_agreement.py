from __future__ import annotations

import math

import numpy as np
import pytest

from voxmetry.errors import ConfigError
from voxmetry.measurement.agreement import bland_altman, icc_2_1

# Shrout and Fleiss, 1979, table 2: six targets, four judges.
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
# Bland and Altman, 1986, table 1: first reading of PEFR by the large and the mini meter, 17 people.
LARGE = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


class TestBlandAltman:
    def test_the_published_example(self):
        result = bland_altman(LARGE, MINI)
        # Bias -2.1 l/min, SD 38.8; the paper rounds 1.96 up to 2 for its limits -79.7 and 75.5.
        assert result.bias == pytest.approx(-2.1, abs=0.05)
        assert result.sd == pytest.approx(38.8, abs=0.05)
        assert result.bias - 2 * result.sd == pytest.approx(-79.7, abs=0.1)
        # Interval of the bias -22.0 to 17.8.
        assert (result.bias_low, result.bias_high) == (pytest.approx(-22.0, abs=0.1), pytest.approx(17.8, abs=0.1))

    def test_limits_by_hand(self):
        # Differences 1, 0, -1: SD 1, t(0.975, 2) = 4.302653.
        result = bland_altman([10.0, 12.0, 14.0], [9.0, 12.0, 15.0])
        assert (result.lower, result.upper) == (pytest.approx(-1.959964), pytest.approx(1.959964))
        assert result.bias_high == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
        se = math.sqrt(1 / 3 + 1.959964**2 / 4)
        assert result.upper_high - result.upper == pytest.approx(4.302653 * se, rel=1e-6)
        assert result.lower - result.lower_low == pytest.approx(4.302653 * se, rel=1e-6)

    def test_limit_intervals_cover_the_true_limits(self):
        rng, hits = np.random.default_rng(0), 0
        for _ in range(300):
            found = bland_altman(rng.normal(size=40), np.zeros(40))
            hits += found.upper_low <= 1.959964 <= found.upper_high
        assert 0.91 <= hits / 300 <= 0.98

    @pytest.mark.parametrize(("n", "reason"), [(0, "no value"), (1, "one pair")])
    def test_too_few_pairs_have_no_limits(self, n, reason):
        result = bland_altman([1.0] * n, [0.5] * n)
        assert math.isnan(result.upper)
        assert math.isnan(result.bias_low)
        assert reason in result.reason
        assert result.n == n

    def test_an_undefined_measurement_leaves_none_of_it_defined(self):
        result = bland_altman([1.0, math.nan], [1.0, 2.0])
        assert math.isnan(result.bias)
        assert math.isnan(result.upper)
        assert "1 of 2" in result.reason

    def test_wrong_input_is_refused(self):
        with pytest.raises(ConfigError, match="2 and 1"):
            bland_altman([1.0, 2.0], [1.0])
        with pytest.raises(ConfigError, match="level"):
            bland_altman([1.0], [1.0], level=1.5)


class TestIcc:
    def test_the_published_example(self):
        result = icc_2_1(SHROUT_FLEISS)
        assert result.icc == pytest.approx(0.29, abs=0.005)
        # The interval that R's psych::ICC prints for the same table.
        assert (result.low, result.high) == (pytest.approx(0.019, abs=5e-4), pytest.approx(0.761, abs=5e-4))

    def test_a_constant_offset_between_readers_lowers_it(self):
        first = np.array([1.0, 2.0, 3.0, 4.0, 5.5])
        # MSR = 2 * var, MSC = 5 * 1 / 2 and no error: ICC = MSR / (MSR + 2 / 5 * MSC).
        msr, msc = 2 * first.var(ddof=1), 2.5
        result = icc_2_1(np.column_stack([first, first + 1]))
        assert result.icc == pytest.approx(msr / (msr + 2 / 5 * msc))
        assert result.low < result.icc < result.high <= 1

    def test_equal_readers_agree_fully(self):
        result = icc_2_1([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
        assert (result.icc, result.low, result.high, result.reason) == (1.0, 1.0, 1.0, "")

    def test_interval_covers_the_true_value(self):
        rng, hits = np.random.default_rng(1), 0
        for _ in range(300):
            # Variances 1 of things, 0 of readers, 0.25 of the rest: the ICC is 0.8.
            x = rng.normal(size=(30, 1)) + 0.5 * rng.normal(size=(30, 2))
            found = icc_2_1(x)
            hits += found.low <= 0.8 <= found.high
        assert 0.91 <= hits / 300 <= 0.98

    @pytest.mark.parametrize(
        ("ratings", "reason"),
        [
            ([[1.0, 2.0]], "at least two things"),
            ([[1.0, math.nan], [2.0, 2.0]], "1 of 2 rows"),
            ([[3.0, 3.0], [3.0, 3.0]], "all ratings are equal"),
        ],
    )
    def test_where_there_is_none_it_says_why(self, ratings, reason):
        result = icc_2_1(ratings)
        assert math.isnan(result.icc)
        assert reason in result.reason

    def test_things_that_do_not_differ_have_no_interval(self):
        result = icc_2_1([[1.0, 2.0], [1.0, 2.0]])
        assert result.icc == 0
        assert math.isnan(result.low)
        assert "do not differ" in result.reason

    def test_one_reader_is_refused(self):
        with pytest.raises(ConfigError, match="2 readers"):
            icc_2_1([[1.0], [2.0]])
