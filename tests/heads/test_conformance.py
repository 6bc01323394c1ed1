"""What every head of the catalogue must do."""

import json

import numpy as np
import pytest

from heads.artifact import TrainedHead
from heads.base import Head, Monitor
from heads.catalog import HEADS, make_head
from heads.errors import HeadError, MismatchError, TrainingError
from heads.training import train

QUICK = {"softmax": {"epochs": 2, "batch_size": 16, "lr": 0.2}, "logreg": {}}
PROBABILITIES_AGREE = 1e-6

every_head = pytest.mark.parametrize("name", HEADS)


def quick(name, **params) -> Head:
    return make_head(name, **(QUICK[name] | params))


@pytest.fixture(scope="module", params=list(HEADS))
def fitted(request, blobs):
    """A head of each name, fitted once on four classes, with its rows."""
    X, y = blobs(64, 6, 4)
    return quick(request.param).fit(X, y), X, y


def test_every_head_is_in_this_suite():
    assert set(QUICK) == set(HEADS)


def test_probabilities_have_one_column_per_class_and_sum_to_one(fitted):
    head, X, _ = fitted
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (64, 4)
    assert probabilities.dtype == np.float64
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert head.classes_.tolist() == [0, 1, 2, 3]


def test_it_learns(fitted):
    head, X, y = fitted
    assert np.mean(head.predict_proba(X).argmax(axis=1) == y) > 0.4  # chance is 0.25


def test_no_rows_give_no_probabilities(fitted):
    head, X, _ = fitted
    assert head.predict_proba(X[:0]).shape == (0, 4)


def test_another_number_of_features_is_refused(fitted):
    head, X, _ = fitted
    with pytest.raises(MismatchError, match=r"shape \(64, 5\).*\(n, 6\)"):
        head.predict_proba(X[:, :5])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_row(fitted, poison):
    head, X, _ = fitted
    X = X.copy()
    X[7, 2] = poison
    with pytest.raises(HeadError, match="row 7 holds features that are not finite"):
        head.predict_proba(X)


@every_head
def test_classes_are_in_ascending_order_whatever_the_order_of_rows(name, blobs):
    X, y = blobs(40, 5, 2)
    head = quick(name).fit(X, np.where(y == 0, 9, 4))
    assert head.classes_.tolist() == [4, 9]
    right = head.classes_[head.predict_proba(X).argmax(axis=1)] == np.where(y == 0, 9, 4)
    assert right.mean() > 0.6


@every_head
def test_twelve_classes(name, blobs):
    X, y = blobs(120, 8, 12)
    assert quick(name).fit(X, y).predict_proba(X).shape == (120, 12)


@every_head
def test_one_feature(name):
    X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(-1, 1)
    head = quick(name).fit(X, (X[:, 0] > 0).astype(int))
    assert head.predict_proba(np.array([[5.0]], dtype=np.float32)).argmax() == 1


@every_head
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_constant_features_do_no_harm(name, constant, blobs):
    X, y = blobs(40, 4, 2)
    X[:, 1] = constant
    head = quick(name).fit(X, y)
    assert np.isfinite(head.predict_proba(X)).all()
    assert np.mean(head.predict_proba(X).argmax(axis=1) == y) > 0.5


@every_head
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_is_learned_from_and_left_unchanged(name, dtype, blobs):
    X, y = blobs(40, 4, 2)
    X = (X * 100).astype(dtype)
    before = X.copy()
    probabilities = quick(name).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_allclose(probabilities, quick(name).fit(X.astype(np.float32), y).predict_proba(X), atol=1e-4)


@every_head
@pytest.mark.parametrize("standardize", [True, False])
def test_read_only_memory_map(name, standardize, blobs, tmp_path):
    X, y = blobs(40, 4, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    head = quick(name, standardize=standardize).fit(mapped, y)
    expected = quick(name, standardize=standardize).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(head.predict_proba(mapped), expected)


@every_head
def test_rows_in_column_order_and_views_of_rows(name, blobs):
    X, y = blobs(40, 4, 2)
    expected = quick(name).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(quick(name).fit(np.asfortranarray(X), y).predict_proba(X), expected, atol=1e-5)
    wide = np.repeat(X, 2, axis=0)
    np.testing.assert_array_equal(quick(name).fit(wide[::2], y).predict_proba(wide[::2]), expected)


@every_head
def test_the_same_seed_gives_the_same_head(name, blobs):
    X, y = blobs(48, 4, 3)
    first, second = (quick(name, seed=5).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@every_head
def test_training_leaves_the_global_random_state_alone(name, blobs):
    X, y = blobs(40, 4, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must not change
    quick(name).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@every_head
def test_fitting_again_forgets_the_first_fit(name, blobs):
    X, y = blobs(40, 4, 2)
    again = quick(name).fit(-X, 1 - y).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), quick(name).fit(X, y).predict_proba(X))


@every_head
def test_a_monitor_never_changes_what_is_learned(name, blobs):
    X, y = blobs(60, 4, 3)
    monitor = Monitor(X[40:], y[40:])
    watched = quick(name).fit(X[:40], y[:40], monitor=monitor).predict_proba(X)
    np.testing.assert_array_equal(watched, quick(name).fit(X[:40], y[:40]).predict_proba(X))
    assert len(monitor.epochs) == QUICK[name].get("epochs", 0)


@every_head
def test_using_it_untrained_says_so(name):
    with pytest.raises(HeadError, match="has not been trained: call fit first"):
        make_head(name).predict_proba(np.zeros((1, 2), dtype=np.float32))


@every_head
@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no row at all"),
        (np.zeros((3, 2)), np.array([1, 1, 1]), "all 3 rows are of class 1"),
        (np.zeros((3, 2)), np.array([0, -1, 1]), "1 of 3 rows have no label"),
        (np.zeros((3, 2)), np.array([0, 1]), r"shape \(3, 2\) and labels of shape \(2,\)"),
        (np.zeros(3), np.array([0, 1, 0]), r"expected \(n, d\) and \(n,\)"),
        (np.zeros((3, 0)), np.array([0, 1, 0]), r"expected \(n, d\) and \(n,\)"),
        (np.zeros((2, 2), int), np.array([0, 1]), "features are int64"),
        (np.zeros((2, 2)), np.array([0.0, 1.0]), "labels float64"),
        (np.array([[0.0, 1], [np.nan, 1]]), np.array([0, 1]), "row 1 holds features that are not finite"),
        (np.array([[0.0, 1], [np.inf, 1]]), np.array([0, 1]), "row 1 holds features that are not finite"),
    ],
)
def test_rows_that_cannot_be_trained_on(name, X, y, said):
    with pytest.raises(TrainingError, match=said):
        make_head(name).fit(X, y)


@every_head
def test_a_class_missing_in_train_gets_probability_zero_and_keeps_its_column(name, blobs, make_features, make_cache):
    X, y = blobs(60, 5, 3)
    train_rows = y != 1
    cache = make_cache(make_features(X[train_rows], y[train_rows]))
    head = train(cache, name, params=QUICK[name], holdout=0)
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (60, 3)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert head.trained_classes == (0, 2)
    assert any("'bee'" in each or "bee" in each for each in head.training.warnings)


@every_head
def test_stored_and_loaded_in_a_fresh_interpreter_without_the_library(name, blobs, blob_cache, tmp_path, fresh_python):
    X, _ = blobs(60, 5, 3)
    head = train(blob_cache, name, params=QUICK[name])
    head.save(tmp_path / "head")
    np.save(tmp_path / "X.npy", X)
    code = """
import sys, json, numpy as np
from heads import TrainedHead
head = TrainedHead.load(sys.argv[1])
probabilities = head.predict_proba(np.load(sys.argv[2], mmap_mode="r"))
heavy = {"tensorflow", "keras", "jax", "torch", "sklearn", "scipy", "h5py"} & set(sys.modules)
print(json.dumps([sorted(heavy), probabilities.tolist()]))
"""
    heavy, probabilities = json.loads(fresh_python(code, tmp_path / "head", tmp_path / "X.npy"))
    assert heavy == []
    np.testing.assert_allclose(probabilities, head.predict_proba(X), rtol=0, atol=PROBABILITIES_AGREE)
    loaded = TrainedHead.load(tmp_path / "head")
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))
