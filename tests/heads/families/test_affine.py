"""The affine models, against computations written otherwise."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from heads.errors import ArtifactError, TrainingError
from heads.families.affine import AffineModel, OneVsRestModel, softmax, two_rows
from heads.rows import Scaling

both_links = pytest.mark.parametrize("model_class", [AffineModel, OneVsRestModel])


def model_of(model_class, k, d):
    rng = np.random.default_rng(0)
    scaling = Scaling(rng.normal(size=d), rng.uniform(0.1, 3, size=d))
    return model_class.learned(rng.normal(size=(k, d)), rng.normal(size=k), scaling)


def scores_of(model, row):
    return [
        sum(w * (x - m) / s for w, x, m, s in zip(weights, row, model.mean, model.scale, strict=True)) + b
        for weights, b in zip(model.coef, model.intercept, strict=True)
    ]


def test_probabilities_are_softmax_of_standardised_features():
    model = model_of(AffineModel, 3, 5)
    X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    for row, probabilities in zip(X, model.predict_proba(X), strict=True):
        exponentials = [np.exp(score) for score in scores_of(model, row)]
        np.testing.assert_allclose(probabilities, np.array(exponentials) / sum(exponentials), rtol=1e-12)


def test_each_class_against_the_rest_has_a_sigmoid_of_its_own():
    model = model_of(OneVsRestModel, 3, 5)
    X = np.random.default_rng(1).normal(size=(7, 5)).astype(np.float32)
    for row, probabilities in zip(X, model.predict_proba(X), strict=True):
        sigmoids = [1 / (1 + np.exp(-score)) for score in scores_of(model, row)]
        np.testing.assert_allclose(probabilities, np.array(sigmoids) / sum(sigmoids), rtol=1e-12)


def test_one_against_the_rest_is_that_of_scikit_learn(blobs):
    X, y = blobs(90, 4, 3)
    several = OneVsRestClassifier(LogisticRegression()).fit(X, y)
    coef = np.concatenate([each.coef_ for each in several.estimators_])
    model = OneVsRestModel.learned(coef, np.concatenate([each.intercept_ for each in several.estimators_]))
    np.testing.assert_allclose(model.predict_proba(X), several.predict_proba(X), atol=1e-6)


@both_links
def test_huge_scores_do_not_overflow(model_class):
    model = model_class.learned(np.array([[1e6], [-1e6]]), np.zeros(2))
    np.testing.assert_array_equal(model.predict_proba(np.array([[1.0], [-1.0]])), [[1, 0], [0, 1]])


def test_classes_that_all_refuse_a_row_still_share_it():
    model = OneVsRestModel.learned(np.zeros((2, 1)), np.array([-2000.0, -2001.0]))
    np.testing.assert_allclose(model.predict_proba(np.zeros((1, 1)))[0], [1 / (1 + np.exp(-1)), 1 / (1 + np.e)])


def test_softmax_takes_any_size_of_scores():
    np.testing.assert_allclose(softmax(np.array([[1e300, 0.0], [-1e300, -1e300]])), [[1, 0], [0.5, 0.5]])


def test_one_row_of_weights_is_the_second_of_two_classes():
    model = AffineModel.learned(*two_rows(np.array([[2.0]]), np.array([1.0])))
    assert model.coef.tolist() == [[0.0], [2.0]]
    assert model.predict_proba(np.array([[3.0]]))[0, 1] == pytest.approx(1 / (1 + np.exp(-7)))


@both_links
def test_what_is_stored_gives_the_same_predictor(model_class):
    model = model_of(model_class, 3, 5)
    X = np.random.default_rng(1).normal(size=(7, 5))
    rebuilt = model_class.from_arrays(model.arrays, classes=3, width=5, params={})
    assert rebuilt.width == model.width == 5
    np.testing.assert_array_equal(rebuilt.scaling.mean, model.mean)
    np.testing.assert_array_equal(rebuilt.predict_proba(X), model.predict_proba(X))


@both_links
def test_weights_that_are_not_finite_are_a_training_that_diverged(model_class):
    with pytest.raises(TrainingError, match="the training diverged"):
        model_class.learned(np.array([[np.nan], [0.0]]), np.zeros(2))


@both_links
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"coef": np.zeros((3, 2))}, r"coef has dtype float64 and shape \(3, 2\), expected float64 and \(2, 2\)"),
        ({"coef": np.zeros((2, 2), np.float32)}, "coef has dtype float32"),
        ({"mean": np.zeros(3)}, "mean has dtype"),
        ({"scale": np.zeros(2)}, "scale holds values that are not above 0"),
        ({"scale": np.array([1.0, -1.0])}, "scale holds values that are not above 0"),
        ({"scale": np.array([1.0, np.nan])}, "scale holds values that are not finite"),
        ({"intercept": np.array([np.inf, 0])}, "intercept holds values that are not finite"),
        ({"coef": np.full((2, 2), 1e308), "scale": np.full(2, 0.1)}, "together give weights that are not finite"),
        ({"more": np.zeros(1)}, "expected coef, intercept, mean, scale"),
    ],
)
def test_stored_arrays_that_are_not_as_they_must_be(model_class, change, said):
    whole = {"coef": np.zeros((2, 2)), "intercept": np.zeros(2), "mean": np.zeros(2), "scale": np.ones(2)}
    with pytest.raises(ArtifactError, match=said):
        model_class.from_arrays(whole | change, classes=2, width=2, params={})
