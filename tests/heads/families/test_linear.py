"""Logistic regression and stochastic gradient descent against the scikit-learn pipelines that they wrap."""

import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from featurecache.rows import ArraySource, Rows
from heads import rows
from heads.catalog import make_head
from heads.errors import TrainingError
from heads.families import linear, logistic_solver, shuffling

pytestmark = pytest.mark.usefixtures("one_blas_thread")

NAMES = ("logreg", "sgd")


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
    params = {"C": 0.3, "tol": 1e-9, "max_iter": 10_000}  # solvers that stop earlier stop at different places
    head = make_head("logreg", standardize=standardize, class_weight=class_weight, **params).fit(X, y)
    regression = LogisticRegression(class_weight=weight(class_weight), **params)
    steps = [StandardScaler(), regression] if standardize else [regression]
    pipeline = make_pipeline(*steps).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), pipeline.predict_proba(X), rtol=0, atol=1e-4)


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
    first, again, other = (make_head("sgd", seed=seed).fit(X, y).model_.coef for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", NAMES)
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
    assert head.warnings_[0].message.startswith("logreg did not converge (max_iter=2): raise max_iter or lower C")
    assert "\n" not in head.warnings_[0].message
    unscaled = make_head("logreg", max_iter=2, standardize=False).fit(X, y)
    assert "set standardize=true" in unscaled.warnings_[0].message


def test_descent_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=4)
    head = make_head("sgd", max_iter=2).fit(X, y)
    assert len(head.warnings_) == 1
    assert head.warnings_[0].message.startswith(
        "sgd did not converge (max_iter=2): raise max_iter or tol; scikit-learn says"
    )
    unscaled = make_head("sgd", max_iter=2, standardize=False).fit(X, y)
    assert "set standardize=true, raise max_iter or tol" in unscaled.warnings_[0].message


def test_other_warnings_of_the_library_are_kept_too(blobs, monkeypatch):
    X, y = blobs(60, 4, 2)
    plain = SGDClassifier.fit

    def noisy(self, X, y, **options):
        warnings.warn("something is odd", RuntimeWarning, stacklevel=2)
        return plain(self, X, y, **options)

    monkeypatch.setattr(SGDClassifier, "fit", noisy)
    assert tuple(map(str, make_head("sgd").fit(X, y).warnings_)) == ("RuntimeWarning: something is odd",)


def test_balanced_weights_help_a_rare_class(blobs):
    X, y = blobs(400, 2, 2, spread=3)
    rare = np.flatnonzero((y == 0) | (np.arange(400) % 20 == 1))
    X, y = X[rare], y[rare]
    recall = [
        np.mean(make_head("logreg", class_weight=weight).fit(X, y).predict_proba(X[y == 1]).argmax(axis=1))
        for weight in ("none", "balanced")
    ]
    assert recall[1] > recall[0]


@pytest.mark.parametrize("name", NAMES)
def test_memory_in_any_order_is_stored_in_rows(name, blobs):
    X, y = blobs(200, 12, 3)
    assert all(array.flags.c_contiguous for array in make_head(name).fit(X, y).model_.arrays.values())


@pytest.mark.parametrize(("name", "standardize", "copies"), [("sgd", True, 1), ("sgd", False, 0), ("logreg", True, 0)])
def test_features_are_copied_once_if_they_are_standardised_and_else_never(name, standardize, copies, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(10_000, 400)).astype(np.float32), np.arange(10_000) % 2
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 2**16)
    make_head(name).fit(X[:10], y[:10])  # what is imported on use is no copy
    monkeypatch.setattr(logistic_solver, "_BLOCK_VALUES", 2**16)
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


# Blocks and windows


@in_every_way
def test_logistic_weights_are_those_of_scikit_learn_by_any_blocks(k, standardize, class_weight, blobs, monkeypatch):
    X, y = uneven(blobs, k, spread=3)
    monkeypatch.setattr(logistic_solver, "_BLOCK_VALUES", 12 * 17)
    params = {"C": 0.3, "tol": 1e-9, "max_iter": 10_000}
    head = make_head("logreg", standardize=standardize, class_weight=class_weight, **params).fit(X, y)
    Z = StandardScaler().fit_transform(X) if standardize else X
    regression = LogisticRegression(class_weight=weight(class_weight), **params).fit(Z, y)
    coef, intercept = head.model_.arrays["coef"], head.model_.arrays["intercept"]
    np.testing.assert_allclose(coef[1:] if k == 2 else coef, regression.coef_, atol=1e-4)
    np.testing.assert_allclose(intercept[1:] if k == 2 else intercept, regression.intercept_, atol=1e-4)


def test_a_strong_penalty_takes_a_logistic_regression_few_steps():
    rng = np.random.default_rng(0)
    y = np.minimum(rng.geometric(0.15, 400) - 1, 19)
    X = (2 * rng.normal(size=(20, 32))[y] + rng.normal(size=(400, 32))).astype(np.float32)
    head = make_head("logreg", C=1e-5, max_iter=40).fit(X, y)  # over 160 steps if intercepts have the unit of weights
    assert head.warnings_ == ()
    shares = np.bincount(y) / len(y)  # next to no weights are left
    np.testing.assert_allclose(head.predict_proba(X), np.tile(shares, (400, 1)), atol=2e-3)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_make_no_difference_to_a_logistic_regression(threads, blobs, monkeypatch):
    X, y = blobs(300, 16, 3)
    monkeypatch.setattr(logistic_solver, "_BLOCK_VALUES", 16 * 10)
    expected = make_head("logreg").fit(X, y).model_.coef
    with threadpool_limits(threads, user_api="blas"):
        np.testing.assert_array_equal(make_head("logreg").fit(X, y).model_.coef, expected)


def test_far_means_cost_a_logistic_regression_no_precision(blobs):
    X, y = blobs(300, 8, 2, spread=4)
    far = (X + np.float32(2**12)).astype(np.float32)  # such sums are rounded to 2^-11
    near = far - np.float32(2**12)
    expected = make_head("logreg").fit(near, y).predict_proba(near)
    np.testing.assert_allclose(make_head("logreg").fit(far, y).predict_proba(far), expected, atol=1e-4)


@pytest.fixture
def in_windows(monkeypatch):
    """Let every feature set be large, with strips of 8 rows of 12 features, 10 of them in a window."""
    monkeypatch.setattr(rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(rows, "_BLOCK_VALUES", 12 * 25)
    monkeypatch.setattr(shuffling, "STRIP_BYTES", 8 * 12 * 4)
    monkeypatch.setattr(shuffling, "STRIPS_OF_A_WINDOW", 10)


@in_every_way
def test_descent_in_windows_ends_near_that_of_scikit_learn(k, standardize, class_weight, blobs, request):
    X, y = uneven(blobs, k, spread=2)
    X = X if standardize else X / 10
    params = {"alpha": 0.01, "average": True, "max_iter": 300, "tol": 1e-4}
    params |= {"standardize": standardize, "class_weight": class_weight}
    whole = make_head("sgd", **params).fit(X, y).predict_proba(X)
    request.getfixturevalue("in_windows")
    head = make_head("sgd", **params).fit(X, y)
    assert np.abs(head.predict_proba(X) - whole).mean() < 0.02
    assert head.warnings_ == ()


@in_every_way
def test_descent_for_many_classes_at_once_ends_near_that_of_scikit_learn(
    k, standardize, class_weight, blobs, monkeypatch
):
    X, y = uneven(blobs, k, spread=2)
    X = X if standardize else X / 10
    params = {"alpha": 0.01, "max_iter": 1000, "tol": 1e-5, "standardize": standardize, "class_weight": class_weight}
    whole = make_head("sgd", **params).fit(X, y).predict_proba(X)
    monkeypatch.setattr(linear, "_MANY_WEIGHTS", 0)
    monkeypatch.setattr(SGDClassifier, "fit", None)
    head = make_head("sgd", **params).fit(X, y)
    found = head.predict_proba(X)
    assert np.abs(found - whole).mean() < 0.02
    assert np.mean(found.argmax(axis=1) == whole.argmax(axis=1)) > 0.97
    assert head.warnings_ == ()


def test_many_classes_descend_at_once_and_two_with_scikit_learn(blobs, monkeypatch):
    fitted, plain = [], SGDClassifier.fit
    monkeypatch.setattr(
        SGDClassifier, "fit", lambda self, X, y, **how: fitted.append(X.shape) or plain(self, X, y, **how)
    )
    for k, d in ((2, 1000), (20, 1000)):
        X, y = blobs(60, d, k)
        make_head("sgd", alpha=0.1).fit(X, y)
    assert fitted == [(60, 1000)]


def test_descent_in_windows_follows_the_seed_and_its_limit(blobs, in_windows):
    X, y = blobs(200, 12, 3, spread=4)
    first, again, other = (make_head("sgd", seed=seed).fit(X, y).model_.coef for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    [warning] = make_head("sgd", max_iter=2).fit(X, y).warnings_
    assert warning.message == "sgd did not converge (max_iter=2): raise max_iter or tol"


def test_large_features_are_read_a_window_at_a_time(blobs, in_windows, monkeypatch):
    X, y = blobs(400, 12, 2)
    counts, read = [], Rows._read
    monkeypatch.setattr(Rows, "_read", lambda self, *rows: counts.append(len(rows[0])) or read(self, *rows))
    head = make_head("sgd").fit(Rows(ArraySource(X), X.dtype, np.arange(400)), y)
    assert max(counts) == 80
    np.testing.assert_array_equal(head.predict_proba(X), make_head("sgd").fit(X, y).predict_proba(X))
