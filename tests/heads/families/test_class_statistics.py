"""Means, variances and covariance of classes, by blocks, against NumPy and scikit-learn on all rows at once."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage

from heads import rows
from heads.families.class_statistics import Classes, Scatter


@pytest.fixture
def labelled(blobs):
    X, y = blobs(100, 5, 3)
    kept = np.arange(100) // 3 % 10 >= 2 * y
    return X[kept] * 3 + 4, y[kept]


@pytest.mark.parametrize("values", [5, 35, 2**21])
@pytest.mark.parametrize("standardize", [True, False])
def test_they_are_those_of_all_rows_whatever_the_blocks(values, standardize, labelled, monkeypatch):
    X, y = labelled
    monkeypatch.setattr(rows, "_BLOCK_VALUES", values)
    Z = X.astype(np.float64)
    Z = (Z - Z.mean(axis=0)) / Z.std(axis=0) if standardize else Z
    groups = [Z[y == each] for each in range(3)]
    deviations = np.concatenate([group - group.mean(axis=0) for group in groups])

    classes = Classes.from_rows(X, y, 3, standardize=standardize)
    assert classes.counts.tolist() == [len(group) for group in groups]
    np.testing.assert_allclose(classes.means, [group.mean(axis=0) for group in groups], atol=1e-12)
    np.testing.assert_allclose(classes.variances, [group.var(axis=0) for group in groups], rtol=1e-12)
    np.testing.assert_allclose(classes.between() + deviations.var(axis=0), Z.var(axis=0), rtol=1e-12)

    scatter = Scatter.from_rows(X, y, 3, standardize=standardize)
    np.testing.assert_allclose(scatter.covariance, np.tril(deviations.T @ deviations / len(Z)), atol=1e-12)
    assert scatter.spread == pytest.approx(deviations.var(axis=0).mean())
    assert scatter.shrinkage == pytest.approx(ledoit_wolf_shrinkage(deviations, assume_centered=True))


def test_shrinkage_goes_no_further_than_one():
    deviations = np.array([[1, 0], [-1, 0], [0, 1.1], [0, -1.1]] * 2)
    X, y = deviations + np.repeat([[0], [5]], 4, axis=0), np.repeat([0, 1], 4)
    assert ledoit_wolf_shrinkage(deviations, assume_centered=True) == 1
    assert Scatter.from_rows(X, y, 2, standardize=False).shrinkage == 1


def test_priors_are_shares_of_rows_or_equal(labelled):
    X, y = labelled
    classes = Classes.from_rows(X, y, 3, standardize=True)
    np.testing.assert_allclose(np.exp(classes.log_priors("none")), np.bincount(y) / len(y))
    np.testing.assert_allclose(np.exp(classes.log_priors("balanced")), [1 / 3] * 3)


def test_what_is_rounding_alone_is_no_variance():
    X = np.column_stack([np.full(1000, 0.1), np.full(1000, 1e4), np.linspace(0, 1e-3, 1000)]).astype(np.float32)
    y = np.arange(1000) % 3
    variances = Classes.from_rows(X, y, 3, standardize=False).variances
    assert (variances[:, :2] == 0).all()
    np.testing.assert_allclose(variances[:, 2], [X[y == each, 2].astype(np.float64).var() for each in range(3)])
