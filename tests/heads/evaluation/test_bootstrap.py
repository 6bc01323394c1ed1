"""Numbers of weighted rows against scikit-learn, and intervals against plain resampling and against the truth."""

import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from heads.evaluation import metrics
from heads.evaluation.bootstrap import NAMES, bootstrap, ranked_scores, summed_scores
from heads.evaluation.intervals import Interval, drawn_groups, group_numbers


def predictions(n, k, seed=0, decimals=None):
    """Return labels and probabilities of a head that is good, with ties if they are rounded."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.arange(n) % k)
    scores = rng.normal(size=(n, k))
    scores[np.arange(n), true] += 1
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    if decimals is not None:
        probabilities = (probabilities.round(decimals) + 1e-3) / (probabilities.round(decimals) + 1e-3).sum(
            axis=1, keepdims=True
        )
    return true, probabilities


def scikit_learns(true, probabilities, weights):
    """Return every number as scikit-learn computes it of weighted rows."""
    kept = weights > 0
    true, probabilities, weights = true[kept], probabilities[kept], weights[kept]
    k, predicted = probabilities.shape[1], probabilities.argmax(axis=1)
    expected = {
        "log_loss": sklearn_metrics.log_loss(true, probabilities, labels=np.arange(k), sample_weight=weights),
        "balanced_accuracy": sklearn_metrics.recall_score(
            true, predicted, labels=np.unique(true), average="macro", sample_weight=weights
        ),
    }
    for average in ("macro", "weighted"):
        values = sklearn_metrics.precision_recall_fscore_support(
            true, predicted, labels=np.unique(true), average=average, sample_weight=weights, zero_division=0.0
        )
        names = (f"{average}_precision", f"{average}_recall", f"{average}_f1")
        expected |= dict(zip(names, values[:3], strict=True))
        if not set(true) <= set(predicted):
            expected[f"{average}_precision"] = np.nan
    complete = len(set(true)) == k
    for name, score in (
        ("roc_auc", sklearn_metrics.roc_auc_score),
        ("average_precision", sklearn_metrics.average_precision_score),
    ):
        of_classes = [
            score(true == each, probabilities[:, each], sample_weight=weights)
            for each in ([1] if k == 2 else range(k))
            if complete
        ]
        expected[name] = np.mean(of_classes) if complete else np.nan
    repeated = np.repeat(np.arange(len(true)), weights.astype(int))
    expected["calibration_error"] = metrics.calibration_error(true[repeated], probabilities[repeated])
    return expected


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    k=st.integers(2, 5),
    seed=st.integers(0, 10_000),
    decimals=st.sampled_from([None, 1, 0]),
    heaviest=st.integers(1, 4),
)
def test_numbers_of_weighted_rows_are_scikit_learns(n, k, seed, decimals, heaviest):
    true, probabilities = predictions(n, k, seed, decimals)
    weights = np.random.default_rng(seed).integers(0, heaviest + 1, size=(n, 3)).astype(float)
    weights[0] = 1  # not all rows weigh nothing
    ours = summed_scores(true, probabilities, weights) | ranked_scores(true, probabilities, weights)
    assert sorted(ours) == sorted(NAMES)
    for column in range(3):
        expected = scikit_learns(true, probabilities, weights[:, column])
        assert {name: each[column] for name, each in ours.items()} == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_rows_that_all_have_the_same_probabilities_are_tied():
    true, weights = np.array([0, 1, 1, 0]), np.array([[1.0], [2.0], [0.0], [3.0]])
    scores = ranked_scores(true, np.full((4, 2), 0.5), weights)
    assert scores["roc_auc"] == 0.5
    assert scores["average_precision"] == pytest.approx(2 / 6)


@pytest.mark.parametrize(("n", "k", "decimals"), [(200, 2, None), pytest.param(200, 4, 1, marks=pytest.mark.slow)])
def test_intervals_are_those_of_resampled_rows(n, k, decimals):
    true, probabilities = predictions(n, k, decimals=decimals)
    ours = bootstrap(true, probabilities, seed=1)
    rng = np.random.default_rng(99)
    resampled = []
    for _ in range(150):
        rows = rng.integers(0, n, n)
        resampled.append(scikit_learns(true[rows], probabilities[rows], np.ones(n)))
    for name in NAMES:
        values = np.array([each[name] for each in resampled])
        spread = np.ptp(np.percentile(values, (2.5, 97.5)))
        assert ours[name].low == pytest.approx(np.percentile(values, 2.5), abs=0.25 * spread)
        assert ours[name].high == pytest.approx(np.percentile(values, 97.5), abs=0.25 * spread)


def test_the_values_are_those_of_the_rows_or_those_given():
    true, probabilities = predictions(100, 3)
    expected = scikit_learns(true, probabilities, np.ones(100))
    intervals = bootstrap(true, probabilities)
    assert {name: each.value for name, each in intervals.items()} == pytest.approx(expected)
    given_ones = bootstrap(true, probabilities, values={"log_loss": 99.0, "roc_auc": None})
    assert given_ones["log_loss"] == Interval(99.0, intervals["log_loss"].low, 99.0)
    assert given_ones["roc_auc"] is None
    assert given_ones["macro_f1"] == intervals["macro_f1"]


def test_resamples_follow_from_the_seed():
    true, probabilities = predictions(100, 3)
    assert bootstrap(true, probabilities, seed=4) == bootstrap(true, probabilities, seed=4)
    assert bootstrap(true, probabilities, seed=4) != bootstrap(true, probabilities, seed=5)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 12), k=st.integers(1, 4), seed=st.integers(0, 1000), perfect=st.booleans())
def test_whatever_the_rows_are_an_interval_holds_its_number_and_nothing_warns(n, k, seed, perfect):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    probabilities = np.eye(k)[true] if perfect else rng.dirichlet(np.full(k, 0.3), size=n)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = bootstrap(true, probabilities, replicates=50, seed=seed)
    assert sorted(intervals) == sorted(NAMES)
    for interval in intervals.values():
        assert interval is None or interval.low <= interval.value <= interval.high
        assert interval is None or (np.isfinite([interval.low, interval.high]).all() and interval.low < interval.high)
    if k == 1 or n == 1 or (perfect and len(set(true)) == k):
        assert set(intervals.values()) == {None}


def test_a_number_that_most_resamples_leave_undefined_has_no_interval():
    probabilities = predictions(100, 2)[1]
    one = np.arange(100) == 0  # in 63 % of resamples
    lonely = bootstrap(one.astype(int), probabilities)
    assert lonely["roc_auc"] is not None
    lonely = bootstrap(np.arange(100).clip(max=5), np.random.default_rng(0).dirichlet(np.ones(6), 100))
    assert lonely["roc_auc"] is None  # each of five classes has one row: all are drawn in 10 %
    assert lonely["average_precision"] is None
    assert lonely["balanced_accuracy"] is not None


def test_ranks_of_very_many_classes_take_fewer_resamples_and_at_last_none(monkeypatch):
    counted = []

    def counting(true, probabilities, weights):
        counted.append(weights.shape[1])
        return ranked_scores(true, probabilities, weights)

    monkeypatch.setattr("heads.evaluation.bootstrap.ranked_scores", counting)
    true, probabilities = predictions(60, 3)
    values = bootstrap(true, probabilities)
    assert sum(counted) == 1000 + 1  # and the numbers themselves
    counted.clear()
    monkeypatch.setattr("heads.evaluation.bootstrap._WORK", 60 * 3 * 400)
    bootstrap(true, probabilities, values={name: each and each.value for name, each in values.items()})
    assert sum(counted) == 400
    counted.clear()
    monkeypatch.setattr("heads.evaluation.bootstrap._WORK", 1)
    assert bootstrap(true, probabilities)["roc_auc"] is not None
    assert sum(counted) == 200 + 1
    monkeypatch.setattr("heads.evaluation.bootstrap._MOST_WORK", 60 * 3 * 200 - 1)
    intervals = bootstrap(true, probabilities)
    assert all(each is None for each in intervals.values())


def test_as_many_ranks_are_resampled_in_chunks_as_in_one_piece(monkeypatch):
    widths = []

    def counting(true, probabilities, weights):
        widths.append(weights.shape[1])
        return ranked_scores(true, probabilities, weights)

    true, probabilities = predictions(60, 3)
    values = {name: each and each.value for name, each in bootstrap(true, probabilities).items()}
    monkeypatch.setattr("heads.evaluation.bootstrap.ranked_scores", counting)
    monkeypatch.setattr("heads.evaluation.bootstrap._WORK", 60 * 3 * 400)
    monkeypatch.setattr("heads.evaluation.bootstrap._FEWEST", 1)
    monkeypatch.setattr("heads.evaluation.bootstrap._STEPS", 1)  # sums are resampled 1000 times
    monkeypatch.setattr("heads.evaluation.bootstrap._WEIGHTS", 60 * 160)
    bootstrap(true, probabilities, values=values)
    assert widths == [160, 160, 80, 0, 0, 0, 0]


def test_with_one_class_ranks_and_the_loss_are_undefined():
    weights = np.ones((4, 3))
    true, probabilities = np.zeros(4, int), np.ones((4, 1))
    summed, ranked = summed_scores(true, probabilities, weights), ranked_scores(true, probabilities, weights)
    assert np.isnan(summed["log_loss"]).all()
    assert all(np.isnan(each).all() and each.shape == (3,) for each in ranked.values())


def test_the_loss_is_that_of_probabilities_that_sum_to_one():
    true, probabilities = predictions(50, 3)
    weights = np.ones((50, 1))
    expected = summed_scores(true, probabilities, weights)["log_loss"]
    assert summed_scores(true, probabilities * 1.00009, weights)["log_loss"] == pytest.approx(expected, rel=1e-12)


def test_the_chunks_of_resamples_change_nothing(monkeypatch):
    true, probabilities = predictions(200, 3)
    whole = bootstrap(true, probabilities, replicates=100)
    monkeypatch.setattr(
        "heads.evaluation.bootstrap._WEIGHTS", 200 * 32
    )  # whole draws of 16, so that the same rows are drawn
    monkeypatch.setattr("heads.evaluation.bootstrap._SORTED", 500)
    for name, interval in bootstrap(true, probabilities, replicates=100).items():
        assert (interval.low, interval.high) == pytest.approx((whole[name].low, whole[name].high), rel=1e-12)


def test_memory_does_not_grow_with_the_resamples():
    true, probabilities = predictions(25_000, 2)
    bootstrap(true[:100], probabilities[:100], replicates=10)  # what importing takes is not counted
    tracemalloc.start()
    bootstrap(true, probabilities, replicates=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 110e6


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(5)
    chance = rng.beta(2, 2, 200_000)  # the head knows the chance that a row is of class 1
    truth = np.mean(-(chance * np.log(chance) + (1 - chance) * np.log(1 - chance)))
    covered = auc_covered = 0
    labels = rng.random(200_000) < chance
    auc = sklearn_metrics.roc_auc_score(labels, chance)
    for trial in range(300):
        some = rng.integers(0, 200_000, 250)
        intervals = bootstrap(
            labels[some].astype(int), np.column_stack([1 - chance[some], chance[some]]), replicates=400, seed=trial
        )
        covered += intervals["log_loss"].low <= truth <= intervals["log_loss"].high
        auc_covered += intervals["roc_auc"].low <= auc <= intervals["roc_auc"].high
    assert 0.90 <= covered / 300 <= 0.985
    assert 0.90 <= auc_covered / 300 <= 0.985


def test_with_groups_the_rows_of_drawn_groups_are_counted():
    true, probabilities = predictions(90, 3)
    groups = np.array([f"g{row // 6}" for row in range(90)], dtype=object)
    draws = np.concatenate(list(drawn_groups(np.random.default_rng(5), 15, 40)))
    assert draws.shape == (40, 15)
    assert (draws.sum(axis=1) == 15).all()
    of_draws = [scikit_learns(true, probabilities, counts[group_numbers(groups)]) for counts in draws]
    found = bootstrap(true, probabilities, groups=groups, replicates=40, seed=5)
    for name in NAMES:
        values = np.array([scores[name] for scores in of_draws])
        low, high = np.percentile(values[~np.isnan(values)], [2.5, 97.5])
        value = found[name].value
        assert found[name].low == pytest.approx(min(low, value), abs=1e-9), name
        assert found[name].high == pytest.approx(max(high, value), abs=1e-9), name
