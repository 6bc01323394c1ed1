"""Heads that model every class by a normal distribution: nearest mean, linear discriminant analysis, naive Bayes.

All have closed-form solutions: they are deterministic and have no epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.base import Head, IndependentHead, Learned
from heads.epochs import Monitor
from heads.errors import ArtifactError, TrainingError
from heads.families.affine import AffineModel, softmax
from heads.families.class_statistics import Classes, Scatter
from heads.families.shared_parameters import CLASS_WEIGHT, STANDARDIZE
from heads.fitted_model import FittedModel, checked_arrays, not_finite
from heads.parameters import HeadSpec, Parameter
from heads.rows import Features, Floats, Targets, by_blocks


@final
@dataclass(frozen=True, slots=True, eq=False)
class GaussianModel:
    """Probabilities by Bayes' rule from independent normal distributions of the features of each class.

    Means and variances are those of features that are not standardised.

    Parameters
    ----------
    means, variances
        Of the features of each class, shape (k, d), float64; variances are above 0.
    log_priors
        Logarithm of the prior probability of each class, shape (k,), float64.
    """

    means: Floats
    variances: Floats
    log_priors: Floats
    _constants: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        faults = not_finite(self.arrays)
        if not (self.variances > 0).all():
            faults.append("variances holds values that are not above 0")
        if faults:
            raise ValueError("; ".join(faults))
        object.__setattr__(self, "_constants", self.log_priors - np.log(self.variances).sum(axis=1) / 2)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], *, classes: int, width: int, params: Mapping[str, Any]
    ) -> Self:
        """Rebuild it from its stored arrays; see `heads.fitted_model.FittedModel`."""
        del params  # they do not change what is computed
        shapes = {"means": (classes, width), "variances": (classes, width), "log_priors": (classes,)}
        try:
            return cls(**checked_arrays(arrays, shapes))
        except ValueError as e:
            raise ArtifactError(str(e)) from e

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything that is stored of it."""
        return {"means": self.means, "variances": self.variances, "log_priors": self.log_priors}

    @property
    def width(self) -> int:
        """The number of features that it takes, d."""
        return len(self.means[0])

    def predict_proba(self, X: Features) -> Floats:
        """Return probabilities, shape (n, k), rows summing to 1, for features of shape (n, d); see `by_blocks`."""
        return by_blocks(X, self.width, len(self.means), self._probabilities)

    def _probabilities(self, block: Floats) -> Floats:
        scores = np.empty((len(block), len(self.means)))
        # squared differences, class by class: the expanded square would lose precision where variances are small
        for column, (mean, variance) in enumerate(zip(self.means, self.variances, strict=True)):
            scores[:, column] = np.square(block - mean) @ (-0.5 / variance)
        return softmax(scores + self._constants)


@final
@dataclass(slots=True, kw_only=True, eq=False)
class CentroidHead(IndependentHead):
    """The nearest class mean.

    Scores are ``-||x - mean_c||^2 / (2 s^2) + log prior_c``; probabilities are their softmax. The variance ``s^2`` is
    that of all n rows around the means of their classes (divided by n), averaged over the features. This is linear
    discriminant analysis with shrinkage 1. Priors are the shares of the classes in the rows, or equal if ``balanced``.

    If no feature varies within any class, as with one row per class, ``s^2`` is the variance of the class means, or 1
    if all rows are equal.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="centroid",
        summary="The nearest class mean, with one variance for all features and classes.",
        parameters=(CLASS_WEIGHT, STANDARDIZE),
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: n * d,
    )
    model_class: ClassVar[type[FittedModel]] = AffineModel

    class_weight: str
    standardize: bool

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor  # there are no epochs
        k, weights = len(self.classes_), self.weights_
        classes = Classes.from_rows(X, targets, k, standardize=self.standardize, weights=weights)
        spread, notes = classes.spread(classes.counts @ classes.variances / classes.counts.sum())
        return _affine(classes.means / spread, classes, self.class_weight), notes


@final
@dataclass(slots=True, kw_only=True, eq=False)
class LDAHead(Head):
    """Linear discriminant analysis: normal distributions with a common covariance.

    Scores are ``x S^-1 mean_c - mean_c S^-1 mean_c / 2 + log prior_c`` (Hastie, Tibshirani, Friedman 2009, eq. 4.10).
    The covariance of the n rows around the means of their classes, ``C`` (divided by n), is shrunk to
    ``S = (1 - shrinkage) C + shrinkage trace(C) / d I``. With ``auto``, the shrinkage is that of Ledoit and Wolf (2004,
    "A well-conditioned estimator for large-dimensional covariance matrices") for these deviations; scikit-learn, in
    contrast, standardises and shrinks the covariance of every class separately. Priors are the shares of the classes in
    the rows, or equal if ``balanced``; ``C`` does not depend on them.

    If no feature varies within any class, ``S`` is the multiple of ``I`` that `CentroidHead` uses. Two float64 matrices
    of shape (d, d) are in memory at a time.

    Raises
    ------
    TrainingError
        If ``S`` is singular, as with fewer rows than features and shrinkage 0, or needs more than 4 GiB.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="lda",
        summary="Linear discriminant analysis: normal distributions with one shrunk covariance.",
        parameters=(
            Parameter(
                "shrinkage",
                "float",
                "auto",
                "Shrinks the covariance towards equal variances; auto: Ledoit and Wolf's formula.",
                low=0,
                high=1,
                choices=("auto",),
            ),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        libraries=("scipy",),
        shared=("shrinkage",),
        grid={"shrinkage": ("auto", 0.001, 0.01, 0.1, 0.3, 0.5, 0.9)},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: n * d**2,
    )
    model_class: ClassVar[type[FittedModel]] = AffineModel

    shrinkage: float | str
    class_weight: str
    standardize: bool

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        scatter = Scatter.from_rows(X, targets, k, standardize=first.standardize, weights=first.weights_)
        results: list[Learned | TrainingError] = []
        for head in heads:
            try:
                results.append(head._solved(scatter))
            except TrainingError as e:
                results.append(e)
        return results

    def _solved(self, scatter: Scatter) -> Learned:
        """Return the model with the shrinkage of this head."""
        shrinkage = scatter.shrinkage if isinstance(self.shrinkage, str) else self.shrinkage
        coef = scatter.solved(1.0 if scatter.notes else shrinkage)
        return _affine(coef, scatter.classes, self.class_weight), scatter.notes


@final
@dataclass(slots=True, kw_only=True, eq=False)
class NaiveBayesHead(Head):
    """Normal distributions with independent features, as scikit-learn's ``GaussianNB``.

    ``var_smoothing`` times the largest variance of a feature over all rows is added to every variance, after
    standardisation if ``standardize``. Priors are the shares of the classes in the rows, or equal if ``balanced``.
    """

    spec: ClassVar[HeadSpec] = HeadSpec(
        name="naive_bayes",
        summary="Normal distributions with independent features.",
        parameters=(
            Parameter(
                "var_smoothing",
                "float",
                1e-9,
                "Share of the largest variance that is added to all.",
                low=1e-15,
            ),
            CLASS_WEIGHT,
            STANDARDIZE,
        ),
        shared=("var_smoothing",),
        grid={"var_smoothing": tuple(10.0**exponent for exponent in range(-9, 2))},
        by_blocks=True,
        weighted=True,
        cost=lambda n, d, k: n * d * k,
    )
    model_class: ClassVar[type[FittedModel]] = GaussianModel

    var_smoothing: float
    class_weight: str
    standardize: bool

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors  # there are no epochs
        first, k = heads[0], len(heads[0].classes_)
        classes = Classes.from_rows(X, targets, k, standardize=first.standardize, weights=first.weights_)
        return [head._smoothed(classes) for head in heads]

    def _smoothed(self, classes: Classes) -> Learned | TrainingError:
        """Return the model with the smoothing of this head."""
        within = classes.counts @ classes.variances / classes.counts.sum()
        total = classes.settled(within + classes.between())
        smoothing = self.var_smoothing * total.max() or 1.0  # 0 if no feature varies: then the priors decide
        mean, scale = classes.scaling.mean, classes.scaling.scale
        try:
            model = GaussianModel(
                means=classes.means * scale + mean,
                variances=(classes.variances + smoothing) * np.square(scale),
                log_priors=classes.log_priors(self.class_weight),
            )
        except ValueError as e:
            return TrainingError(f"{e}: features are too large or too small for float64; scale them")
        return model, ()


def _affine(coef: Floats, classes: Classes, class_weight: str) -> AffineModel:
    """Return the model whose weights (k, d) are the class means times the inverse of a covariance."""
    intercept = classes.log_priors(class_weight) - np.einsum("kd,kd->k", coef, classes.means) / 2
    return AffineModel.learned(coef, intercept, classes.scaling)
