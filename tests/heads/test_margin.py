"""Support vector machines, ridge and Platt's sigmoid against scikit-learn, and against leaving rows out one by one."""

import tracemalloc
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_sample_weight

from heads import margin, rows, solver
from heads.base import fit_together
from heads.catalog import HEADS, make_head
from heads.errors import TrainingError
from heads.margin import platt

ALPHAS = (1e-3, 0.5, 30.0)


def uneven(blobs, n, d, k, **how):
    """Rows in clouds, the later classes rarer, in float64."""
    X, y = blobs(n, d, k, **how)
    kept = np.arange(n) % (2 + 3 * y) < 2
    return X[kept].astype(np.float64) * 3 + 1, y[kept]


def weights_of(y, class_weight):
    return compute_sample_weight(None if class_weight == "none" else class_weight, y)


def scores_of(head, X):
    """The scores whose sigmoids the predictor normalises."""
    predictor = head.predictor_
    return ((X - predictor.mean) / predictor.scale) @ predictor.coef.T + predictor.intercept


def platt_of_scikit_learn(scores, positive, weights=None):
    """The probability that scikit-learn's calibration gives each score."""
    machine = LinearSVC().fit(scores[:, None], positive)
    machine.coef_[:], machine.intercept_[:] = 1, 0
    everything = [(np.arange(len(scores)), np.arange(len(scores)))]
    calibrated = CalibratedClassifierCV(FrozenEstimator(machine), method="sigmoid", ensemble=False, cv=everything)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Since FrozenEstimator does not appear to accept sample_weight")
        calibrated.fit(scores[:, None], positive, sample_weight=weights)
    return calibrated.predict_proba(scores[:, None])[:, 1]


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_svm_probabilities_are_those_of_scikit_learns_calibrated_machines(k, class_weight, blobs):
    X, y = uneven(blobs, 120 * k, 8, k, spread=5)
    head = make_head("svm", C=0.2, tol=1e-9, class_weight=class_weight).fit(X, y)
    machine = LinearSVC(C=0.2, dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000)
    calibrated = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=5)
    standardised = StandardScaler().fit_transform(X)
    calibrated.fit(standardised, y, sample_weight=weights_of(y, class_weight))
    np.testing.assert_allclose(head.predict_proba(X), calibrated.predict_proba(standardised), rtol=0, atol=1e-4)
    assert head.warnings_ == ()


def test_svm_learns_from_features_as_they_are_if_it_is_told_to(blobs):
    X, y = uneven(blobs, 200, 6, 3, spread=5)
    head = make_head("svm", C=0.01, tol=1e-9, standardize=False).fit(X, y)
    machine = LinearSVC(C=0.01, dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000)
    calibrated = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=5).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), calibrated.predict_proba(X), rtol=0, atol=1e-4)


def test_svm_takes_as_many_folds_as_the_rarest_class_has_rows(blobs):
    X, y = blobs(90, 5, 3, spread=4)
    kept = (y != 2) | (np.cumsum(y == 2) <= 3)
    X, y = X[kept].astype(np.float64), y[kept]
    head = make_head("svm", tol=1e-9).fit(X, y)
    machine = LinearSVC(dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000)
    standardised = StandardScaler().fit_transform(X)
    expected = CalibratedClassifierCV(machine, ensemble=False, cv=3).fit(standardised, y).predict_proba(standardised)
    np.testing.assert_allclose(head.predict_proba(X), expected, rtol=0, atol=1e-4)


def test_svm_of_a_class_with_a_single_row_says_that_it_is_too_sure(blobs):
    X, y = blobs(60, 5, 3)
    kept = (y != 2) | (np.cumsum(y == 2) <= 1)
    head = make_head("svm", tol=1e-9).fit(X[kept], y[kept])
    assert len(head.warnings_) == 1
    assert head.warnings_[0].startswith("a class has a single row: probabilities were calibrated on training scores")
    standardised = StandardScaler().fit_transform(X[kept].astype(np.float64))
    machine = LinearSVC(dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000).fit(standardised, y[kept])
    expected = [platt_of_scikit_learn(machine.decision_function(standardised)[:, c], y[kept] == c) for c in range(3)]
    expected = np.stack(expected, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X[kept]), expected, rtol=0, atol=2e-3)


def test_svm_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=6)
    head = make_head("svm", max_iter=3).fit(X, y)
    assert head.warnings_ == ("svm did not converge (max_iter=3): raise max_iter or lower C",)
    unscaled = make_head("svm", max_iter=3, standardize=False).fit(X, y)
    assert "set standardize=true, raise max_iter" in unscaled.warnings_[0]


@pytest.mark.parametrize("name", ["svm", "ridge"])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shape", [(120, 10), (40, 60)])
def test_heads_fitted_together_are_those_fitted_alone(name, k, shape, blobs, monkeypatch):
    X, y = uneven(blobs, 2 * shape[0], shape[1], k, spread=5)
    (shared,) = HEADS[name].shared
    params = {"tol": 1e-9} if name == "svm" else {}
    heads = [make_head(name, **params, **{shared: value}) for value in (1e-4, 0.1, 5.0)]
    monkeypatch.setattr(margin, "_BATCH_VALUES", 1500)
    monkeypatch.setattr(margin, "_HELD_VALUES", 2 * len(X) * k)
    assert fit_together(heads, X, y) == [None] * 3
    for head in heads:
        alone = make_head(name, **params, **{shared: getattr(head, shared)}).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), rtol=0, atol=1e-5)


def test_only_the_heads_that_did_not_converge_say_so(blobs):
    X, y = blobs(200, 20, 3, spread=6)
    heads = [make_head("svm", C=C, max_iter=6) for C in (1e-7, 10.0)]
    fit_together(heads, X, y)
    assert [len(head.warnings_) for head in heads] == [0, 1]


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
@pytest.mark.parametrize("together", [True, False])
def test_ridge_probabilities_are_calibrated_on_scores_without_the_row(shape, class_weight, together, blobs):
    X, y = blobs(*shape, 3, spread=5)
    X, y = X[4:].astype(np.float64), y[4:]
    heads = [make_head("ridge", alpha=alpha, class_weight=class_weight) for alpha in ALPHAS]
    if together:
        fit_together(heads, X, y)
    prepared, weights = StandardScaler().fit_transform(X), weights_of(y, class_weight)
    for head in heads:
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
        found = head if together else head.fit(X, y)
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
    assert (margin._inverses(row.T @ row, np.array([1e-30, 1.0]))[1] > 0).all()


def test_ridge_refuses_features_whose_products_overflow(blobs):
    X, y = blobs(40, 3, 2)
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(TrainingError, match="beyond the range of float64; set standardize=true"),
    ):
        make_head("ridge", standardize=False).fit(X.astype(np.float64) * 1e200, y)


def test_svm_on_features_whose_products_overflow_says_what_to_do(blobs):
    X, y = blobs(40, 3, 2)
    head = make_head("svm", standardize=False).fit((X * 1e37).astype(np.float32), y)
    assert head.warnings_ == ("svm did not converge (max_iter=1000): set standardize=true, raise max_iter or lower C",)


@pytest.mark.parametrize("name", ["svm", "ridge"])
def test_balanced_weights_help_a_rare_class(name, blobs):
    X, y = blobs(600, 2, 2, spread=4)
    rare = (y == 0) | (np.arange(600) % 20 == 1)
    X, y = X[rare], y[rare]
    recall = [
        np.mean(make_head(name, class_weight=weight).fit(X, y).predict_proba(X[y == 1]).argmax(axis=1))
        for weight in ("none", "balanced")
    ]
    assert recall[1] > recall[0] + 0.1


@pytest.mark.parametrize("name", ["svm", "ridge"])
def test_two_rows_are_enough(name):
    head = make_head(name).fit(np.array([[0.0], [1.0]]), np.array([3, 5]))
    probabilities = head.predict_proba(np.array([[0.0], [1.0]]))
    assert np.isfinite(probabilities).all()
    assert head.classes_.tolist() == [3, 5]


@pytest.mark.parametrize("name", ["svm", "ridge"])
@pytest.mark.parametrize("shape", [(12_000, 300), (300, 12_000)])
def test_features_are_never_copied_as_a_whole(name, shape, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=shape).astype(np.float32), rng.integers(0, 2, shape[0])
    for module, name_of_size in (
        (rows, "_BLOCK_VALUES"),
        (margin, "_FEATURE_VALUES"),
        (solver, "_BLOCK_VALUES"),
        (solver, "_GATHERED_VALUES"),
    ):
        monkeypatch.setattr(module, name_of_size, 2**16)
    head = make_head(name)
    tracemalloc.start()
    try:
        head.fit(X, y)
        assert tracemalloc.get_traced_memory()[1] < 0.8 * X.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("spread", [0.1, 1.0, 40.0])
@pytest.mark.parametrize("weighted", [True, False])
def test_the_sigmoid_is_that_of_scikit_learn(spread, weighted):
    rng = np.random.default_rng(5)
    positive = np.arange(200) % 5 == 0
    scores = (rng.normal(size=200) + positive) * spread
    weights = rng.uniform(0.1, 4, 200) if weighted else np.ones(200)
    slope, offset = platt(scores, np.where(positive, 1, -1), weights)
    expected = platt_of_scikit_learn(scores, positive, weights if weighted else None)
    np.testing.assert_allclose(1 / (1 + np.exp(-slope * scores - offset)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_the_unit_of_scores_makes_no_difference(factor):
    rng = np.random.default_rng(6)
    signs = np.where(rng.random(100) < 0.3, 1, -1)
    scores = rng.normal(size=100) + signs
    slope, offset = platt(scores, signs, np.ones(100))
    np.testing.assert_allclose(platt(scores * factor, signs, np.ones(100)), (slope / factor, offset), rtol=1e-5)


def test_scores_that_separate_the_classes_give_a_finite_sigmoid():
    signs = np.repeat([-1, 1], 50)
    slope, offset = platt(np.repeat([-3.0, 7.0], 50), signs, np.ones(100))
    assert 1 / (1 + np.exp(-7 * slope - offset)) == pytest.approx(51 / 52, abs=1e-6)
    assert 1 / (1 + np.exp(3 * slope - offset)) == pytest.approx(1 / 52, abs=1e-6)


def test_scores_that_point_the_wrong_way_never_lower_a_probability():
    signs = np.repeat([-1, 1], [60, 20])
    slope, offset = platt(-signs + np.random.default_rng(0).normal(size=80), signs, np.ones(80))
    assert slope == 0
    wanted = np.where(signs > 0, 21 / 22, 1 / 62)
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(wanted.mean(), abs=1e-6)


@pytest.mark.parametrize("scores", [np.zeros(10), np.full(10, 3.0), np.append(np.linspace(0, 1, 9), 1e12)])
def test_scores_that_say_nothing_or_too_much_give_finite_numbers(scores):
    slope, offset = platt(scores, np.repeat([-1, 1], 5), np.ones(10))
    assert slope >= 0
    assert np.isfinite([slope, offset]).all()


def test_scores_that_are_not_finite_are_a_training_that_diverged():
    with pytest.raises(TrainingError, match="the training diverged"):
        platt(np.array([0.0, np.nan]), np.array([-1, 1]), np.ones(2))
