"""Intervals and tests of differences, against SciPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from heads.intervals import Z_95, mcnemar, wilson


@given(trials=st.integers(1, 100_000), share=st.floats(0, 1))
def test_wilson_is_scipys(trials, share):
    successes = round(share * trials)
    interval = wilson(successes, trials)
    expected = binomtest(successes, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert interval.low == pytest.approx(expected.low, abs=1e-12)
    assert interval.high == pytest.approx(expected.high, abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_the_quantile_is_that_of_the_normal_distribution():
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == Z_95


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 3)])
def test_wilson_of_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match="expected 0 to"):
        wilson(successes, trials)


@pytest.mark.parametrize(
    ("n", "ours", "theirs"), [(10, 0.5, 0.5), (500, 0.9, 0.8), (500, 0.9, 0.9), (20000, 0.6, 0.61)]
)
def test_mcnemar_is_a_binomial_test_of_the_rows_that_one_alone_has_right(n, ours, theirs):
    random = np.random.default_rng(n)
    a, b = random.random(n) < ours, random.random(n) < theirs
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_heads_that_are_right_on_the_same_rows_do_not_differ():
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1
    assert mcnemar(np.array([True, False]), np.array([False, True])) == 1


def test_of_many_rows_that_one_alone_has_right_the_p_value_is_nothing():
    assert 0 <= mcnemar(np.ones(30000, bool), np.zeros(30000, bool)) < 1e-300
