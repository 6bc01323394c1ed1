"""Heads of normal distributions, against scikit-learn's."""

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler

from heads.base import fit_together
from heads.catalog import make_head
from heads.errors import ArtifactError, TrainingError
from heads.families.discriminant import GaussianModel

FAMILY = ("centroid", "lda", "naive_bayes")

every_scaling = pytest.mark.parametrize("standardize", [True, False])
every_number_of_classes = pytest.mark.parametrize("k", [2, 3, 7])


@pytest.fixture
def rows(blobs):
    """Rows of classes of different sizes, features of different scales and far from 0, in float64."""

    def make(k, d=6):
        X, y = blobs(210, d, k, spread=2)
        kept = np.arange(210) // k % 10 >= y  # the higher the class, the fewer of its rows
        return X[kept].astype(np.float64) * np.geomspace(0.1, 10, d) + 5, y[kept]

    return make


def scaled(X, standardize):
    return StandardScaler().fit_transform(X) if standardize else X


def reweighted(probabilities, y):
    """Return probabilities as they would be if all classes were equally probable before."""
    without_priors = probabilities / np.bincount(y)
    return without_priors / without_priors.sum(axis=1, keepdims=True)


# The nearest mean


@every_scaling
@every_number_of_classes
def test_the_nearest_mean_is_linear_discriminant_analysis_with_equal_variances(k, standardize, rows):
    X, y = rows(k)
    Z = scaled(X, standardize)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1.0).fit(Z, y).predict_proba(Z)
    for class_weight, oracle in (("none", expected), ("balanced", reweighted(expected, y))):
        head = make_head("centroid", standardize=standardize, class_weight=class_weight).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), oracle, rtol=0, atol=1e-9)
        assert head.warnings_ == ()


@every_scaling
@every_number_of_classes
def test_with_equal_priors_the_nearest_mean_decides(k, standardize, rows):
    X, y = rows(k)
    Z = scaled(X, standardize)
    head = make_head("centroid", standardize=standardize, class_weight="balanced").fit(X, y)
    expected = NearestCentroid(priors="uniform").fit(Z, y).predict(Z)
    np.testing.assert_array_equal(head.predict_proba(X).argmax(axis=1), expected)


# Linear discriminant analysis


@every_scaling
@every_number_of_classes
@pytest.mark.parametrize("shrinkage", [0.0, 0.1, 1.0])
def test_a_given_shrinkage_gives_what_scikit_learn_gives(k, standardize, shrinkage, rows):
    X, y = rows(k)
    Z = scaled(X, standardize)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(Z, y).predict_proba(Z)
    for class_weight, oracle in (("none", expected), ("balanced", reweighted(expected, y))):
        head = make_head("lda", shrinkage=shrinkage, standardize=standardize, class_weight=class_weight).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), oracle, rtol=0, atol=1e-9)


@every_scaling
@pytest.mark.parametrize("d", [1, 6, 300])
def test_the_automatic_shrinkage_is_ledoit_and_wolfs_of_the_deviations_within_classes(d, standardize, rows):
    X, y = rows(3, d)
    Z = scaled(X, standardize)
    means = np.array([Z[y == each].mean(axis=0) for each in range(3)])
    covariance, _ = ledoit_wolf(Z - means[y], assume_centered=True)
    directions = np.linalg.solve(covariance, means.T)
    scores = Z @ directions - np.diag(means @ directions) / 2 + np.log(np.bincount(y) / len(y))
    expected = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    head = make_head("lda", standardize=standardize).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), expected, rtol=0, atol=1e-6)


def test_a_covariance_without_an_inverse_is_an_error_that_says_what_to_do(rows):
    X, y = rows(3, 300)
    with pytest.raises(
        TrainingError, match=r"300 features in 189 rows, with shrinkage 0, has no inverse; set a larger"
    ):
        make_head("lda", shrinkage=0.0).fit(X, y)


@pytest.mark.parametrize("column", ["constant", "copy", "constant in each class"])
def test_features_that_say_nothing_need_shrinkage(column, rows):
    X, y = rows(3)
    added = {"constant": np.full(len(X), 0.1), "copy": 3 * X[:, 0], "constant in each class": y * 0.1}[column]
    X = np.column_stack([X, added])
    with pytest.raises(TrainingError, match="has no inverse"):
        make_head("lda", shrinkage=0.0).fit(X, y)
    assert np.mean(make_head("lda", shrinkage=0.01).fit(X, y).predict_proba(X).argmax(axis=1) == y) > 0.8


def test_a_shrinkage_that_fails_does_not_stop_the_others(rows):
    X, y = rows(3, 300)
    heads = [make_head("lda", shrinkage=shrinkage) for shrinkage in ("auto", 0.0, 0.5)]
    faults = fit_together(heads, X, y)
    assert [type(fault) for fault in faults] == [type(None), TrainingError, type(None)]
    assert heads[2].predict_proba(X).shape == (len(X), 3)


def test_too_many_features_are_refused_before_any_row_is_measured():
    X = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (4, 2**15), (0, 0))
    with pytest.raises(
        TrainingError, match=r"the covariance of 32768 features takes 8\.0 GiB, expected at most 4; take"
    ):
        make_head("lda").fit(X, np.array([0, 1, 0, 1]))


# Naive Bayes


@every_scaling
@every_number_of_classes
@pytest.mark.parametrize("var_smoothing", [1e-9, 0.1, 10.0])
def test_naive_bayes_is_that_of_scikit_learn(k, standardize, var_smoothing, rows):
    X, y = rows(k)
    Z = scaled(X, standardize)
    expected = GaussianNB(var_smoothing=var_smoothing).fit(Z, y).predict_proba(Z)
    balanced = GaussianNB(var_smoothing=var_smoothing, priors=np.full(k, 1 / k)).fit(Z, y).predict_proba(Z)
    for class_weight, oracle in (("none", expected), ("balanced", balanced)):
        params = {"var_smoothing": var_smoothing, "standardize": standardize, "class_weight": class_weight}
        np.testing.assert_allclose(make_head("naive_bayes", **params).fit(X, y).predict_proba(X), oracle, atol=1e-9)


def test_variances_next_to_nothing_beside_large_means_lose_no_digits(rows):
    X, y = rows(3)
    X = X * 1e-4 + 1e3
    expected = GaussianNB(var_smoothing=1e-12).fit(X, y).predict_proba(X)
    head = make_head("naive_bayes", var_smoothing=1e-12, standardize=False).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=1e-6)


def test_many_features_do_not_underflow(rows):
    X, y = rows(3, 300)
    head = make_head("naive_bayes").fit(X, y)
    far = head.predict_proba(X * 1000)
    assert np.isfinite(far).all()
    np.testing.assert_allclose(far.sum(axis=1), 1)


# Rows that hardly vary


@pytest.mark.parametrize("name", FAMILY)
@every_scaling
def test_one_row_of_each_class_is_enough(name, standardize):
    X = np.array([[0.0, 0.1, 7.0], [1.0, 0.1, 7.5], [0.0, 0.1, 9.0]], np.float32)
    head = make_head(name, standardize=standardize).fit(X, np.array([0, 1, 2]))
    assert head.predict_proba(X).argmax(axis=1).tolist() == [0, 1, 2]
    assert any("no feature varies within any class" in each for each in map(str, head.warnings_)) == (
        name != "naive_bayes"
    )


@pytest.mark.parametrize("name", FAMILY)
@every_scaling
@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 1e-30])
def test_rows_that_are_all_alike_get_the_shares_of_the_classes(name, standardize, value):
    X, y = np.full((50, 3), value, np.float32), np.repeat([0, 1], [40, 10])
    for class_weight, shares in (("none", [0.8, 0.2]), ("balanced", [0.5, 0.5])):
        head = make_head(name, standardize=standardize, class_weight=class_weight).fit(X, y)
        np.testing.assert_allclose(head.predict_proba(X), np.tile(shares, (50, 1)), atol=1e-6)


# Stored


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"means": np.zeros((2, 3), np.float32)}, "means has dtype float32"),
        ({"means": np.array([[0, 0, np.nan], [0, 0, 0]])}, "means holds values that are not finite"),
        ({"variances": np.ones((3, 3))}, "variances has dtype float64 and shape"),
        ({"variances": np.zeros((2, 3))}, "variances holds values that are not above 0"),
        ({"log_priors": np.array([0, -np.inf])}, "log_priors holds values that are not finite"),
        ({"more": np.zeros(1)}, "expected log_priors, means, variances"),
    ],
)
def test_stored_arrays_that_are_not_as_they_must_be(change, said):
    whole = {"means": np.zeros((2, 3)), "variances": np.ones((2, 3)), "log_priors": np.log([0.5, 0.5])}
    assert GaussianModel.from_arrays(whole, classes=2, width=3, params={}).width == 3
    with pytest.raises(ArtifactError, match=said):
        GaussianModel.from_arrays(whole | change, classes=2, width=3, params={})
