"""Trees in plain arrays, against scikit-learn's own predictions, and arrays that no training gives."""

import time

import numpy as np
import pytest
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_selection import f_classif
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from heads.catalog import make_head
from heads.errors import ArtifactError, TrainingError
from heads.families import estimator_forms, trees
from heads.families.trees import BoostedTreesModel, ForestModel

ESTIMATORS = [
    DecisionTreeClassifier(),
    DecisionTreeClassifier(max_leaf_nodes=7, class_weight="balanced"),
    ExtraTreeClassifier(min_samples_leaf=4),
    RandomForestClassifier(15),
    RandomForestClassifier(15, criterion="entropy", class_weight="balanced", max_samples=0.5),
    ExtraTreesClassifier(15, max_depth=3, bootstrap=True),
    GradientBoostingClassifier(n_estimators=8),
    GradientBoostingClassifier(n_estimators=8, init="zero", subsample=0.7, max_features="sqrt"),
    HistGradientBoostingClassifier(max_iter=8),
    HistGradientBoostingClassifier(max_iter=30, early_stopping=True, max_leaf_nodes=5, l2_regularization=1.0),
]


def name_of(estimator):
    kind = type(estimator)
    return f"sklearn:{kind.__module__.split('.')[1]}.{kind.__name__}"


def given(estimator):
    """Return the parameters of an estimator that are not its defaults."""
    defaults = type(estimator)().get_params()
    return {name: value for name, value in estimator.get_params().items() if value != defaults[name]}


@pytest.fixture
def rows(blobs):
    def make(k, n=300, d=8):
        X, y = blobs(n, d, k, spread=3)
        X[:, 1] = X[:, 1].round()  # many equal values
        return X[: n // 2], y[: n // 2], X[n // 2 :]

    return make


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("k", [2, 5])
def test_probabilities_are_those_of_scikit_learn(estimator, k, rows):
    X, y, new = rows(k)
    oracle = type(estimator)(random_state=7, **given(estimator)).fit(X, y)
    head = make_head(name_of(estimator), seed=7, **given(estimator)).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(new), oracle.predict_proba(new), rtol=0, atol=1e-14)


def test_exponential_loss_of_two_classes(rows):
    X, y, new = rows(2)
    oracle = GradientBoostingClassifier(n_estimators=8, loss="exponential", random_state=0).fit(X, y)
    head = make_head(name_of(oracle), n_estimators=8, loss="exponential").fit(X, y)
    np.testing.assert_allclose(head.predict_proba(new), oracle.predict_proba(new), rtol=0, atol=1e-14)


@pytest.mark.parametrize("estimator", [RandomForestClassifier(10), HistGradientBoostingClassifier(max_iter=5)], ids=str)
def test_rows_at_a_threshold_go_where_scikit_learn_sends_them(estimator, rows):
    """Thresholds lie between float32 numbers: rows next to them, on both sides, must not change sides."""
    X, y, _ = rows(3)
    oracle = estimator.set_params(random_state=0).fit(X, y)
    head = make_head(
        name_of(estimator), **{name: value for name, value in given(estimator).items() if name != "random_state"}
    ).fit(X, y)
    model = head.model_
    at = np.repeat(X[:1], 3 * len(model.threshold), axis=0)
    for node, (feature, threshold) in enumerate(zip(model.feature, model.threshold, strict=True)):
        near = [np.nextafter(threshold, np.float32(-np.inf)), threshold, np.nextafter(threshold, np.float32(np.inf))]
        at[3 * node : 3 * node + 3, feature] = near
    np.testing.assert_allclose(head.predict_proba(at), oracle.predict_proba(at), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["extra_trees", "hist_gradient_boosting"])
def test_no_bit_of_a_row_depends_on_the_rows_beside_it(name, rows, monkeypatch):
    X, y, new = rows(3)
    head = make_head(name, **{"extra_trees": {"n_estimators": 40}}.get(name, {"max_iter": 40})).fit(X, y)
    together = head.predict_proba(new)
    np.testing.assert_array_equal(np.concatenate([head.predict_proba(new[[row]]) for row in range(len(new))]), together)
    monkeypatch.setattr(trees, "_BLOCK_VALUES", 100)
    np.testing.assert_array_equal(head.predict_proba(new), together)


def test_a_thousand_rows_and_three_hundred_trees_take_well_under_a_second_or_two(blobs):
    X, y = blobs(1000, 8, 3, spread=3)
    head = make_head("extra_trees", n_estimators=300).fit(X, y)
    began = time.process_time()
    head.predict_proba(X)
    assert time.process_time() - began < 2


# The heads of the catalogue


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_extra_trees_are_those_of_scikit_learn(k, weight, rows):
    X, y, new = rows(k)
    oracle = ExtraTreesClassifier(20, max_depth=6, min_samples_leaf=2, class_weight=weight, random_state=3).fit(X, y)
    params = {"n_estimators": 20, "max_depth": 6, "min_samples_leaf": 2, "class_weight": weight or "none"}
    head = make_head("extra_trees", seed=3, **params).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(new), oracle.predict_proba(new), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [2, 4])
def test_boosting_sees_the_features_with_the_largest_f_statistic(k, rows):
    X, y, new = rows(k)
    best = np.sort(np.argsort(-f_classif(X.astype(float), y)[0])[:3])
    oracle = HistGradientBoostingClassifier(
        max_iter=6,
        max_leaf_nodes=15,
        min_samples_leaf=5,
        l2_regularization=1.0,
        learning_rate=0.2,
        early_stopping=False,
        random_state=0,
    ).fit(X[:, best], y)
    head = make_head("hist_gradient_boosting", max_iter=6, learning_rate=0.2, features=3).fit(X, y)
    assert set(head.model_.feature) <= set(best)
    np.testing.assert_allclose(head.predict_proba(new), oracle.predict_proba(new[:, best]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("k", "expected"), [(2, 100), (3, 100 * 3), (40, 25 * 40)])
def test_boosting_grows_a_hundred_trees_a_class_but_not_more_than_a_thousand(k, expected, blobs):
    X, y = blobs(5 * k, 2, k)
    assert len(make_head("hist_gradient_boosting", max_leaf_nodes=2).fit(X, y).model_.roots) == expected


def test_constant_features_are_chosen_last(rows):
    X, y, _ = rows(3)
    X[:, 0] = 7
    head = make_head("hist_gradient_boosting", max_iter=2, features=7).fit(X, y)
    assert 0 not in head.model_.feature


# Stored arrays


def rebuilt(model, **changes):
    """Return a model made of stored arrays, some of them changed."""
    arrays = {name: array.copy() for name, array in model.arrays.items()}
    for name, change in changes.items():
        arrays[name] = change(arrays[name]) if callable(change) else change
    return type(model).from_arrays(arrays, classes=len(model.baseline), width=model.width, params={})


def put(place, value):
    """Return a function that changes one value of an array."""

    def change(array):
        array.flat[place] = value
        return array

    return change


@pytest.fixture(scope="module", params=["extra_trees", "hist_gradient_boosting"])
def model(request, blobs):
    params = {"extra_trees": {"n_estimators": 3, "min_samples_leaf": 5}}.get(request.param, {"max_iter": 2})
    X, y = blobs(90, 4, 3, spread=4)
    return make_head(request.param, **params).fit(X, y).model_


def test_arrays_as_they_are_stored_are_accepted(model, blobs):
    X, _ = blobs(90, 4, 3)
    np.testing.assert_array_equal(rebuilt(model).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"children": put(0, 0)}, "a child that does not come after its parent"),
        ({"children": put(-1, 0)}, "a child that does not come after its parent"),
        ({"children": put(0, 10**9)}, "numbers of no node and no leaf"),
        ({"children": put(0, -(2**31))}, "numbers of no node and no leaf"),
        ({"roots": put(0, 2)}, "do not lead to every node and leaf once"),
        ({"roots": lambda array: np.repeat(array, 2)}, "do not lead to every node and leaf once"),
        ({"roots": lambda array: array[:-1]}, "do not lead to every node and leaf once"),
        ({"roots": np.empty(0, np.int32)}, "there are no roots"),
        ({"feature": put(0, 4)}, "feature holds numbers that are not from 0 to 3"),
        ({"feature": put(0, -1)}, "feature holds numbers that are not from 0 to 3"),
        ({"threshold": put(0, np.nan)}, "threshold holds values that are not finite"),
        ({"threshold": lambda array: array[:-1]}, "are not of the same nodes"),
        ({"leaf_start": put(1, 0)}, "leaf_start does not rise"),
        ({"leaf_start": put(-1, 10**12)}, "leaf_start does not rise"),
        ({"leaf_start": np.empty(0, np.int64)}, "leaf_start has dtype int64 and shape"),
        ({"leaf_class": put(0, 3)}, "leaf_class holds numbers that are not from 0 to 2"),
        ({"leaf_class": put(0, -1)}, "leaf_class holds numbers that are not from 0 to 2"),
        ({"leaf_value": put(0, np.inf)}, "leaf_value holds values that are not finite"),
        ({"leaf_value": lambda array: array[:-1]}, "do not have the same length"),
        ({"baseline": put(0, np.nan)}, "baseline holds values that are not finite"),
    ],
)
def test_arrays_that_no_training_gives_are_refused(changes, said, model):
    with pytest.raises(ArtifactError, match=said):
        rebuilt(model, **changes)


def forest(*, children, roots, leaves):
    """Return the arrays of a forest of two classes on one feature, whose leaves are sure of class 0."""
    nodes = len(children)
    return {
        "feature": np.zeros(nodes, np.int32),
        "threshold": np.zeros(nodes, np.float32),
        "children": np.array(children, np.int32).reshape(nodes, 2),
        "roots": np.array(roots, np.int32),
        "leaf_start": np.arange(leaves + 1),
        "leaf_class": np.zeros(leaves, np.int32),
        "leaf_value": np.ones(leaves),
        "baseline": np.zeros(2),
    }


def test_a_leaf_gives_probabilities_in_the_order_of_classes():
    arrays = forest(children=[], roots=[-1], leaves=1)
    fair = arrays | {"leaf_start": np.array([0, 2]), "leaf_class": np.array([0, 1], np.int32)}
    good = ForestModel.from_arrays(fair | {"leaf_value": np.array([0.25, 0.75])}, classes=2, width=1, params={})
    assert good.predict_proba(np.zeros((1, 1))).tolist() == [[0.25, 0.75]]
    for values, said in (([-0.25, 1.25], "are no probabilities"), ([0.5, 0.6], "are no probabilities")):
        with pytest.raises(ArtifactError, match=said):
            ForestModel.from_arrays(fair | {"leaf_value": np.array(values)}, classes=2, width=1, params={})
    twice = {"leaf_class": np.array([1, 1], np.int32), "leaf_value": np.array([0.5, 0.5])}
    with pytest.raises(ArtifactError, match="leaf_class does not rise within a leaf"):
        ForestModel.from_arrays(fair | twice, classes=2, width=1, params={})
    with pytest.raises(ArtifactError, match="baseline holds values other than 0"):
        ForestModel.from_arrays(arrays | {"baseline": np.array([0.0, 1.0])}, classes=2, width=1, params={})


def test_nodes_with_two_parents_and_endless_trees_are_refused():
    doubled = [(node + 1, node + 1) for node in range(60)] + [(-1, -2)]  # 2^60 ways from the root to the leaves
    with pytest.raises(ArtifactError, match="do not lead to every node and leaf once"):
        ForestModel.from_arrays(forest(children=doubled, roots=[0], leaves=2), classes=2, width=1, params={})
    depth = 10**5
    deep = [(node + 1, -1 - node) for node in range(depth - 1)] + [(-depth, -depth - 1)]
    with pytest.raises(ArtifactError, match="more than 4096 nodes deep"):
        ForestModel.from_arrays(forest(children=deep, roots=[0], leaves=depth + 1), classes=2, width=1, params={})


def test_a_stored_form_that_differs_from_its_estimator_is_refused(rows, monkeypatch):
    X, y, _ = rows(3)
    monkeypatch.setattr(trees, "_rounded_down", lambda thresholds: thresholds.astype(np.float32) + 1)
    with pytest.raises(TrainingError, match="ExtraTreesClassifier gives other probabilities than scikit-learn"):
        make_head("extra_trees", n_estimators=5).fit(X, y)
    assert estimator_forms.TOLERANCE == 1e-6


def test_trees_too_deep_to_be_stored_are_refused_when_they_are_trained(rows, monkeypatch):
    X, y, _ = rows(3)
    monkeypatch.setattr(trees, "_DEEPEST", 2)
    with pytest.raises(TrainingError, match="cannot be stored: a tree is more than 2 nodes deep; train with a smaller"):
        make_head("extra_trees", n_estimators=5).fit(X, y)


def test_models_of_trees_are_not_exchanged(model):
    other = {ForestModel: BoostedTreesModel, BoostedTreesModel: ForestModel}[type(model)]
    if other is ForestModel:
        with pytest.raises(ArtifactError):
            other.from_arrays(model.arrays, classes=3, width=4, params={})
