"""Logistic regression and stochastic gradient descent against the scikit-learn pipelines that they wrap."""

import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from heads import rows
from heads.catalog import make_head
from heads.errors import TrainingError

ESTIMATORS = {"logreg": LogisticRegression, "sgd": SGDClassifier}


def uneven(blobs, k, **how):
    """Rows in k clouds, far from mean 0 and deviation 1, the first class with twice the rows, in float64."""
    X, y = blobs(100 * k, 12, k, **how)
    kept = (y == 0) | (np.arange(len(y)) // k % 2 == 0)
    return X[kept].astype(np.float64) * 3 + 5, y[kept]


def weight(class_weight):
    return None if class_weight == "none" else class_weight


every_way = [
    pytest.mark.parametrize("k", [2, 3, 7]),
    pytest.mark.parametrize("standardize", [True, False]),
    pytest.mark.parametrize("class_weight", ["none", "balanced"]),
]


def in_every_way(test):
    for mark in every_way:
        test = mark(test)
    return test


@in_every_way
def test_logistic_probabilities_are_those_of_the_pipeline(k, standardize, class_weight, blobs):
    X, y = uneven(blobs, k)
    head = make_head("logreg", standardize=standardize, class_weight=class_weight, C=0.3).fit(X, y)
    regression = LogisticRegression(C=0.3, max_iter=1000, class_weight=weight(class_weight))
    steps = [StandardScaler(), regression] if standardize else [regression]
    pipeline = make_pipeline(*steps).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), pipeline.predict_proba(X), rtol=0, atol=1e-6)


@in_every_way
@pytest.mark.parametrize("penalty", ["l2", "l1", "elasticnet"])
@pytest.mark.parametrize("average", [True, False])
def test_descent_gives_the_probabilities_of_the_pipeline(k, standardize, class_weight, penalty, average, blobs):
    X, y = uneven(blobs, k)
    X = X if standardize else X / 10
    params = {"alpha": 0.01, "penalty": penalty, "average": average, "max_iter": 200, "tol": 1e-2}
    head = make_head("sgd", seed=4, standardize=standardize, class_weight=class_weight, **params).fit(X, y)
    descent = SGDClassifier(loss="log_loss", random_state=4, class_weight=weight(class_weight), **params)
    steps = [StandardScaler(), descent] if standardize else [descent]
    pipeline = make_pipeline(*steps).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), pipeline.predict_proba(X), rtol=0, atol=1e-6)
    assert head.warnings_ == ()


def test_the_seed_draws_the_order_of_the_rows(blobs):
    X, y = blobs(200, 10, 3, spread=4)
    first, again, other = (make_head("sgd", seed=seed).fit(X, y).predictor_.coef for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_single_precision_gives_the_same_probabilities(name, blobs):
    X, y = blobs(200, 64, 4)
    params = {"alpha": 0.1} if name == "sgd" else {}
    single = make_head(name, **params).fit(X, y)
    double = make_head(name, **params).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(single.predict_proba(X), double.predict_proba(X), rtol=0, atol=1e-3)
    assert single.warnings_ == ()


def test_logistic_regression_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=4)
    head = make_head("logreg", max_iter=2).fit(X, y)
    assert len(head.warnings_) == 1
    assert head.warnings_[0].startswith("logreg did not converge (max_iter=2): raise max_iter or lower C")
    assert "\n" not in head.warnings_[0]
    unscaled = make_head("logreg", max_iter=2, standardize=False).fit(X, y)
    assert "set standardize=true" in unscaled.warnings_[0]


def test_descent_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=4)
    head = make_head("sgd", max_iter=2).fit(X, y)
    assert len(head.warnings_) == 1
    assert head.warnings_[0].startswith("sgd did not converge (max_iter=2): raise max_iter or tol; scikit-learn says")
    unscaled = make_head("sgd", max_iter=2, standardize=False).fit(X, y)
    assert "set standardize=true, raise max_iter or tol" in unscaled.warnings_[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_other_warnings_of_the_library_are_kept_too(name, blobs, monkeypatch):
    X, y = blobs(60, 4, 2)
    plain = ESTIMATORS[name].fit

    def noisy(self, X, y):
        warnings.warn("something is odd", RuntimeWarning, stacklevel=2)
        return plain(self, X, y)

    monkeypatch.setattr(ESTIMATORS[name], "fit", noisy)
    assert make_head(name).fit(X, y).warnings_ == ("RuntimeWarning: something is odd",)


def test_balanced_weights_help_a_rare_class(blobs):
    X, y = blobs(400, 2, 2, spread=3)
    rare = np.flatnonzero((y == 0) | (np.arange(400) % 20 == 1))
    X, y = X[rare], y[rare]
    recall = [
        np.mean(make_head("logreg", class_weight=weight).fit(X, y).predict_proba(X[y == 1]).argmax(axis=1))
        for weight in ("none", "balanced")
    ]
    assert recall[1] > recall[0]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_memory_in_any_order_is_stored_in_rows(name, blobs):
    X, y = blobs(200, 12, 3)
    assert all(array.flags.c_contiguous for array in make_head(name).fit(X, y).predictor_.arrays.values())


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("standardize", "copies"), [(True, 1), (False, 0)])
def test_features_are_copied_once_if_they_are_standardised_and_else_never(name, standardize, copies, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10_000, 400)).astype(np.float32), np.arange(10_000) % 2
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 2**16)
    make_head(name).fit(X[:10], y[:10])  # what is imported on use is no copy
    head = make_head(name, standardize=standardize, max_iter=5, tol=1e9)
    tracemalloc.start()
    try:
        head.fit(X, y)
        assert copies * X.nbytes < tracemalloc.get_traced_memory()[1] < (copies + 0.5) * X.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("alpha", [1e-300, 1e300])
def test_what_breaks_the_library_is_a_clear_error(alpha, blobs):
    X, y = blobs(40, 4, 2)
    with pytest.raises(TrainingError, match=r"the training broke down: .*; choose less extreme parameters"):
        make_head("sgd", alpha=alpha).fit(X, y)
