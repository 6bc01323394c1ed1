"""Stochastic gradient descent on chunks of rows against scikit-learn's, which takes the same rows in the same order."""

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier

from heads.errors import TrainingError
from heads.families import sgd_solver
from heads.families.sgd_solver import Problems, descend

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

L1_SHARES = {"l2": 0.0, "l1": 1.0, "elasticnet": 0.15}


def in_chunks(X, size):
    """Return a function that yields rows in their order."""
    return lambda: ((np.arange(len(X))[at : at + size], X[at : at + size]) for at in range(0, len(X), size))


def solved(X, y, k, *, size=7, penalty="l2", average=False, weights=None, **params):
    positions = np.arange(1 if k == 2 else 0, k)
    weights = np.ones(k) if weights is None else weights
    rest = weights[:1] if k == 2 else np.ones(k)
    problems = Problems(positions, weights[positions], rest)
    settings = {"alpha": 0.01, "tol": 1e-3, "max_iter": 100} | params
    l1_share = L1_SHARES[penalty]
    return descend(in_chunks(X, size), y, problems, width=X.shape[1], l1_share=l1_share, average=average, **settings)


@pytest.mark.parametrize("penalty", L1_SHARES)
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("alpha", [100.0, 0.5, 0.01])  # the larger steps of a small one make much of rounding
def test_the_steps_and_the_end_are_those_of_scikit_learn(penalty, k, class_weight, alpha, blobs):
    X, y = blobs(90, 6, k, spread=3)
    order = np.random.default_rng(0).permutation(len(X))
    kept = order[(y[order] > 0) | (order % 4 == 0)]
    X, y = X[kept].astype(np.float64), y[kept]
    theirs = SGDClassifier(
        loss="log_loss", alpha=alpha, penalty=penalty, max_iter=300, class_weight=class_weight, shuffle=False
    ).fit(X, y)
    weights = len(y) / (k * np.bincount(y)) if class_weight else None
    ours = solved(X, y, k, penalty=penalty, alpha=alpha, weights=weights, max_iter=300)
    np.testing.assert_allclose(ours.coef, theirs.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, rtol=1e-6, atol=1e-9)
    assert ours.settled == (theirs.n_iter_ < 300)


@pytest.mark.parametrize("k", [2, 4])
def test_the_mean_of_the_weights_is_that_of_scikit_learn(k, blobs):
    X, y = blobs(80, 6, k, spread=3)
    X = X.astype(np.float64)
    theirs = SGDClassifier(loss="log_loss", alpha=0.01, max_iter=100, average=True, shuffle=False).fit(X, y)
    ours = solved(X, y, k, average=True)
    np.testing.assert_allclose(ours.coef, theirs.coef_, rtol=1e-6)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, rtol=1e-6)


def test_single_precision_and_the_size_of_chunks_make_no_difference_but_rounding(blobs):
    X, y = blobs(80, 6, 3, spread=3)
    expected = solved(X.astype(np.float64), y, 3)
    for size in (1, 80):
        np.testing.assert_allclose(solved(X, y, 3, size=size).coef, expected.coef, atol=1e-4)


@pytest.mark.parametrize("scale", [1, 1000])  # with far scores the steps of most rows are next to nothing
def test_rows_taken_together_and_one_by_one_give_the_same(scale, blobs, monkeypatch):
    X, y = blobs(80, 6, 3, spread=3)
    X = X.astype(np.float64) * scale
    expected = solved(X, y, 3, size=80)
    monkeypatch.setattr(sgd_solver, "_AHEAD", 1)
    found = solved(X, y, 3, size=80)
    np.testing.assert_allclose(found.coef, expected.coef, rtol=1e-9)
    np.testing.assert_allclose(found.intercept, expected.intercept, rtol=1e-9)


def test_a_class_that_settles_first_has_the_weights_of_its_last_pass(blobs):
    X, y = blobs(120, 6, 3, spread=3)
    X[y == 2] += 10
    X, one = X.astype(np.float64), np.ones(1)
    together = solved(X, y, 3, max_iter=300)
    passes = []
    for number in range(3):

        def chunks(number=number):
            passes.append(number)
            yield np.arange(len(X)), X

        alone = descend(
            chunks,
            y,
            Problems(np.array([number]), one, one),
            width=6,
            alpha=0.01,
            l1_share=0.0,
            average=False,
            tol=1e-3,
            max_iter=300,
        )
        np.testing.assert_allclose(together.coef[number], alone.coef[0], rtol=1e-9)
        np.testing.assert_allclose(together.intercept[number], alone.intercept[0], rtol=1e-9)
    assert len({passes.count(number) for number in range(3)}) > 1


def test_a_descent_that_does_not_settle_says_so(blobs):
    X, y = blobs(80, 6, 2, spread=3)
    assert not solved(X, y, 2, max_iter=3).settled


def test_weights_that_are_not_finite_are_an_error(blobs):
    X, y = blobs(80, 6, 2)
    with pytest.raises(TrainingError, match="the training broke down: weights are not finite"):
        solved(X.astype(np.float64) * 1e307, y, 2, alpha=1e-6)
