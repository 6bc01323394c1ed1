"""Converts heads to scikit-learn objects that compute the same; their ``classes_`` are the names of the classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias
from warnings import catch_warnings, simplefilter

import numpy as np

from heads.calibration import Temperature
from heads.catalog import HEADS, model_class
from heads.errors import HeadError
from heads.families.affine import AffineModel, OneVsRestModel
from heads.families.discriminant import GaussianModel
from heads.families.layers import Layer, LayersModel
from heads.families.neighbors import NeighborsModel
from heads.rows import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from heads.artifact import TrainedHead
    from heads.fitted_model import FittedModel
    from heads.rows import Floats

Names: TypeAlias = "NDArray[np.str_]"

_ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic", "linear": "identity"}  # in scikit-learn's words


def estimator_of(head: TrainedHead) -> Any:  # noqa: ANN401 - a scikit-learn estimator
    """Return a head as a fitted scikit-learn classifier, or as a pipeline that standardises first.

    It takes features of the head's tap, shape (n, d). Its classes are those with training rows.

    Raises
    ------
    HeadError
        If scikit-learn has no such classifier.
    """
    require_estimator(head)
    model = head.model
    if head.calibration and isinstance(head.calibration.map, Temperature):
        model = _divided(model, head.calibration.map.temperature)
    names = np.array([head.classes[index] for index in head.trained_classes])
    return _BUILDERS[type(model)](model, names)


def require_estimator(head: TrainedHead) -> None:
    """Raise `HeadError` unless scikit-learn has a classifier that computes the same as a head."""
    model = head.model
    if type(model) not in _BUILDERS:
        names = [name for name in HEADS if model_class(name) in _BUILDERS]
        raise HeadError(
            f"the head {head.name} cannot be made a scikit-learn object; heads that can: {', '.join(names)}"
        )
    if head.calibration and not (isinstance(head.calibration.map, Temperature) and _can_be_divided(head)):
        raise HeadError(
            f"scikit-learn has no classifier that computes a {head.name} head of {len(head.trained_classes)} classes "
            f"which is calibrated by {head.calibration.method}; train it with --calibrate none to export it"
        )
    if isinstance(model, NeighborsModel) and (model.votes != model.votes[0]).any():
        raise HeadError(
            f"scikit-learn's KNeighborsClassifier has no class weights; train {head.name} with "
            "-p class_weight=none to export it"
        )
    if isinstance(model, OneVsRestModel) and len(model.coef) == 2 and not _are_opposite(model):  # noqa: PLR2004
        raise HeadError(
            f"the two decisions of this {head.name} head are not opposite, as they are in scikit-learn's "
            "SGDClassifier; export it to a .keras file"
        )


def _can_be_divided(head: TrainedHead) -> bool:
    """Whether dividing the scores of a head by a number is its temperature."""
    model = head.model
    return isinstance(model, AffineModel | LayersModel) or (isinstance(model, OneVsRestModel) and len(model.coef) == 2)  # noqa: PLR2004


def _divided(model: FittedModel, temperature: float) -> FittedModel:
    """Return a model with scores that are divided by a temperature."""
    if isinstance(model, LayersModel):
        last = model.layers[-1]
        layers = (*model.layers[:-1], Layer(last.kernel / temperature, last.bias / temperature))
        return replace(model, layers=layers)
    if isinstance(model, AffineModel):
        return AffineModel.learned(model.coef / temperature, model.intercept / temperature, model.scaling)
    if isinstance(model, OneVsRestModel):
        return OneVsRestModel.learned(model.coef / temperature, model.intercept / temperature, model.scaling)
    raise HeadError(f"a {type(model).__name__} has no scores to divide")


def _are_opposite(model: OneVsRestModel) -> bool:
    rows = np.column_stack([model.coef, model.intercept])
    return np.allclose(rows[0], -rows[1], rtol=1e-9, atol=0)


def _standardized(scaling: Scaling, classifier: Any) -> Any:  # noqa: ANN401 - scikit-learn has no types
    """Return a pipeline that standardises features like a head, then classifies them."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = scaling.mean, scaling.scale, np.square(scaling.scale)
    scaler.n_features_in_, scaler.n_samples_seen_ = len(scaling.mean), 1
    return make_pipeline(scaler, classifier)


def _one_row(coef: Floats, intercept: Floats) -> tuple[Floats, Floats]:
    """Merge the weights of two classes to one row, as in scikit-learn; return those of more classes unchanged.

    The softmax of two scores is the sigmoid of their difference.
    """
    if len(coef) == 2:  # noqa: PLR2004
        return coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    return coef, intercept


def _logistic(model: AffineModel, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression()
    classifier.coef_, classifier.intercept_ = _one_row(model.coef, model.intercept)
    classifier.classes_, classifier.n_features_in_ = names, model.width
    return _standardized(model.scaling, classifier)


def _one_vs_rest(model: OneVsRestModel, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.linear_model import SGDClassifier

    decisions = slice(1, None) if len(names) == 2 else slice(None)  # noqa: PLR2004 - of two, the second is enough
    classifier = SGDClassifier(loss="log_loss")
    classifier.coef_, classifier.intercept_ = model.coef[decisions], model.intercept[decisions]
    classifier.classes_, classifier.n_features_in_ = names, model.width
    return _standardized(model.scaling, classifier)


def _layers(model: LayersModel, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    last = model.layers[-1]
    coef, intercept = _one_row(last.kernel.T, last.bias)
    hidden = tuple(len(layer.bias) for layer in model.layers[:-1])
    classifier = MLPClassifier(hidden, activation=_ACTIVATIONS[model.activation], solver="lbfgs", max_iter=1)
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)
        classifier.fit(np.zeros((len(names), model.width)), names)  # sets all that scikit-learn keeps beside weights
    classifier.coefs_ = [*(layer.kernel for layer in model.layers[:-1]), coef.T]
    classifier.intercepts_ = [*(layer.bias for layer in model.layers[:-1]), intercept]
    classifier.set_params(max_iter=200)  # the default
    return _standardized(model.scaling, classifier)


def _gaussian(model: GaussianModel, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.naive_bayes import GaussianNB

    classifier = GaussianNB()
    classifier.theta_, classifier.var_ = model.means, model.variances
    classifier.class_prior_, classifier.epsilon_ = np.exp(model.log_priors), 0.0
    classifier.classes_, classifier.n_features_in_ = names, model.width
    return classifier


def _neighbors(model: NeighborsModel, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        min(model.n_neighbors, len(model.rows)),
        metric=model.metric,
        weights=model.weights,
        algorithm="brute",
    )
    classifier.fit(model.rows, names[model.targets])
    return _standardized(Scaling(model.mean, model.scale), classifier)


_BUILDERS: dict[type[Any], Callable[[Any, Names], Any]] = {
    AffineModel: _logistic,
    OneVsRestModel: _one_vs_rest,
    LayersModel: _layers,
    GaussianModel: _gaussian,
    NeighborsModel: _neighbors,
}
