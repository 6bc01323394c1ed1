"""Support vector machines, ridge and Platt's sigmoid against scikit-learn, and against leaving rows out one by one."""

import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_info, threadpool_limits

from heads import rows
from heads.base import fit_together
from heads.catalog import HEADS, make_head
from heads.families import ridge, svm, svm_solver
from heads.families.own_threads import own_threads
from tests.heads.families.calibrated import platt_of_scikit_learn, uneven, weights_of


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
    assert head.warnings_[0].message.startswith(
        "a class has a single row: probabilities were calibrated on training scores"
    )
    standardised = StandardScaler().fit_transform(X[kept].astype(np.float64))
    machine = LinearSVC(dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000).fit(standardised, y[kept])
    expected = [platt_of_scikit_learn(machine.decision_function(standardised)[:, c], y[kept] == c) for c in range(3)]
    expected = np.stack(expected, axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(X[kept]), expected, rtol=0, atol=2e-3)


def test_svm_that_did_not_converge_says_so_and_what_to_do(blobs):
    X, y = blobs(200, 20, 3, spread=6)
    head = make_head("svm", max_iter=3).fit(X, y)
    assert tuple(map(str, head.warnings_)) == ("svm did not converge (max_iter=3): raise max_iter or lower C",)
    unscaled = make_head("svm", max_iter=3, standardize=False).fit(X, y)
    assert "set standardize=true, raise max_iter" in unscaled.warnings_[0].message


@pytest.mark.parametrize("name", ["svm", "ridge"])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("shape", [(120, 10), (40, 60)])
def test_heads_fitted_together_are_those_fitted_alone(name, k, shape, blobs, monkeypatch):
    X, y = uneven(blobs, 2 * shape[0], shape[1], k, spread=5)
    (shared,) = HEADS[name].shared
    params = {"tol": 1e-9} if name == "svm" else {}
    heads = [make_head(name, **params, **{shared: value}) for value in (1e-4, 0.1, 5.0)]
    monkeypatch.setattr(svm, "_BATCH_VALUES", 1500)
    monkeypatch.setattr(ridge, "_HELD_VALUES", 2 * len(X) * k)
    assert fit_together(heads, X, y) == [None] * 3
    for head in heads:
        alone = make_head(name, **params, **{shared: getattr(head, shared)}).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), rtol=0, atol=1e-5)


def test_threads_change_no_bit(blobs, monkeypatch):
    X, y = uneven(blobs, 400, 10, 20, spread=5)
    monkeypatch.setattr(svm, "_BATCH_VALUES", 8000)  # a few classes at a time
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(svm, "own_threads", lambda threads=threads: nullcontext(threads))
        found.append(make_head("svm").fit(X, y).model_)
    np.testing.assert_array_equal(found[0].coef, found[1].coef)
    np.testing.assert_array_equal(found[0].intercept, found[1].intercept)


def test_linear_algebra_computes_with_one_thread_where_threads_are_our_own():
    with threadpool_limits(2, user_api="blas"), own_threads() as threads:
        assert threads == 2
        assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {1}


def test_only_the_heads_that_did_not_converge_say_so(blobs):
    X, y = blobs(200, 20, 3, spread=6)
    heads = [make_head("svm", C=C, max_iter=6) for C in (1e-7, 10.0)]
    fit_together(heads, X, y)
    assert ["not_converged" in [notice.code for notice in head.warnings_] for head in heads] == [False, True]


def test_svm_on_features_whose_products_overflow_says_what_to_do(blobs):
    X, y = blobs(40, 3, 2)
    head = make_head("svm", standardize=False).fit((X * 1e37).astype(np.float32), y)
    assert {notice.code: str(notice) for notice in head.warnings_}["not_converged"] == (
        "svm did not converge (max_iter=1000): set standardize=true, raise max_iter or lower C"
    )


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
        (ridge, "_FEATURE_VALUES"),
        (svm_solver, "_BLOCK_VALUES"),
        (svm_solver, "_GATHERED_VALUES"),
    ):
        monkeypatch.setattr(module, name_of_size, 2**16)
    head = make_head(name)
    tracemalloc.start()
    try:
        head.fit(X, y)
        assert tracemalloc.get_traced_memory()[1] < 0.8 * X.nbytes
    finally:
        tracemalloc.stop()
