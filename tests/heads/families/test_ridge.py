"""Ridge classifiers: scikit-learn's scores, and probabilities calibrated on scores that leave the row out."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from heads.base import fit_together
from heads.catalog import make_head
from heads.errors import TrainingError
from heads.families import ridge
from heads.families.platt import platt
from tests.heads.families.calibrated import scores_of, uneven, weights_of

ALPHAS = (1e-3, 0.5, 30.0)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("shape", [(150, 6), (30, 50)])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_ridge_scores_are_those_of_scikit_learn_before_the_sigmoid(k, shape, standardize, class_weight, blobs):
    X, y = uneven(blobs, 2 * shape[0], shape[1], k, spread=5)
    heads = [make_head("ridge", alpha=alpha, standardize=standardize, class_weight=class_weight) for alpha in ALPHAS]
    fit_together(heads, X, y)
    prepared = StandardScaler().fit_transform(X) if standardize else X
    for head in heads:
        ridge = RidgeClassifier(
            alpha=head.alpha, class_weight=None if class_weight == "none" else "balanced", solver="svd"
        ).fit(prepared, y)
        expected = ridge.decision_function(prepared).reshape(len(X), -1)
        for score, of_class in zip(scores_of(head, X).T[-expected.shape[1] :], expected.T, strict=True):
            slope, offset = np.polyfit(of_class, score, 1)
            assert slope >= 0
            np.testing.assert_allclose(score, slope * of_class + offset, rtol=0, atol=1e-7 * np.abs(score).max())


@pytest.mark.parametrize("shape", [(45, 6), (24, 40)])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_ridge_probabilities_are_calibrated_on_scores_without_the_row(shape, class_weight, blobs):
    X, y = blobs(*shape, 3, spread=5)
    X, y = X[4:].astype(np.float64), y[4:]
    together, alone = ([make_head("ridge", alpha=alpha, class_weight=class_weight) for alpha in ALPHAS] for _ in "ab")
    fit_together(together, X, y)
    prepared, weights = StandardScaler().fit_transform(X), weights_of(y, class_weight)
    for head, fitted_alone in zip(together, alone, strict=True):
        ridge = RidgeClassifier(alpha=head.alpha, solver="svd")
        without = np.empty((len(X), 3))
        for row in range(len(X)):
            kept = np.arange(len(X)) != row
            fitted = clone(ridge).fit(prepared[kept], y[kept], sample_weight=weights[kept])
            without[row] = fitted.decision_function(prepared[[row]])
        whole = ridge.fit(prepared, y, sample_weight=weights).decision_function(prepared)
        expected = np.empty_like(whole)
        for c in range(3):
            slope, offset = platt(without[:, c], np.where(y == c, 1, -1), weights)
            expected[:, c] = 1 / (1 + np.exp(-slope * whole[:, c] - offset))
        expected /= expected.sum(axis=1, keepdims=True)
        for found in (head, fitted_alone.fit(X, y)):
            np.testing.assert_allclose(found.predict_proba(X), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("shape", [(60, 8), (8, 60)])
def test_ridge_survives_a_penalty_that_is_lost_in_rounding(together, shape, blobs):
    X, y = blobs(*shape, 2)
    X = np.concatenate([X, X], axis=1)[:, : X.shape[1] + 3] * 1e3
    X = np.concatenate([X, X])
    heads = [make_head("ridge", alpha=1e-15, standardize=False) for _ in range(1 + together)]
    assert fit_together(heads, X, np.concatenate([y, y])) == [None] * len(heads)
    assert np.mean(heads[0].predict_proba(X).argmax(axis=1) == np.concatenate([y, y])) > 0.9


def test_no_eigenvalue_of_products_counts_as_negative():
    row = np.random.default_rng(2).normal(size=(1, 30))
    assert np.linalg.eigvalsh(row.T @ row)[0] < 0  # by rounding
    assert (ridge._inverses(row.T @ row, np.array([1e-30, 1.0]))[1] > 0).all()


def test_ridge_refuses_features_whose_products_overflow(blobs):
    X, y = blobs(40, 3, 2)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(TrainingError, match="beyond the range of float64; set standardize=true"),
    ):
        make_head("ridge", standardize=False).fit(X.astype(np.float64) * 1e200, y)
