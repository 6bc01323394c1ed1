"""The affine predictor and the measures of rows, against computations written otherwise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler

from heads import base
from heads.base import AffinePredictor, Epoch, Monitor, loss_and_accuracy, mean_and_scale, row_blocks
from heads.errors import ArtifactError, TrainingError


def predictor_of(rng, k, d):
    return AffinePredictor.learned(
        rng.normal(size=(k, d)), rng.normal(size=k), rng.normal(size=d), rng.uniform(0.1, 3, size=d)
    )


def test_probabilities_are_softmax_of_standardised_features():
    rng = np.random.default_rng(0)
    predictor = predictor_of(rng, 3, 5)
    X = rng.normal(size=(7, 5)).astype(np.float32)
    for row, probabilities in zip(X, predictor.predict_proba(X), strict=True):
        logits = [
            sum(w * (x - m) / s for w, x, m, s in zip(weights, row, predictor.mean, predictor.scale, strict=True)) + b
            for weights, b in zip(predictor.coef, predictor.intercept, strict=True)
        ]
        exponentials = [np.exp(logit) for logit in logits]
        np.testing.assert_allclose(probabilities, np.array(exponentials) / sum(exponentials), rtol=1e-12)


def test_huge_logits_do_not_overflow():
    predictor = AffinePredictor.learned(np.array([[1e6], [-1e6]]), np.zeros(2))
    np.testing.assert_array_equal(predictor.predict_proba(np.array([[1.0], [-1.0]])), [[1, 0], [0, 1]])


def test_one_row_of_weights_is_the_second_of_two_classes():
    predictor = AffinePredictor.learned(np.array([[2.0]]), np.array([1.0]))
    assert predictor.coef.tolist() == [[0.0], [2.0]]
    assert predictor.predict_proba(np.array([[3.0]]))[0, 1] == pytest.approx(1 / (1 + np.exp(-7)))


def test_blocks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(1)
    predictor, X = predictor_of(rng, 4, 6), rng.normal(size=(50, 6))
    whole, moments = predictor.predict_proba(X), mean_and_scale(X)
    monkeypatch.setattr(base, "_BLOCK_VALUES", 18)
    assert len(list(row_blocks(X))) == 17
    np.testing.assert_allclose(predictor.predict_proba(X), whole, rtol=1e-12)
    np.testing.assert_allclose(mean_and_scale(X), moments, rtol=1e-12)


@given(n=st.integers(0, 50), values=st.integers(1, 60))
def test_blocks_cover_all_rows_once(n, values):
    X = np.zeros((n, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_BLOCK_VALUES", values)
        rows = [row for block in row_blocks(X) for row in range(block.start, block.stop)]
    assert rows == list(range(n))


@settings(deadline=None)
@given(X=arrays.arrays(np.float32, (9, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_mean_and_scale_are_those_of_scikit_learn(X):
    scaler = StandardScaler().fit(X.astype(np.float64))
    mean, scale = mean_and_scale(X)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scale, np.where(scaler.scale_ < np.finfo(np.float32).tiny, 1, scaler.scale_), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 3e5])
def test_the_scale_of_a_constant_feature_is_one(value):
    assert mean_and_scale(np.full((1000, 1), value, dtype=np.float32))[1].tolist() == [1.0]


def test_loss_and_accuracy_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    probabilities = rng.dirichlet(np.ones(3), size=40)
    y = rng.integers(0, 3, 40)
    loss, accuracy = loss_and_accuracy(probabilities, np.arange(3), y)
    assert loss == pytest.approx(log_loss(y, probabilities, labels=[0, 1, 2]))
    assert accuracy == accuracy_score(y, probabilities.argmax(axis=1))


def test_a_label_that_was_not_learned_costs_what_a_probability_of_zero_costs():
    probabilities = np.array([[0.5, 0.5], [1.0, 0.0]])
    loss, accuracy = loss_and_accuracy(probabilities, np.array([1, 3]), np.array([2, 1]))
    padded = np.array([[0, 0.5, 0, 0.5], [0, 1, 0, 0]])
    assert loss == pytest.approx(log_loss([2, 1], padded, labels=[0, 1, 2, 3]))
    assert loss == pytest.approx(36.04 / 2, abs=0.01)
    assert accuracy == 0.5


def test_a_monitor_numbers_epochs_and_passes_them_on():
    seen = []
    predictor = AffinePredictor.learned(np.array([[1.0]]), np.zeros(1))
    monitor = Monitor(np.array([[1.0], [-1.0]]), np.array([1, 1]), seen.append)
    monitor.after_epoch(0.5, 0.8, predictor, np.array([0, 1]))
    monitor.after_epoch(0.4, 0.9, predictor, np.array([0, 1]))
    assert [epoch.epoch for epoch in seen] == [1, 2]
    assert seen == monitor.epochs
    assert seen[0].valid_accuracy == 0.5
    assert seen[0].valid_loss == pytest.approx((np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 2)


def test_without_valid_rows_a_monitor_has_no_valid_numbers():
    predictor = AffinePredictor.learned(np.array([[1.0]]), np.zeros(1))
    for monitor in (Monitor(), Monitor(np.zeros((0, 1)), np.zeros(0, int))):
        monitor.after_epoch(0.5, 0.8, predictor, np.array([0, 1]))
        assert monitor.epochs == [Epoch(1, 0.5, 0.8, None, None)]


def test_weights_that_are_not_finite_are_a_training_that_diverged():
    with pytest.raises(TrainingError, match="the training diverged"):
        AffinePredictor.learned(np.array([[np.nan], [0.0]]), np.zeros(2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coef": np.zeros((3, 2))}, r"coef has dtype float64 and shape \(3, 2\), expected float64 and \(2, 2\)"),
        ({"coef": np.zeros((2, 2), np.float32)}, "coef has dtype float32"),
        ({"mean": np.zeros(3)}, "mean has dtype"),
        ({"scale": np.zeros(2)}, "scale holds values that are not above 0"),
        ({"scale": np.array([1.0, -1.0])}, "scale holds values that are not above 0"),
        ({"scale": np.array([1.0, np.nan])}, "scale holds values that are not finite"),
        ({"intercept": np.array([np.inf, 0])}, "intercept holds values that are not finite"),
        ({"more": np.zeros(1)}, "expected coef, intercept, mean, scale"),
    ],
)
def test_stored_arrays_that_are_not_as_they_must_be(change, said):
    whole = {"coef": np.zeros((2, 2)), "intercept": np.zeros(2), "mean": np.zeros(2), "scale": np.ones(2)}
    with pytest.raises(ArtifactError, match=said):
        AffinePredictor.from_arrays(whole | change, classes=2, width=2)
