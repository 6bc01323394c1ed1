"""What every head of the catalogue must do; the few that must do otherwise are listed with the reason."""

import json

import numpy as np
import pytest

from featurecache.rows import ArraySource, Rows
from heads.artifact import TrainedHead
from heads.base import Head, fit_together
from heads.catalog import HEADS, make_head
from heads.epochs import Monitor
from heads.errors import HeadError, MismatchError, TrainingError
from heads.training import train

PROBABILITIES_AGREE = 1e-6

# Parameters that make heads quick on few rows; all others have their defaults.
QUICK = {
    "softmax": {"epochs": 2, "batch_size": 16, "lr": 0.2},
    "mlp": {"epochs": 2, "batch_size": 16, "lr": 0.05, "hidden": "8"},
    "extra_trees": {"n_estimators": 10, "min_samples_leaf": 4},
    "hist_gradient_boosting": {"max_iter": 5},
}

# (head, what it does not do as the others) -> why
DEVIATIONS = {
    ("majority", "learns"): "it gives every image the shares of the classes",
    ("imagenet_map", "any feature"): "it takes probabilities, so rows go through softmax first",
    ("imagenet_map", "one feature"): "a single probability speaks for one class, whatever its size",
    ("sgd", "agrees across types"): "its steps are large: rounding in another type is not settled when it stops",
    ("svm", "few rows at a time"): "it reads the rows inside the margins together",
    ("sgd", "few rows at a time"): "it reads features up to 1 GiB as a whole",
    ("imagenet_map", "constant features"): "it compares features with one another, so that a large one decides alone",
}

# Parameters with which a head fails on 40 rows of 60 features, of heads that can.
FAILING = {
    "softmax": {"lr": 1e38},
    "mlp": {"lr": 1e38},
    "lda": {"shrinkage": 0.0},
}

every_head = pytest.mark.parametrize("name", HEADS)


def quick(name, **params) -> Head:
    return make_head(name, **(QUICK.get(name, {}) | params))


def usual(name, what):
    return (name, what) not in DEVIATIONS


def having(parameter):
    """Run a test with every head that has a parameter of this name."""
    return pytest.mark.parametrize(
        "name", [name for name, spec in HEADS.items() if parameter in {each.name for each in spec.parameters}]
    )


@pytest.fixture(scope="module")
def rows(blobs):
    """Rows in clouds that a head of this name can take: features (n, d) float32 and labels (n,)."""

    def make(name, n, d, k, **options):
        X, y = blobs(n, d, k, **options)
        if not usual(name, "any feature"):
            X = np.exp(X - X.max(axis=1, keepdims=True))
            X /= X.sum(axis=1, keepdims=True)
        return X, y

    return make


@pytest.fixture(scope="module", params=list(HEADS))
def fitted(request, rows):
    """A head of each name, fitted once on four classes, with its name and its rows."""
    X, y = rows(request.param, 64, 6, 4)
    return request.param, quick(request.param).fit(X, y), X, y


@pytest.fixture(scope="module")
def tap_cache(rows, make_features, make_cache):
    """A cache of 60 rows of three classes that a head of this name can be trained on, and the rows."""

    def make(name, without=None):
        X, y = rows(name, 60, 5, 3)
        kept = y != without
        tap = (*HEADS[name].taps, "fc2")[0]
        return make_cache(make_features(X[kept], y[kept], tap=tap), weights_source="imagenet"), X

    return make


def test_the_exceptions_are_of_heads_that_there_are():
    assert {name for name, _ in DEVIATIONS} | QUICK.keys() | FAILING.keys() <= HEADS.keys()


# Probabilities


def test_probabilities_have_one_column_per_class_and_sum_to_one(fitted):
    _, head, X, _ = fitted
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (64, 4)
    assert probabilities.dtype == np.float64
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert head.classes_.tolist() == [0, 1, 2, 3]


def test_it_learns(fitted):
    name, head, X, y = fitted
    accuracy = np.mean(head.predict_proba(X).argmax(axis=1) == y)
    assert accuracy > 0.4 if usual(name, "learns") else accuracy == 0.25


def test_no_rows_give_no_probabilities(fitted):
    _, head, X, _ = fitted
    assert head.predict_proba(X[:0]).shape == (0, 4)


def test_another_number_of_features_is_refused(fitted):
    _, head, X, _ = fitted
    with pytest.raises(MismatchError, match=r"shape \(64, 5\).*\(n, 6\)"):
        head.predict_proba(X[:, :5])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused_by_row(fitted, poison):
    _, head, X, _ = fitted
    X = X.copy()
    X[7, 2] = poison
    with pytest.raises(HeadError, match="row 7 holds features that are not finite"):
        head.predict_proba(X)


def test_what_is_stored_is_all_that_it_takes(fitted):
    name, head, X, _ = fitted
    params = {each.name: getattr(head, each.name) for each in HEADS[name].parameters}
    model = head.model_
    rebuilt = type(model).from_arrays(model.arrays, classes=4, width=6, params=params)
    assert rebuilt.width == model.width == 6
    np.testing.assert_array_equal(rebuilt.predict_proba(X), head.predict_proba(X))


# Classes


@every_head
def test_classes_are_in_ascending_order_whatever_the_order_of_rows(name, rows):
    X, y = rows(name, 40, 5, 2)
    labels = np.where(y == 0, 9, 4)
    head = quick(name).fit(X, labels, names=tuple("abcdefghij"))
    assert head.classes_.tolist() == [4, 9]
    assert head.names_ == ("e", "j")
    right = head.classes_[head.predict_proba(X).argmax(axis=1)] == labels
    assert right.mean() > 0.6 or not usual(name, "learns")


@every_head
def test_twelve_classes(name, rows):
    X, y = rows(name, 120, 8, 12)
    probabilities = quick(name).fit(X, y).predict_proba(X)
    assert probabilities.shape == (120, 12)
    assert np.isfinite(probabilities).all()


@every_head
def test_a_class_missing_in_train_gets_probability_zero_and_keeps_its_column(name, tap_cache):
    cache, X = tap_cache(name, without=1)
    head = train(cache, name, params=QUICK.get(name), holdout=0)
    probabilities = head.predict_proba(X)
    assert probabilities.shape == (60, 3)
    assert (probabilities[:, 1] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert head.trained_classes == (0, 2)
    assert any("bee" in each for each in map(str, head.training.warnings))


@having("class_weight")
def test_balanced_weights_make_a_rare_class_more_probable(name, rows):
    X, y = rows(name, 400, 6, 2, spread=6)
    kept = (y == 0) | (np.arange(400) % 20 == 1)
    X, y = X[kept], y[kept]
    none, balanced = (
        quick(name, class_weight=weight).fit(X, y).predict_proba(X)[:, 1].mean() for weight in ("none", "balanced")
    )
    assert np.sum(y == 1) == 20
    assert balanced > none + 0.05


# Features


@every_head
def test_one_feature(name):
    X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(-1, 1)
    X = X if usual(name, "any feature") else X + 1
    head = quick(name).fit(X, (np.arange(32) >= 16).astype(int))
    probabilities = head.predict_proba(np.array([[5.0]], dtype=np.float32))
    assert np.isfinite(probabilities).all()
    if usual(name, "learns") and usual(name, "one feature"):
        assert probabilities.argmax() == 1


@every_head
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
def test_constant_features_do_no_harm(name, constant, rows):
    X, y = rows(name, 40, 4, 2)
    X[:, 1] = constant
    probabilities = quick(name).fit(X, y).predict_proba(X)
    assert np.isfinite(probabilities).all()
    if usual(name, "learns") and usual(name, "constant features"):
        assert np.mean(probabilities.argmax(axis=1) == y) > 0.5


@every_head
def test_rows_that_are_all_alike_do_no_harm(name):
    head = quick(name).fit(np.full((40, 3), 0.1, np.float32), np.arange(40) % 2)
    np.testing.assert_allclose(head.predict_proba(np.full((2, 3), 0.1)).sum(axis=1), 1)


@every_head
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_is_learned_from_and_left_unchanged(name, dtype, rows):
    X, y = rows(name, 40, 4, 2)
    X = (X * 100).astype(dtype)
    before = X.copy()
    probabilities = quick(name).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(X, before)
    tolerance = 1e-4 if usual(name, "agrees across types") else 0.05
    in_float32 = quick(name).fit(X.astype(np.float32), y).predict_proba(X)
    np.testing.assert_allclose(probabilities, in_float32, atol=tolerance)


def _on_disk(name, rows, tmp_path, **params):
    X, y = rows(name, 40, 4, 2)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    head = quick(name, **params).fit(mapped, y)
    np.testing.assert_array_equal(head.predict_proba(mapped), quick(name, **params).fit(X, y).predict_proba(X))


@every_head
def test_read_only_memory_map(name, rows, tmp_path):
    _on_disk(name, rows, tmp_path)


@having("standardize")
@pytest.mark.parametrize("standardize", [True, False])
def test_read_only_memory_map_standardised_or_not(name, standardize, rows, tmp_path):
    _on_disk(name, rows, tmp_path, standardize=standardize)


@every_head
def test_rows_in_column_order_and_views_of_rows(name, rows):
    X, y = rows(name, 40, 4, 2)
    expected = quick(name).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(quick(name).fit(np.asfortranarray(X), y).predict_proba(X), expected, atol=1e-5)
    wide = np.repeat(X, 2, axis=0)
    np.testing.assert_array_equal(quick(name).fit(wide[::2], y).predict_proba(wide[::2]), expected)


# Training


@every_head
def test_the_same_seed_gives_the_same_head(name, rows):
    X, y = rows(name, 48, 4, 3)
    first, second = (quick(name, seed=5).fit(X, y).predict_proba(X) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@every_head
def test_training_leaves_the_global_random_state_alone_and_prints_nothing(name, rows, capfd):
    X, y = rows(name, 40, 4, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must not change
    quick(name).fit(X, y)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


@every_head
def test_fitting_again_forgets_the_first_fit(name, rows):
    X, y = rows(name, 40, 4, 2)
    again = quick(name).fit(X[:30], 1 - y[:30]).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), quick(name).fit(X, y).predict_proba(X))


@every_head
def test_a_monitor_never_changes_what_is_learned(name, rows):
    X, y = rows(name, 60, 4, 3)
    monitor = Monitor(X[40:], y[40:])
    watched = quick(name).fit(X[:40], y[:40], monitor=monitor).predict_proba(X)
    np.testing.assert_array_equal(watched, quick(name).fit(X[:40], y[:40]).predict_proba(X))
    assert len(monitor.epochs) == QUICK.get(name, {}).get("epochs", 0)


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
        (np.array([[0.0, 1], [np.nan, 1]]), np.array([0, 1]), "row 1 holds features that are not finite"),
        (np.array([[0.0, 1], [np.inf, 1]]), np.array([0, 1]), "row 1 holds features that are not finite"),
    ],
)
def test_rows_that_cannot_be_trained_on(name, X, y, said):
    with pytest.raises(TrainingError, match=said):
        make_head(name).fit(X, y)


# Several heads on the same rows


@every_head
def test_heads_that_are_fitted_together_learn_what_each_learns_alone(name, rows):
    X, y = rows(name, 60, 6, 3)
    spec = HEADS[name]
    settings = [{each: spec.grid[each][position] for each in spec.shared} for position in (0, -1, 1)]
    heads, monitors = [quick(name, **params) for params in settings], [Monitor(X, y) for _ in settings]
    assert fit_together(heads, X, y, monitors=monitors) == [None] * 3
    for head, params, monitor in zip(heads, settings, monitors, strict=True):
        watched = Monitor(X, y)
        alone = quick(name, **params).fit(X, y, monitor=watched)
        np.testing.assert_allclose(head.predict_proba(X), alone.predict_proba(X), rtol=0, atol=PROBABILITIES_AGREE)
        assert head.warnings_ == alone.warnings_
        assert head.classes_.tolist() == [0, 1, 2]
        assert len(monitor.epochs) == len(watched.epochs)


@pytest.mark.parametrize("name", FAILING)
def test_a_head_that_fails_does_not_stop_the_others(name, rows):
    X, y = rows(name, 40, 60, 2)
    assert set(FAILING[name]) <= set(HEADS[name].shared)
    heads = [quick(name), quick(name, **FAILING[name]), quick(name)]
    faults = fit_together(heads, X, y)
    assert [type(fault) for fault in faults] == [type(None), TrainingError, type(None)]
    assert "\n" not in str(faults[1])
    expected = quick(name).fit(X, y).predict_proba(X)
    for head in (heads[0], heads[2]):
        np.testing.assert_allclose(head.predict_proba(X), expected, rtol=0, atol=PROBABILITIES_AGREE)


# Stored


LOADED = """
import sys, json, numpy as np
from pathlib import Path
from heads import TrainedHead
for folder in map(Path, sys.argv[1:]):
    head = TrainedHead.load(folder / "head")
    probabilities = head.predict_proba(np.load(folder / "X.npy", mmap_mode="r"))
    heavy = {"tensorflow", "keras", "jax", "torch", "sklearn", "scipy", "h5py"} & set(sys.modules)
    print(json.dumps([folder.name, sorted(heavy), probabilities.tolist()]))
"""


def test_stored_and_loaded_in_a_fresh_interpreter_without_the_library(tap_cache, tmp_path, fresh_python):
    expected = {}
    for name in HEADS:
        cache, X = tap_cache(name)
        head = train(cache, name, params=QUICK.get(name))
        (tmp_path / name).mkdir()
        head.save(tmp_path / name / "head")
        np.save(tmp_path / name / "X.npy", X)
        expected[name] = head.predict_proba(X)
        loaded = TrainedHead.load(tmp_path / name / "head")
        np.testing.assert_array_equal(loaded.predict_proba(X), expected[name], err_msg=name)
    lines = fresh_python(LOADED, *(tmp_path / name for name in HEADS)).splitlines()
    assert len(lines) == len(HEADS)
    for name, heavy, probabilities in map(json.loads, lines):
        assert heavy == [], name
        np.testing.assert_allclose(probabilities, expected[name], rtol=0, atol=PROBABILITIES_AGREE, err_msg=name)


# Features larger than memory


def on_disk(X):
    """Return rows that are read when they are indexed."""
    return Rows(ArraySource(X), X.dtype, np.arange(len(X)))


@pytest.fixture
def reads(monkeypatch):
    """Return the numbers of rows that `Rows` have read at a time."""
    counts, read = [], Rows._read

    def counting(self, positions, out=None):
        counts.append(len(positions))
        return read(self, positions, out)

    monkeypatch.setattr(Rows, "_read", counting)
    return counts


@every_head
@pytest.mark.parametrize("standardize", [True, False])
def test_features_that_are_no_array_teach_the_same(name, standardize, rows, reads, monkeypatch):
    """A head by blocks reads few rows at a time, another one all at once."""
    monkeypatch.setattr("heads.rows._BLOCK_VALUES", 120)
    for solver in ("logistic_solver", "svm_solver"):
        monkeypatch.setattr(f"heads.families.{solver}._BLOCK_VALUES", 120)
    X, y = rows(name, 200, 6, 3)
    params = {"standardize": standardize} if "standardize" in {each.name for each in HEADS[name].parameters} else {}
    expected = quick(name, **params).fit(X, y, monitor=Monitor(X[:20], y[:20])).predict_proba(X)
    head = quick(name, **params).fit(on_disk(X), y, monitor=Monitor(on_disk(X[:20]), y[:20]))
    if HEADS[name].by_blocks and usual(name, "few rows at a time"):
        assert 0 < max(reads) <= 20
    elif not HEADS[name].by_blocks:
        assert max(reads) == 200
    reads.clear()
    np.testing.assert_array_equal(head.predict_proba(on_disk(X)), expected)
    assert 0 < max(reads) <= 20


@every_head
def test_several_heads_learn_together_from_features_that_are_no_array(name, rows):
    X, y = rows(name, 60, 6, 3)
    heads = [quick(name) for _ in range(2)]
    assert fit_together(heads, on_disk(X), y) == [None, None]
    np.testing.assert_array_equal(heads[1].predict_proba(X), heads[0].predict_proba(X))
