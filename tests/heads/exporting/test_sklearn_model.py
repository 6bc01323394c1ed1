"""Heads as scikit-learn objects: scikit-learn says of features what the head says."""

from dataclasses import replace

import numpy as np
import pytest

from heads import HEADS, train
from heads.errors import HeadError
from heads.exporting.sklearn_model import estimator_of, require_estimator
from heads.families.affine import AffineModel, OneVsRestModel

NAMES = ("ant", "bee", "cow", "dog")
VARIANTS = [
    ("softmax", {"epochs": 2}, "LogisticRegression"),
    ("softmax", {"epochs": 2, "standardize": False}, "LogisticRegression"),
    ("mlp", {"epochs": 3, "hidden": "6"}, "MLPClassifier"),
    ("mlp", {"epochs": 3, "hidden": "7,3", "activation": "tanh"}, "MLPClassifier"),
    ("mlp", {"epochs": 3, "hidden": "6,5,4", "activation": "sigmoid"}, "MLPClassifier"),
    ("mlp", {"epochs": 3, "hidden": "6", "activation": "linear"}, "MLPClassifier"),
    ("logreg", {}, "LogisticRegression"),
    ("svm", {}, "SGDClassifier"),
    ("ridge", {}, "SGDClassifier"),
    ("sgd", {}, "SGDClassifier"),
    ("knn", {"n_neighbors": 3}, "KNeighborsClassifier"),
    ("knn", {"n_neighbors": 5, "metric": "euclidean", "weights": "distance"}, "KNeighborsClassifier"),
    ("knn", {"n_neighbors": 500, "standardize": True}, "KNeighborsClassifier"),
    ("centroid", {}, "LogisticRegression"),
    ("lda", {}, "LogisticRegression"),
    ("naive_bayes", {}, "GaussianNB"),
    ("naive_bayes", {"class_weight": "balanced"}, "GaussianNB"),
    ("majority", {}, "LogisticRegression"),
]


MISSING = {"imagenet_map", "extra_trees", "hist_gradient_boosting"}


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def rows(request, blobs):
    """Training rows and others, of classes that are not all there are: 0 and 2 of three, or 0, 2 and 3 of four."""
    k = request.param
    X, y = blobs(120, 6, k, spread=3.0)
    return X[:80], np.array([0, 2, 3])[y[:80]], X[80:], NAMES[: k + 1]


@pytest.fixture(scope="module")
def trained(rows, make_cache, make_features):
    X, y, _, names = rows
    cache = make_cache(make_features(X, y, classes=names))
    return lambda name, params: train(cache, name, params=params, holdout=0)


@pytest.mark.parametrize(("name", "params", "kind"), VARIANTS, ids=str)
def test_scikit_learn_says_what_the_head_says(rows, trained, name, params, kind):
    *_, X, names = rows
    head = trained(name, params)
    estimator = estimator_of(head)
    assert type(estimator[-1] if hasattr(estimator, "steps") else estimator).__name__ == kind
    known = [names[index] for index in head.trained_classes]
    assert list(estimator.classes_) == known == [names[0], *names[2:]]
    for queries in (X, X.astype(np.float64)):
        expected = head.predict_proba(queries)[:, list(head.trained_classes)]
        np.testing.assert_allclose(estimator.predict_proba(queries), expected, rtol=0, atol=1e-6)
        assert list(estimator.predict(queries)) == [known[best] for best in expected.argmax(axis=1)]


def test_every_head_is_tried_or_has_no_estimator(trained, rows):
    missing = set(HEADS) - {name for name, *_ in VARIANTS}
    assert missing == MISSING


def test_a_head_that_scikit_learn_has_nothing_for_is_refused_with_those_that_it_has(rows, make_cache, make_features):
    X, y, _, names = rows
    cache = make_cache(make_features(np.abs(X), y, classes=names, tap="predictions"))
    head = train(cache, "imagenet_map", holdout=0)
    others = ", ".join(name for name in HEADS if name not in MISSING)
    with pytest.raises(HeadError, match=rf"the head imagenet_map cannot be made a .*; heads that can: {others}$"):
        require_estimator(head)


def test_trees_are_not_exported(trained):
    for name in ("extra_trees", "sklearn:tree.DecisionTreeClassifier"):
        with pytest.raises(HeadError, match=f"the head {name} cannot be made a scikit-learn object"):
            require_estimator(trained(name, {"max_depth": 2}))


def test_a_linear_classifier_of_scikit_learn_is_exported(trained, rows):
    head = trained("sklearn:linear_model.LogisticRegression", {"C": 0.5})
    _, _, new, _ = rows
    expected = head.predict_proba(new)[:, list(head.trained_classes)]
    np.testing.assert_allclose(estimator_of(head).predict_proba(new), expected, rtol=0, atol=1e-6)


def test_neighbours_with_class_weights_are_refused(trained):
    head = trained("knn", {"class_weight": "balanced"})
    weighted = replace(head.model, votes=np.arange(1.0, len(head.trained_classes) + 1))
    with pytest.raises(HeadError, match=r"KNeighborsClassifier has no class weights.*-p class_weight=none"):
        estimator_of(replace(head, model=weighted))


def test_two_decisions_that_are_no_opposites_are_refused(trained):
    head = trained("logreg", {})
    two_of = {name: array[:2] for name, array in head.model.arrays.items() if name in {"coef", "intercept"}}
    arrays = head.model.arrays | two_of
    crooked = replace(head, model=OneVsRestModel(**arrays), trained_classes=(0, 2))
    with pytest.raises(HeadError, match=r"are not opposite.*export it to a \.keras file"):
        require_estimator(crooked)
    require_estimator(replace(crooked, model=AffineModel(**arrays)))
