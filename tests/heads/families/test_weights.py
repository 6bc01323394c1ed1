"""Weights of rows: against scikit-learn with ``sample_weight``, and against rows that are there several times."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils.class_weight import compute_class_weight

from heads.base import fit_together
from heads.catalog import HEADS, head_spec, make_head
from heads.errors import TrainingError
from heads.families.sgd_solver import Problems, descend
from heads.rows import Scaling, class_weights, mean_and_scale
from tests.heads.families.calibrated import scores_of, uneven

WEIGHTED = [name for name in HEADS if head_spec(name).weighted]
OTHERS = [name for name in HEADS if not head_spec(name).weighted]
PARAMS = {
    "softmax": {"epochs": 2},
    "mlp": {"epochs": 2},
    "sgd": {"max_iter": 5},
    "extra_trees": {"n_estimators": 5, "min_samples_leaf": 10},
    "hist_gradient_boosting": {"max_iter": 3},
}
balancing = pytest.mark.parametrize("class_weight", ["none", "balanced"])


def weighed(blobs, k, n=60):
    """Rows, labels, and weights from 0.2 to 4."""
    X, y = uneven(blobs, n * k, 6, k, spread=5)
    return X, y, np.random.default_rng(k).uniform(0.2, 4, len(y))


def scaled(X, weights):
    return StandardScaler().fit(X, sample_weight=weights).transform(X)


def of_rows(y, weights, class_weight):
    """The weights of rows times those of their classes, as scikit-learn balances weighted rows."""
    kind = None if class_weight == "none" else class_weight
    return compute_class_weight(kind, classes=np.unique(y), y=y, sample_weight=weights)[y] * weights


@balancing
@pytest.mark.parametrize("k", [2, 3])
def test_logistic_regression_is_that_of_scikit_learn(k, class_weight, blobs):
    X, y, weights = weighed(blobs, k)
    params = {"C": 0.3, "tol": 1e-9, "max_iter": 10_000}
    head = make_head("logreg", class_weight=class_weight, **params).fit(X, y, sample_weight=weights)
    kind = None if class_weight == "none" else class_weight
    expected = LogisticRegression(class_weight=kind, **params).fit(scaled(X, weights), y, sample_weight=weights)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(scaled(X, weights)), rtol=0, atol=1e-4)


@balancing
@pytest.mark.parametrize("k", [2, 3])
def test_machines_are_those_of_scikit_learn(k, class_weight, blobs):
    X, y, weights = weighed(blobs, k)
    head = make_head("svm", C=0.2, tol=1e-9, class_weight=class_weight).fit(X, y, sample_weight=weights)
    machine = LinearSVC(C=0.2, dual=False, tol=1e-9, intercept_scaling=1e4, max_iter=100_000)
    calibrated = CalibratedClassifierCV(machine, method="sigmoid", ensemble=False, cv=5)
    Z = scaled(X, weights)
    calibrated.fit(Z, y, sample_weight=of_rows(y, weights, class_weight))
    np.testing.assert_allclose(head.predict_proba(X), calibrated.predict_proba(Z), rtol=0, atol=1e-4)


@balancing
@pytest.mark.parametrize("n", [40, 4])
def test_ridge_scores_are_those_of_scikit_learn(n, class_weight, blobs):
    X, y, weights = weighed(blobs, 3, n)
    heads = [make_head("ridge", alpha=alpha, class_weight=class_weight) for alpha in (0.1, 30.0)]
    fit_together(heads, X, y, sample_weight=weights)
    Z = scaled(X, weights)
    for head in heads:
        ridge = RidgeClassifier(alpha=head.alpha, solver="svd")
        expected = ridge.fit(Z, y, sample_weight=of_rows(y, weights, class_weight)).decision_function(Z)
        for score, of_class in zip(scores_of(head, X).T, expected.T, strict=True):
            slope, offset = np.polyfit(of_class, score, 1)
            np.testing.assert_allclose(score, slope * of_class + offset, rtol=0, atol=1e-7 * np.abs(score).max())


@pytest.mark.parametrize("k", [2, 3])
def test_descent_is_that_of_scikit_learn(k, blobs):
    X, y, weights = weighed(blobs, k)
    params = {"alpha": 0.01, "max_iter": 200, "tol": 1e-2}
    head = make_head("sgd", seed=4, **params).fit(X, y, sample_weight=weights)
    Z = scaled(X, weights)
    expected = SGDClassifier(loss="log_loss", random_state=4, **params).fit(Z, y, sample_weight=weights)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(Z), rtol=0, atol=1e-6)


def test_trees_are_those_of_scikit_learn(blobs):
    X, y, weights = weighed(blobs, 3)
    X = X.astype(np.float32)
    head = make_head("extra_trees", seed=3, n_estimators=10).fit(X, y, sample_weight=weights)
    expected = ExtraTreesClassifier(10, random_state=3).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(X), rtol=0, atol=1e-6)
    head = make_head("hist_gradient_boosting", max_iter=5, max_leaf_nodes=4, l2=0.0).fit(X, y, sample_weight=weights)
    boosting = HistGradientBoostingClassifier(
        max_iter=5, max_leaf_nodes=4, min_samples_leaf=5, early_stopping=False, random_state=0
    )
    expected = boosting.fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(head.predict_proba(X), expected.predict_proba(X), rtol=0, atol=1e-6)


def test_estimators_take_the_weights_that_their_fit_takes(blobs):
    X, y, weights = weighed(blobs, 3)
    assert not head_spec("sklearn:discriminant_analysis.LinearDiscriminantAnalysis").weighted
    head = make_head("sklearn:linear_model.LogisticRegression", standardize=True, tol=1e-9, max_iter=10_000)
    head.fit(X, y, sample_weight=weights)
    Z = scaled(X, weights)
    expected = LogisticRegression(tol=1e-9, max_iter=10_000).fit(Z, y, sample_weight=weights).predict_proba(Z)
    np.testing.assert_allclose(head.predict_proba(X), expected, rtol=0, atol=1e-4)


def test_descent_over_chunks_takes_the_steps_of_scikit_learn(blobs):
    X, y, weights = weighed(blobs, 2)
    Z = scaled(X, weights)
    expected = SGDClassifier(loss="log_loss", alpha=0.01, max_iter=3, tol=None, shuffle=False)
    expected.fit(Z, y, sample_weight=weights)
    found = descend(
        lambda: [(np.arange(len(y)), Z)],
        y,
        Problems(np.array([1]), np.ones(1), np.ones(1)),
        width=6,
        alpha=0.01,
        l1_share=0.0,
        average=False,
        tol=1e-300,
        max_iter=3,
        weights=weights,
    )
    np.testing.assert_allclose(found.coef, expected.coef_, rtol=1e-6)
    np.testing.assert_allclose(found.intercept, expected.intercept_, rtol=1e-6)


@pytest.mark.parametrize("standardize", [True, False])
def test_naive_bayes_is_that_of_scikit_learn(standardize, blobs):
    X, y, weights = weighed(blobs, 3)
    head = make_head("naive_bayes", standardize=standardize, var_smoothing=1e-12).fit(X, y, sample_weight=weights)
    Z = scaled(X, weights) if standardize else X
    expected = GaussianNB(var_smoothing=1e-12).fit(Z, y, sample_weight=weights).predict_proba(Z)
    np.testing.assert_allclose(head.predict_proba(X), expected, rtol=0, atol=1e-8)


def test_mean_and_scale_are_scikit_learns_in_any_blocks(blobs, monkeypatch):
    X, _, weights = weighed(blobs, 3)
    expected = StandardScaler().fit(X, sample_weight=weights)
    for values in (2**21, 40):
        monkeypatch.setattr("heads.rows._BLOCK_VALUES", values)
        mean, scale = mean_and_scale(X, weights)
        np.testing.assert_allclose(mean, expected.mean_, rtol=1e-12)
        np.testing.assert_allclose(scale, expected.scale_, rtol=1e-12)


def test_classes_are_balanced_by_their_weights():
    y, weights = np.array([0, 0, 1, 2, 2]), np.array([1, 0.5, 3, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=y, sample_weight=weights)
    np.testing.assert_allclose(class_weights(y, 3, "balanced", weights), expected)


@balancing
@pytest.mark.parametrize("name", ["logreg", "centroid", "lda", "naive_bayes", "majority"])
def test_a_row_of_weight_2_is_two_rows_and_one_of_weight_0_is_none(name, class_weight, blobs):
    X, y = uneven(blobs, 200, 5, 3, spread=5)
    weights = np.random.default_rng(1).integers(0, 4, len(y))
    params = {"logreg": {"tol": 1e-9}, "lda": {"shrinkage": 0.2}}.get(name, {})
    params |= {} if name == "majority" else {"class_weight": class_weight}
    ours = make_head(name, **params).fit(X, y, sample_weight=weights.astype(np.float64))
    theirs = make_head(name, **params).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["softmax", "mlp"])
def test_with_one_batch_an_epoch_of_a_dense_head_is_that_of_repeated_rows(name, blobs):
    X, y = blobs(60, 5, 3)
    weights = np.tile([1, 3], 30)  # twice the rows: the mean of a batch is half as steep
    params = {"epochs": 3, "batch_size": 1000, "optimizer": "sgd", "momentum": 0.0}
    ours = make_head(name, lr=0.1, **params).fit(X, y, sample_weight=weights.astype(np.float64))
    theirs = make_head(name, lr=0.2, **params).fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_1_change_nothing_and_rows_of_weight_0_are_not_there(name, blobs):
    X, y = blobs(80, 6, 3)
    params = PARAMS.get(name, {})
    plain = make_head(name, **params).fit(X, y)
    ones = make_head(name, **params).fit(X, y, sample_weight=np.ones(80))
    np.testing.assert_allclose(ones.predict_proba(X), plain.predict_proba(X), rtol=0, atol=1e-6)
    assert ones.weights_ is None
    kept = np.arange(80) % 5 > 0
    left_out = make_head(name, **params).fit(X, y, sample_weight=kept.astype(np.float64))
    fewer = make_head(name, **params).fit(X[kept], y[kept], sample_weight=np.ones(64))
    np.testing.assert_array_equal(left_out.predict_proba(X), fewer.predict_proba(X))


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_matter_to_each_head_that_takes_them(name, blobs):
    X, y = blobs(80, 6, 2, spread=4)
    params = PARAMS.get(name, {})
    plain = make_head(name, **params).fit(X, y).predict_proba(X)
    weights = np.where(y == 0, 5.0, 1.0)
    (fault,) = fit_together([head := make_head(name, **params)], X, y, sample_weight=weights)
    assert fault is None
    assert head.weights_ is None
    assert head.predict_proba(X)[:, 0].mean() > plain[:, 0].mean() + 0.01


@pytest.mark.parametrize("name", OTHERS)
def test_other_heads_refuse_them(name, blobs):
    X, y = blobs(40, 6, 2)
    with pytest.raises(TrainingError, match=f"the head '{name}' takes no weights of rows"):
        make_head(name).fit(np.abs(X), y, sample_weight=np.ones(40))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"weights of shape \(3,\) for 4 rows"),
        (np.array([1, -1, 1, 1]), "row 1 has the weight -1.0, expected a finite number of at least 0"),
        (np.array([1, 1, np.nan, 1]), "row 2 has the weight nan"),
        (np.array([np.inf, 1, 1, 1]), "row 0 has the weight inf"),
        (np.zeros(4), "all 4 training rows have the weight 0"),
        (np.array([1, 1, 0, 0]), "all 2 rows are of class 0"),
    ],
)
def test_weights_that_cannot_train(weights, message):
    with pytest.raises(TrainingError, match=message):
        make_head("centroid").fit(np.eye(4), np.array([0, 0, 1, 1]), sample_weight=weights)


def test_scaling_without_standardisation_takes_no_weights():
    scaling = Scaling.from_rows(np.eye(3), standardize=False, weights=np.ones(3))
    assert scaling.scale.tolist() == [1, 1, 1]


def test_each_of_several_labels_is_learned_with_the_weights(blobs):
    X, y, weights = weighed(blobs, 3)
    labels = np.stack([y == 0, y > 0, np.ones(len(y))], axis=1).astype(np.int64)
    params = {"C": 0.3, "tol": 1e-9, "max_iter": 10_000}
    head = make_head("logreg", **params).fit(X, labels, sample_weight=weights)
    Z = scaled(X, weights)
    for number in (0, 1):
        expected = LogisticRegression(**params).fit(Z, labels[:, number], sample_weight=weights).predict_proba(Z)
        np.testing.assert_allclose(head.predict_proba(X)[:, number], expected[:, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [40, 4])
def test_numbers_are_learned_with_the_weights(n, blobs):
    X, _, weights = weighed(blobs, 3, n)
    numbers = X @ np.arange(6) + np.random.default_rng(0).normal(size=len(X))
    head = make_head("ridge", alpha=3.0).fit(X, numbers, sample_weight=weights)
    expected = Ridge(alpha=3.0).fit(scaled(X, weights), numbers, sample_weight=weights)
    np.testing.assert_allclose(head.predict_proba(X)[:, 0], expected.predict(scaled(X, weights)), rtol=1e-8)
    mean = make_head("majority").fit(X, numbers, sample_weight=weights).predict_proba(X)[0, 0]
    assert mean == pytest.approx(np.average(numbers, weights=weights))
