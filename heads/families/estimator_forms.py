"""Fitted scikit-learn classifiers and regressors as plain arrays: which ones have such a form, and how it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.errors import TrainingError
from heads.families.affine import AffineModel, AffineNumberModel, OneVsRestModel, two_rows
from heads.families.trees import BoostedTreesModel, ForestModel, NumberTreesModel, Tree
from heads.fitted_model import FittedModel
from heads.rows import Features, Scaling

TOLERANCE = 1e-6
"""Largest difference between the probabilities of a stored form and of its estimator; both compute in float64."""
_COMPARED_ROWS = 500

Estimator: TypeAlias = Any  # scikit-learn has no types


@dataclass(frozen=True, slots=True)
class Form:
    """How a scikit-learn classifier, or regressor, is stored.

    Parameters
    ----------
    model
        The class of the plain arrays.
    convert
        Makes them of a fitted estimator and of the standardisation of its features.
    trees
        Whether it is made of trees, which take float32 and need no standardisation.
    withheld
        Parameters that the stored form does not allow, with the reason.
    numbers
        Whether it is a regressor.
    """

    model: type[FittedModel]
    convert: Callable[[Estimator, Scaling], FittedModel]
    trees: bool = False
    withheld: Mapping[str, str] = field(default_factory=dict)
    numbers: bool = False


def forest(estimator: Estimator, scaling: Scaling) -> ForestModel:
    """Return the trees of a fitted forest, or a single fitted tree."""
    trees = (each.tree_ for each in getattr(estimator, "estimators_", [estimator]))
    return ForestModel.joined(
        [_tree(tree, tree.value[:, 0]) for tree in trees],
        classes=len(estimator.classes_),
        width=len(scaling.mean),
    )


def gradient_boosted(estimator: Estimator, scaling: Scaling) -> BoostedTreesModel:
    """Return the trees of a fitted ``GradientBoostingClassifier``."""
    factor = _factor(estimator) * estimator.learning_rate
    trees = [
        _tree(each.tree_, factor * each.tree_.value[:, 0, 0], target)
        for iteration in estimator.estimators_
        for target, each in _by_class(iteration)
    ]
    return _boosted(estimator, trees, len(scaling.mean))


def histogram_boosted(
    estimator: Estimator, scaling: Scaling, features: NDArray[np.intp] | None = None
) -> BoostedTreesModel:
    """Return the trees of a fitted ``HistGradientBoostingClassifier``; ``features`` are those that it was given."""
    trees = [
        _of_nodes(nodes, target)
        for iteration in estimator._predictors
        for target, nodes in _by_class([each.nodes for each in iteration])
    ]
    return _boosted(estimator, trees, len(scaling.mean), features)


def _tree(tree: Any, values: NDArray[Any], target: int = 0) -> Tree:  # noqa: ANN401 - scikit-learn has no types
    return Tree(tree.feature, tree.threshold, tree.children_left, tree.children_right, values, target)


def _of_nodes(nodes: Any, target: int = 0) -> Tree:  # noqa: ANN401 - scikit-learn has no types
    feature, left, right = (nodes[name].astype(np.intp) for name in ("feature_idx", "left", "right"))
    return Tree(feature, nodes["num_threshold"], left, right, nodes["value"], target)


def _by_class(iteration: Any) -> list[tuple[int, Any]]:  # noqa: ANN401 - scikit-learn has no types
    """Return the trees of an iteration with their classes; a single tree decides between two classes."""
    return list(enumerate(iteration, start=int(len(iteration) == 1)))


def _factor(estimator: Estimator) -> float:
    """Return what multiplies scores before the logistic function: 2 for exponential loss (Friedman 2001)."""
    return 2.0 if estimator.loss == "exponential" else 1.0


def _boosted(
    estimator: Estimator, trees: list[Tree], width: int, features: NDArray[np.intp] | None = None
) -> BoostedTreesModel:
    """Return the model whose baseline is what the estimator adds to its trees, taken from the scores of one row."""
    row = np.zeros((1, width))
    asked = row if features is None else row[:, features]
    scores = _factor(estimator) * estimator.decision_function(asked)
    model = BoostedTreesModel.joined(trees, classes=len(estimator.classes_), width=width, features=features)
    scores = np.concatenate([[0.0], scores]) if scores.ndim == 1 else scores[0]
    return replace(model, baseline=scores - model.sums(row)[0])


def forest_of_numbers(estimator: Estimator, scaling: Scaling) -> NumberTreesModel:
    """Return the trees of a fitted forest of numbers, or a single fitted tree; each gives its share of the mean."""
    trees = [each.tree_ for each in getattr(estimator, "estimators_", [estimator])]
    shares = [_tree(tree, tree.value[:, 0, 0] / len(trees)) for tree in trees]
    return NumberTreesModel.joined(shares, classes=1, width=len(scaling.mean))


def boosted_numbers(estimator: Estimator, scaling: Scaling) -> NumberTreesModel:
    """Return the trees of a fitted ``GradientBoostingRegressor``."""
    trees = [each.tree_ for (each,) in estimator.estimators_]
    given = [_tree(tree, estimator.learning_rate * tree.value[:, 0, 0]) for tree in trees]
    return _above_baseline(estimator, given, len(scaling.mean))


def histogram_boosted_numbers(estimator: Estimator, scaling: Scaling) -> NumberTreesModel:
    """Return the trees of a fitted ``HistGradientBoostingRegressor``."""
    trees = [_of_nodes(each.nodes) for (each,) in estimator._predictors]
    return _above_baseline(estimator, trees, len(scaling.mean))


def _above_baseline(estimator: Estimator, trees: list[Tree], width: int) -> NumberTreesModel:
    """Return the model whose baseline is what the estimator adds to its trees, taken from the number of one row."""
    row = np.zeros((1, width))
    model = NumberTreesModel.joined(trees, classes=1, width=width)
    return replace(model, baseline=estimator.predict(row) - model.sums(row)[0])


def linear_number(estimator: Estimator, scaling: Scaling) -> AffineNumberModel:
    """Return the weights of a linear regressor."""
    return AffineNumberModel.learned(estimator.coef_[np.newaxis], np.array([estimator.intercept_]), scaling)


def linear(estimator: Estimator, scaling: Scaling) -> AffineModel:
    """Return the weights of a classifier whose probabilities are a softmax of affine scores."""
    coef, intercept = estimator.coef_, estimator.intercept_
    if len(coef) == 1:
        coef, intercept = two_rows(coef, intercept)
    return AffineModel.learned(coef, intercept, scaling)


def one_vs_rest(estimator: Estimator, scaling: Scaling) -> OneVsRestModel:
    """Return the weights of a classifier with a logistic function for each class against the rest."""
    coef, intercept = estimator.coef_, estimator.intercept_
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
    return OneVsRestModel.learned(coef, intercept, scaling)


def multinomial(estimator: Estimator, scaling: Scaling) -> AffineModel:
    """Return the weights of a fitted ``MultinomialNB``."""
    return AffineModel.learned(estimator.feature_log_prob_, estimator.class_log_prior_, scaling)


def require_same(
    estimator: Estimator, model: FittedModel, X: Features, features: NDArray[np.intp] | None = None
) -> None:
    """Raise `TrainingError` if a stored form gives rows (n, d) other probabilities, or numbers, than its estimator.

    Parameters
    ----------
    estimator
        It takes the standardised rows of a model with a ``scaling``.
    features
        The features that the estimator was given; all if None.
    """
    rows = X[np.unique(np.linspace(0, len(X) - 1, _COMPARED_ROWS).astype(np.intp))].astype(np.float64)
    scaling = getattr(model, "scaling", None)
    given = rows if scaling is None else (rows - scaling.mean) / scaling.scale
    given = given if features is None else given[:, features]
    what, largest = "probabilities", 1.0
    if hasattr(estimator, "predict_proba"):
        expected = estimator.predict_proba(given)
    else:
        expected = estimator.predict(given)[:, np.newaxis]
        what, largest = "numbers", max(1.0, float(np.abs(expected).max()))
    difference = np.abs(model.predict_proba(rows) - expected).max()
    if not difference <= TOLERANCE * largest:
        raise TrainingError(
            f"the stored form of {type(estimator).__name__} gives other {what} than scikit-learn (by up to "
            f"{difference:.2g}, expected at most {TOLERANCE * largest:g}), so it is not stored; choose other parameters"
        )


_NUMBERS = {"categorical_features": "features are numbers, not categories"}

FORMS: Mapping[str, Form] = {
    "tree.DecisionTreeClassifier": Form(ForestModel, forest, trees=True),
    "tree.ExtraTreeClassifier": Form(ForestModel, forest, trees=True),
    "ensemble.RandomForestClassifier": Form(ForestModel, forest, trees=True),
    "ensemble.ExtraTreesClassifier": Form(ForestModel, forest, trees=True),
    "ensemble.GradientBoostingClassifier": Form(BoostedTreesModel, gradient_boosted, trees=True),
    "ensemble.HistGradientBoostingClassifier": Form(
        BoostedTreesModel, histogram_boosted, trees=True, withheld=_NUMBERS
    ),
    "linear_model.LogisticRegression": Form(AffineModel, linear),
    "linear_model.SGDClassifier": Form(OneVsRestModel, one_vs_rest),
    "discriminant_analysis.LinearDiscriminantAnalysis": Form(AffineModel, linear),
    "naive_bayes.MultinomialNB": Form(AffineModel, multinomial),
    "tree.DecisionTreeRegressor": Form(NumberTreesModel, forest_of_numbers, trees=True, numbers=True),
    "tree.ExtraTreeRegressor": Form(NumberTreesModel, forest_of_numbers, trees=True, numbers=True),
    "ensemble.RandomForestRegressor": Form(NumberTreesModel, forest_of_numbers, trees=True, numbers=True),
    "ensemble.ExtraTreesRegressor": Form(NumberTreesModel, forest_of_numbers, trees=True, numbers=True),
    "ensemble.GradientBoostingRegressor": Form(NumberTreesModel, boosted_numbers, trees=True, numbers=True),
    "ensemble.HistGradientBoostingRegressor": Form(
        NumberTreesModel, histogram_boosted_numbers, trees=True, withheld=_NUMBERS, numbers=True
    ),
    "linear_model.LinearRegression": Form(AffineNumberModel, linear_number, numbers=True),
    "linear_model.Ridge": Form(AffineNumberModel, linear_number, numbers=True),
    "linear_model.Lasso": Form(AffineNumberModel, linear_number, numbers=True),
    "linear_model.ElasticNet": Form(AffineNumberModel, linear_number, numbers=True),
}
"""The classifiers and regressors that can be stored, by their names in scikit-learn."""
