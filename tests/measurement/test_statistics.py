from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from voxmetry.errors import ConfigError
from voxmetry.measurement.statistics import bootstrap_mean, bootstrap_means, compare_paired, holm, quartiles

SCORES = [0.91, 0.84, 0.88, 0.95, 0.62, 0.90, 0.79, 0.93]


class TestBootstrap:
    def test_equals_scipy_where_each_row_is_a_patient(self):
        for values in (SCORES, np.random.default_rng(1).exponential(size=40)):
            ours = bootstrap_mean(values, resamples=50000, seed=3)
            theirs = stats.bootstrap(
                (np.array(values),), np.mean, n_resamples=50000, method="BCa", rng=np.random.default_rng(4)
            ).confidence_interval
            width = theirs.high - theirs.low
            assert ours.mean == pytest.approx(np.mean(values))
            # Both are Monte Carlo: their ends differ by about a few parts in a hundred of the width.
            assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
            assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)

    def test_skew_moves_the_interval_towards_the_tail(self):
        result = bootstrap_mean([1.0] * 15 + [2.0, 9.0])
        assert result.high - result.mean > 1.5 * (result.mean - result.low)

    @pytest.mark.parametrize(("clustered", "least"), [(False, 0.90), (True, 0.90)])
    def test_covers_the_true_mean_about_as_often_as_it_says(self, clustered, least):
        rng = np.random.default_rng(5)
        hits = naive = 0
        for turn in range(300):
            if clustered:
                # 20 patients with 4 rows that mostly repeat the patient's own level.
                values = (rng.normal(size=(20, 1)) + 0.3 * rng.normal(size=(20, 4))).ravel()
                patients = np.repeat(np.arange(20), 4).tolist()
            else:
                values, patients = rng.normal(size=30), None
            found = bootstrap_mean(values, patients=patients, resamples=500, seed=turn)
            hits += found.low <= 0 <= found.high
            if clustered:
                alone = bootstrap_mean(values, resamples=500, seed=turn)
                naive += alone.low <= 0 <= alone.high
        assert least <= hits / 300 <= 0.98
        if clustered:
            # Rows that pass for patients promise 95 % and keep about 65 %.
            assert naive / 300 < 0.75

    def test_rows_of_a_patient_are_drawn_together(self):
        # Each patient twice is the same knowledge as each patient once.
        once = bootstrap_mean(SCORES, seed=2)
        twice = bootstrap_mean(np.repeat(SCORES, 2), patients=[n // 2 for n in range(16)], seed=2)
        assert (twice.n, twice.n_patients) == (16, 8)
        assert (twice.low, twice.high) == (pytest.approx(once.low), pytest.approx(once.high))

    def test_the_mean_is_over_rows(self):
        result = bootstrap_mean([1.0, 1.0, 1.0, 5.0], patients=["a", "a", "a", "b"])
        assert result.mean == 2.0

    def test_a_seed_gives_the_same_interval_and_another_one_another(self):
        assert bootstrap_mean(SCORES, seed=1) == bootstrap_mean(SCORES, seed=1)
        assert bootstrap_mean(SCORES, seed=1).low != bootstrap_mean(SCORES, seed=2).low

    def test_several_columns_equal_each_alone(self):
        other = [*SCORES[1:], 0.5]
        together = bootstrap_means([SCORES, other], seed=9)
        assert together[0] == bootstrap_mean(SCORES, seed=9)
        assert together[1] == bootstrap_mean(other, seed=9)

    @pytest.mark.parametrize(
        ("values", "patients", "mean", "reason"),
        [
            ([], None, math.nan, "no value"),
            ([0.5], None, 0.5, "one patient"),
            ([0.5, 0.7], ["a", "a"], 0.6, "one patient"),
            ([0.1 + 0.2, 0.3], None, 0.3, "same value"),
            ([0.0, 0.0], None, 0.0, "same value"),
            ([0.5, math.nan, 0.7], None, math.nan, "1 of 3"),
            ([0.5, math.inf], None, math.nan, "1 of 2"),
        ],
    )
    def test_where_there_is_no_interval_it_says_why(self, values, patients, mean, reason):
        result = bootstrap_mean(values, patients=patients)
        assert result.mean == pytest.approx(mean, nan_ok=True)
        assert math.isnan(result.low)
        assert math.isnan(result.high)
        assert reason in result.reason

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=12), st.integers(0, 99))
    def test_interval_lies_within_the_values_and_moves_with_them(self, values, seed):
        found = bootstrap_mean(values, resamples=200, seed=seed)
        if found.reason:
            return
        slack = 1e-9 * max(map(abs, values))
        assert min(values) - slack <= found.low <= found.high <= max(values) + slack
        twice = bootstrap_mean(2 * np.array(values), resamples=200, seed=seed)
        assert (twice.low, twice.high) == (2 * found.low, 2 * found.high)

    @pytest.mark.parametrize("bad", [{"level": 1.0}, {"level": 0.0}, {"resamples": 99}, {"patients": ["a"]}])
    def test_settings_out_of_range_are_refused(self, bad):
        with pytest.raises(ConfigError):
            bootstrap_mean([1.0, 2.0], **bad)

    def test_a_table_is_refused(self):
        with pytest.raises(ConfigError, match="shape"):
            bootstrap_mean(np.ones((2, 2)))


class TestPaired:
    def test_by_hand(self):
        # Differences 1, -2, 3, 0: ranks of the sizes with the zero 2, 3, 4, 1.
        result = compare_paired([2.0, 1.0, 5.0, 4.0], [1.0, 3.0, 2.0, 4.0])
        assert (result.w_plus, result.w_minus, result.n_ties) == (6.0, 3.0, 1)
        assert result.effect_size == pytest.approx(1 / 3)
        assert result.difference.mean == 0.5
        assert result.median_difference == 0.5

    def test_p_value_of_an_exact_case(self):
        # Five positive differences without a tie: 2 * (1 / 2)^5.
        result = compare_paired([1.0, 2.0, 3.0, 4.0, 5.0], [0.9, 1.8, 2.7, 3.6, 4.5])
        assert result.p_value == pytest.approx(2 / 32)
        assert result.effect_size == 1.0

    def test_cases_of_a_patient_count_once_in_the_test(self):
        first, second = [2.0, 2.0, 2.0, 5.0, 1.0], [1.0, 1.0, 1.0, 2.0, 3.0]
        result = compare_paired(first, second, patients=["a", "a", "a", "b", "c"])
        # Differences of patients: 1, 3, -2.
        assert (result.w_plus, result.w_minus) == (4.0, 2.0)
        assert (result.difference.n, result.difference.n_patients) == (5, 3)

    def test_equal_models_have_nothing_to_test(self):
        result = compare_paired(SCORES, SCORES)
        assert result.n_ties == len(SCORES)
        assert math.isnan(result.p_value)
        assert math.isnan(result.effect_size)
        assert "equal" in result.reason

    def test_an_undefined_value_leaves_its_pair_out_and_is_counted(self):
        result = compare_paired([1.0, math.nan, 3.0], [0.5, 0.5, 1.0])
        assert (result.n_undefined, result.difference.n) == (1, 2)
        assert result.difference.mean == 1.25

    def test_nothing_to_pair_is_nan(self):
        result = compare_paired([math.nan], [1.0])
        assert math.isnan(result.p_value)
        assert result.reason == "there is no pair"

    def test_lengths_must_agree(self):
        with pytest.raises(ConfigError, match="2 values of the first"):
            compare_paired([1.0, 2.0], [1.0])


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, times 3, 2, 1 and never falling; nan is no test.
    assert holm([0.02, math.nan, 0.01, 0.03]).tolist() == pytest.approx([0.04, math.nan, 0.03, 0.04], nan_ok=True)
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_quartiles_equal_numpys_linear_ones(values):
    assert quartiles(values) == pytest.approx(tuple(np.percentile(values, (25, 50, 75))), abs=1e-9)


def test_a_quartile_that_reaches_what_is_undefined_is_nan():
    assert quartiles([1.0, 2.0, 3.0, math.inf]) == (1.75, 2.5, pytest.approx(math.nan, nan_ok=True))
    assert all(math.isnan(x) for x in quartiles([]))
