"""Intervals and tests of differences, against SciPy."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from heads.evaluation.intervals import (
    FEWEST_GROUPS,
    Z_95,
    Interval,
    few_groups,
    group_numbers,
    holm,
    mcnemar,
    paired_bootstrap,
    proportion,
    proportions,
    wilson,
)


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


@pytest.mark.parametrize(("n", "ours", "theirs"), [(10, 0.5, 0.5), (500, 0.9, 0.8), (500, 0.9, 0.9), (5000, 0.6, 0.61)])
def test_mcnemar_is_a_binomial_test_of_the_rows_that_one_alone_has_right(n, ours, theirs):
    random = np.random.default_rng(n)
    a, b = random.random(n) < ours, random.random(n) < theirs
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    either, fewer = only_a + only_b, min(only_a, only_b)
    ways = sum(math.comb(either, count) for count in range(fewer + 1))
    assert mcnemar(a, b) == pytest.approx(float(min(Fraction(1), Fraction(2 * ways, 2**either))), rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_heads_that_are_right_on_the_same_rows_do_not_differ():
    same = np.array([True, False, True])
    assert mcnemar(same, same) == 1
    assert mcnemar(np.array([True, False]), np.array([False, True])) == 1


def test_of_many_rows_that_one_alone_has_right_the_p_value_is_nothing():
    assert 0 <= mcnemar(np.ones(30000, bool), np.zeros(30000, bool)) < 1e-300


def test_the_paired_bootstrap_is_that_of_resampled_rows():
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(200) < 0.9, rng.random(200) < 0.8
    interval = paired_bootstrap(ours, theirs, replicates=20_000, seed=1)
    rows = rng.integers(0, 200, (20_000, 200))
    low, high = np.percentile(ours[rows].mean(axis=1) - theirs[rows].mean(axis=1), (2.5, 97.5))
    assert interval.value == pytest.approx(ours.mean() - theirs.mean())
    assert interval.low == pytest.approx(low, abs=0.0051)  # one row is 0.005
    assert interval.high == pytest.approx(high, abs=0.0051)


def test_the_paired_bootstrap_follows_from_its_seed_and_turns_with_its_heads():
    rng = np.random.default_rng(3)
    ours, theirs = rng.random(500) < 0.9, rng.random(500) < 0.8
    interval = paired_bootstrap(ours, theirs)
    assert interval == paired_bootstrap(ours, theirs, seed=0)
    assert interval != paired_bootstrap(ours, theirs, seed=1)
    turned = paired_bootstrap(theirs, ours)
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-interval.value, -interval.high, -interval.low), abs=0.01
    )


def test_the_paired_bootstrap_of_heads_that_never_or_always_differ():
    same = np.array([True, False])
    assert paired_bootstrap(same, same) == Interval(0.0, 0.0, 0.0)
    assert paired_bootstrap(np.ones(5, bool), np.zeros(5, bool)) == Interval(1.0, 1.0, 1.0)


def test_the_paired_bootstrap_of_no_row_or_of_different_rows():
    with pytest.raises(ValueError, match="0 and 0 rows"):
        paired_bootstrap(np.empty(0, bool), np.empty(0, bool))
    with pytest.raises(ValueError, match="2 and 3 rows"):
        paired_bootstrap(np.ones(2, bool), np.ones(3, bool))


def test_holms_p_values_by_hand():
    assert holm([]) == ()
    assert holm([0.2]) == (0.2,)
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 is not above that, so 0.06 as well; 0.9 stays
    assert holm([0.02, 0.9, 0.01, 0.03]) == pytest.approx((0.06, 0.9, 0.04, 0.06))
    assert holm([0.5, 0.6]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_raises_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    by_size = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [adjusted[each] for each in by_size] == sorted(adjusted)


def grouped(n, count, seed=0):
    """Return rows in groups, of which a head has some right more often than others, and the groups."""
    random = np.random.default_rng(seed)
    numbers = np.sort(random.integers(0, count, n))
    share = random.beta(2, 0.5, count)[numbers]
    return random.random((2, n)) < share, np.array([f"g{number}" for number in numbers], dtype=object)


def test_a_proportion_of_rows_in_groups_is_that_of_groups_that_are_drawn_with_all_of_their_rows():
    right, groups = grouped(400, 30)
    members = [np.flatnonzero(groups == group) for group in sorted(set(groups))]
    random = np.random.default_rng(1)
    drawn = []
    for _ in range(3000):
        rows = np.concatenate([members[number] for number in random.integers(0, len(members), len(members))])
        drawn.append(right[0, rows].mean())
    interval = proportion(right[0], groups)
    assert interval.value == right[0].mean()
    assert [interval.low, interval.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    of_rows = wilson(int(right[0].sum()), 400)
    assert interval.high - interval.low > 1.5 * (of_rows.high - of_rows.low)
    assert proportions(right, groups) == (interval, proportion(right[1], groups))


def test_without_groups_a_proportion_is_wilsons():
    right, _ = grouped(50, 5)
    assert proportions(right) == tuple(wilson(int(row.sum()), 50) for row in right)


def test_a_head_that_is_always_right_has_wilsons_interval_of_the_groups():
    groups = np.repeat(np.array(["a", "b", "c"], dtype=object), 100)
    assert proportion(np.ones(300, bool), groups) == wilson(3, 3)
    assert proportion(np.zeros(300, bool), groups) == wilson(0, 3)


@pytest.mark.parametrize("seed", range(6))
def test_with_groups_the_test_counts_all_choices_of_signs(seed):
    random = np.random.default_rng(seed)
    n, count = 60, 10
    ours, theirs = random.random((2, n)) < 0.6
    groups = random.integers(0, count, n).astype(str).astype(object)
    differences = np.array([int(ours[groups == g].sum()) - int(theirs[groups == g].sum()) for g in set(groups)])
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    expected = np.mean(np.abs(signs @ differences) >= abs(differences.sum()))
    assert mcnemar(ours, theirs, groups) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "ours", "theirs"), [(10, 0.5, 0.5), (500, 0.9, 0.8), (20000, 0.6, 0.61)])
def test_groups_of_one_row_are_rows(n, ours, theirs):
    random = np.random.default_rng(n)
    a, b = random.random(n) < ours, random.random(n) < theirs
    assert mcnemar(a, b, np.arange(n).astype(str).astype(object)) == pytest.approx(mcnemar(a, b), rel=1e-9)


def test_with_groups_rows_that_are_alike_are_less_evidence():
    ours = np.array([True] * 20 + [False] * 4)
    groups = np.array(["a"] * 20 + ["b", "c", "d", "e"], dtype=object)
    assert mcnemar(ours, ~ours) < 0.01
    assert mcnemar(ours, ~ours, groups) == 1


def test_the_paired_bootstrap_of_groups_is_that_of_resampled_groups():
    (ours, theirs), groups = grouped(300, 25, seed=2)
    numbers, random = group_numbers(groups), np.random.default_rng(4)
    differences = ours.astype(float) - theirs
    drawn = []
    for _ in range(3000):
        weights = np.bincount(random.integers(0, 25, 25), minlength=25)[numbers]
        drawn.append(np.average(differences, weights=weights))
    interval = paired_bootstrap(ours, theirs, groups)
    assert interval.value == pytest.approx(differences.mean())
    assert [interval.low, interval.high] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.015)


def test_few_groups_give_a_warning():
    names = np.arange(FEWEST_GROUPS).astype(str).astype(object)
    assert few_groups(None) == few_groups(names) == []
    assert "19 groups" in few_groups(names[1:])[0].message
