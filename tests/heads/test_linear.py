"""Logistic regression against the scikit-learn pipeline that it wraps."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from heads.catalog import make_head


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_probabilities_are_those_of_the_pipeline(k, standardize, class_weight, blobs):
    X, y = blobs(210, 12, k)
    X, y = (X[y < k] * 3 + 5)[: 200 - k], y[y < k][: 200 - k]
    X = X.astype(np.float64)
    head = make_head("logreg", standardize=standardize, class_weight=class_weight, C=0.3).fit(X, y)
    regression = LogisticRegression(C=0.3, max_iter=1000, class_weight=None if class_weight == "none" else "balanced")
    steps = [StandardScaler(), regression] if standardize else [regression]
    pipeline = make_pipeline(*steps).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), pipeline.predict_proba(X), rtol=0, atol=1e-6)


def test_single_precision_gives_the_same_probabilities(blobs):
    X, y = blobs(200, 64, 4)
    head = make_head("logreg").fit(X, y)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), pipeline.predict_proba(X), rtol=0, atol=1e-6)
    assert head.warnings_ == ()


def test_a_solver_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=4)
    head = make_head("logreg", max_iter=2).fit(X, y)
    assert len(head.warnings_) == 1
    assert head.warnings_[0].startswith("logreg did not converge (max_iter=2): raise max_iter or lower C")
    assert "\n" not in head.warnings_[0]
    unscaled = make_head("logreg", max_iter=2, standardize=False).fit(X, y)
    assert "set standardize=true" in unscaled.warnings_[0]


def test_other_warnings_of_the_library_are_kept_too(blobs, monkeypatch):
    import warnings

    X, y = blobs(60, 4, 2)
    plain = LogisticRegression.fit

    def noisy(self, X, y):
        warnings.warn("something is odd", RuntimeWarning, stacklevel=2)
        return plain(self, X, y)

    monkeypatch.setattr(LogisticRegression, "fit", noisy)
    assert make_head("logreg").fit(X, y).warnings_ == ("RuntimeWarning: something is odd",)


def test_balanced_weights_help_a_rare_class(blobs):
    X, y = blobs(400, 2, 2, spread=3)
    rare = np.flatnonzero((y == 0) | (np.arange(400) % 20 == 1))
    X, y = X[rare], y[rare]
    recall = [
        np.mean(make_head("logreg", class_weight=weight).fit(X, y).predict_proba(X[y == 1]).argmax(axis=1))
        for weight in ("none", "balanced")
    ]
    assert recall[1] > recall[0]


def test_memory_in_any_order_is_stored_in_rows(blobs):
    X, y = blobs(200, 12, 3)
    assert all(array.flags.c_contiguous for array in make_head("logreg").fit(X, y).predictor_.arrays.values())
