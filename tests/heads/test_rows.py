"""Measures of rows, by blocks, against computations written otherwise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import accuracy_score, log_loss
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from heads import rows
from heads.errors import EvaluationError, MismatchError
from heads.rows import (
    Scaling,
    by_blocks,
    class_weights,
    first_not_finite,
    loss_and_accuracy,
    mean_and_scale,
    row_blocks,
)

# Blocks


@given(n=st.integers(0, 50), values=st.integers(1, 60))
def test_blocks_cover_all_rows_once(n, values):
    X = np.zeros((n, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "_BLOCK_VALUES", values)
        covered = [row for block in row_blocks(X) for row in range(block.start, block.stop)]
    assert covered == list(range(n))


def test_blocks_make_no_difference(monkeypatch):
    X = np.random.default_rng(1).normal(size=(50, 6))
    whole, moments = by_blocks(X, 6, 2, lambda block: block[:, :2]), mean_and_scale(X)
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 18)
    assert len(list(row_blocks(X))) == 17
    np.testing.assert_array_equal(by_blocks(X, 6, 2, lambda block: block[:, :2]), whole)
    np.testing.assert_allclose(mean_and_scale(X), moments, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_function_gets_blocks_of_its_own_in_double_precision(dtype):
    X = np.ones((3, 2), dtype)

    def overwriting(block):
        assert block.dtype == np.float64
        block[:] = 7
        return block

    np.testing.assert_array_equal(by_blocks(X, 2, 2, overwriting), np.full((3, 2), 7.0))
    np.testing.assert_array_equal(X, np.ones((3, 2)))


@pytest.mark.parametrize("shape", [(3, 5), (4,), (2, 2, 4)])
def test_rows_of_another_width_are_refused(shape):
    with pytest.raises(MismatchError, match=r"the features have shape \(.*trained on \(n, 4\)"):
        by_blocks(np.zeros(shape), 4, 2, lambda block: block[:, :2])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4, 49])
def test_the_first_row_that_is_not_finite_is_named(poison, row, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 18)
    X = np.zeros((50, 6), np.float32)
    assert first_not_finite(X) is None
    X[row, 2] = X[49, 0] = poison
    assert first_not_finite(X) == row
    with pytest.raises(EvaluationError, match=f"row {row} holds features that are not finite") as caught:
        by_blocks(X, 6, 2, lambda block: block[:, :2])
    assert caught.value.row == row


# Standardisation


@settings(deadline=None)
@given(X=arrays.arrays(np.float32, (9, 3), elements=st.floats(-1e4, 1e4, width=32)))
def test_mean_and_scale_are_those_of_scikit_learn(X):
    scaler = StandardScaler().fit(X.astype(np.float64))
    mean, scale = mean_and_scale(X)
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scale, np.where(scaler.scale_ < np.finfo(np.float32).tiny, 1, scaler.scale_), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30, 3e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_scale_of_a_constant_feature_is_one(value, dtype):
    assert mean_and_scale(np.full((1001, 1), value, dtype))[1].tolist() == [1.0]


@pytest.mark.parametrize(
    ("dtype", "standardised"), [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64)]
)
def test_standardised_rows_are_those_of_scikit_learn(dtype, standardised, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 18)
    X = np.asfortranarray(np.random.default_rng(0).normal(5, 3, size=(50, 6)).astype(dtype))
    before = X.copy()
    applied = Scaling.from_rows(X, standardize=True).applied(X)
    assert applied.dtype == standardised
    assert applied.flags.c_contiguous
    np.testing.assert_allclose(applied, StandardScaler().fit_transform(X.astype(np.float64)), atol=1e-5)
    np.testing.assert_array_equal(X, before)


def test_features_may_be_left_as_they_are():
    X = np.random.default_rng(0).normal(5, 3, size=(20, 6))
    np.testing.assert_array_equal(Scaling.from_rows(X, standardize=False).applied(X), X)


# Weights and judgement


@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_class_weights_are_those_of_scikit_learn(class_weight):
    targets = np.array([0, 0, 2, 0, 1, 2, 0])
    expected = compute_class_weight(None if class_weight == "none" else class_weight, classes=np.arange(3), y=targets)
    np.testing.assert_allclose(class_weights(targets, 3, class_weight), expected)


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


def test_a_row_of_which_no_number_can_be_computed_is_named():
    with pytest.raises(
        EvaluationError, match="row 2 gets no probabilities: what the head computes of it is not finite"
    ):
        by_blocks(np.arange(3.0).reshape(3, 1), 1, 2, lambda block: np.where(block < 2, [[1.0, 0.0]], np.nan))
