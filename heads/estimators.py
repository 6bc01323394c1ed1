"""Heads as the scikit-learn objects that compute the same, with the names of the classes as their ``classes_``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from heads.affine import AffinePredictor, OneVsRestPredictor
from heads.catalog import HEADS, predictor_class
from heads.discriminant import GaussianPredictor
from heads.errors import HeadError
from heads.layers import LayersPredictor
from heads.neighbors import NeighborsPredictor
from heads.rows import Scaling

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from heads.artifact import TrainedHead
    from heads.rows import Floats

Names: TypeAlias = "NDArray[np.str_]"

_ACTIVATIONS = {"relu": "relu", "tanh": "tanh", "sigmoid": "logistic", "linear": "identity"}  # in scikit-learn's words


def estimator_of(head: TrainedHead) -> Any:  # noqa: ANN401 - a scikit-learn estimator
    """Return a head as a fitted scikit-learn classifier, or as a pipeline that standardises and then classifies.

    It takes features of the head's tap, shape (n, d); its classes are those that occurred in training.

    Raises
    ------
    HeadError
        If scikit-learn has no such classifier.
    """
    require_estimator(head)
    names = np.array([head.classes[index] for index in head.trained_classes])
    return _BUILDERS[type(head.predictor)](head.predictor, names)


def require_estimator(head: TrainedHead) -> None:
    """Raise `HeadError` unless scikit-learn has a classifier that computes what a head does."""
    predictor = head.predictor
    if type(predictor) not in _BUILDERS:
        names = [name for name in HEADS if predictor_class(name) in _BUILDERS]
        raise HeadError(
            f"scikit-learn has no classifier that computes what the head {head.name} does; "
            f"heads that can be exported to it: {', '.join(names)}"
        )
    if isinstance(predictor, NeighborsPredictor) and (predictor.votes != predictor.votes[0]).any():
        raise HeadError(
            f"scikit-learn's KNeighborsClassifier knows no class weights; train {head.name} with "
            "-p class_weight=none to export it"
        )
    if isinstance(predictor, OneVsRestPredictor) and len(predictor.coef) == 2 and not _are_opposite(predictor):  # noqa: PLR2004
        raise HeadError(
            f"the two decisions of this {head.name} head are not each other's opposite, as they are in scikit-learn's "
            "SGDClassifier; export it to a .keras file"
        )


def _are_opposite(predictor: OneVsRestPredictor) -> bool:
    rows = np.column_stack([predictor.coef, predictor.intercept])
    return np.allclose(rows[0], -rows[1], rtol=1e-9, atol=0)


def _standardized(scaling: Scaling, classifier: Any) -> Any:  # noqa: ANN401 - scikit-learn has no types
    """Return a pipeline that standardises features as a head does and then classifies them."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = scaling.mean, scaling.scale, np.square(scaling.scale)
    scaler.n_features_in_, scaler.n_samples_seen_ = len(scaling.mean), 1
    return make_pipeline(scaler, classifier)


def _one_row(coef: Floats, intercept: Floats) -> tuple[Floats, Floats]:
    """Return weights of two classes as scikit-learn has them, one row for both; those of more as they are.

    The softmax of two scores is the sigmoid of their difference.
    """
    if len(coef) == 2:  # noqa: PLR2004
        return coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    return coef, intercept


def _logistic(predictor: AffinePredictor, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression()
    classifier.coef_, classifier.intercept_ = _one_row(predictor.coef, predictor.intercept)
    classifier.classes_, classifier.n_features_in_ = names, predictor.width
    return _standardized(predictor.scaling, classifier)


def _one_vs_rest(predictor: OneVsRestPredictor, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.linear_model import SGDClassifier

    decisions = slice(1, None) if len(names) == 2 else slice(None)  # noqa: PLR2004 - of two, the second is enough
    classifier = SGDClassifier(loss="log_loss")
    classifier.coef_, classifier.intercept_ = predictor.coef[decisions], predictor.intercept[decisions]
    classifier.classes_, classifier.n_features_in_ = names, predictor.width
    return _standardized(predictor.scaling, classifier)


def _layers(predictor: LayersPredictor, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import LabelBinarizer

    last = predictor.layers[-1]
    coef, intercept = _one_row(last.kernel.T, last.bias)
    classifier = MLPClassifier(
        tuple(len(layer.bias) for layer in predictor.layers[:-1]), activation=_ACTIVATIONS[predictor.activation]
    )
    classifier.coefs_ = [*(layer.kernel for layer in predictor.layers[:-1]), coef.T]
    classifier.intercepts_ = [*(layer.bias for layer in predictor.layers[:-1]), intercept]
    classifier.n_layers_, classifier.n_outputs_ = len(predictor.layers) + 1, len(intercept)
    classifier.out_activation_ = "softmax" if len(intercept) > 1 else "logistic"
    classifier.classes_, classifier.n_features_in_ = names, predictor.width
    classifier._label_binarizer = LabelBinarizer().fit(names)
    return _standardized(predictor.scaling, classifier)


def _gaussian(predictor: GaussianPredictor, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.naive_bayes import GaussianNB

    classifier = GaussianNB()
    classifier.theta_, classifier.var_ = predictor.means, predictor.variances
    classifier.class_prior_, classifier.epsilon_ = np.exp(predictor.log_priors), 0.0
    classifier.classes_, classifier.n_features_in_ = names, predictor.width
    return classifier


def _neighbors(predictor: NeighborsPredictor, names: Names) -> Any:  # noqa: ANN401 - scikit-learn has no types
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(
        min(predictor.n_neighbors, len(predictor.rows)),
        metric=predictor.metric,
        weights=predictor.weights,
        algorithm="brute",
    )
    classifier.fit(predictor.rows, names[predictor.targets])
    return _standardized(Scaling(predictor.mean, predictor.scale), classifier)


_BUILDERS: dict[type[Any], Callable[[Any, Names], Any]] = {
    AffinePredictor: _logistic,
    OneVsRestPredictor: _one_vs_rest,
    LayersPredictor: _layers,
    GaussianPredictor: _gaussian,
    NeighborsPredictor: _neighbors,
}
