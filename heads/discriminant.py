"""Heads that take every class for a normal distribution: nearest mean, linear discriminant analysis, naive Bayes.

All are in closed form: there is no random part and no epoch. The seed changes nothing, and is taken because every head
takes one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from heads.affine import AffinePredictor, softmax
from heads.base import Head, Learned, Monitor, checked_arrays, not_finite
from heads.errors import ArtifactError, TrainingError
from heads.moments import Classes, Scatter
from heads.rows import Features, Floats, Targets, by_blocks


@final
@dataclass(slots=True, kw_only=True, eq=False)
class CentroidHead(Head):
    """The nearest mean of a class; parameters and defaults are in the catalogue.

    Scores are ``-||x - mean_c||^2 / (2 s^2) + log prior_c``, probabilities their softmax, where ``s^2`` is the variance
    within classes, of all n rows around the means of their classes (divided by n), averaged over the features. This is
    linear discriminant analysis with shrinkage 1. Priors are the classes' shares of the rows, or equal if ``balanced``.

    Where no feature varies within any class, as with one row each, the variance of the class means stands in for
    ``s^2``, or 1 if all rows are alike.
    """

    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        classes = Classes.of(X, targets, len(self.classes_), standardize=self.standardize)
        spread, notes = classes.spread(classes.counts @ classes.variances(X, targets) / len(X))
        return _affine(classes.means / spread, classes, self.class_weight), notes


@final
@dataclass(slots=True, kw_only=True, eq=False)
class LDAHead(Head):
    """Linear discriminant analysis: normal distributions with one covariance; parameters are in the catalogue.

    Scores are ``x S^-1 mean_c - mean_c S^-1 mean_c / 2 + log prior_c`` (Hastie, Tibshirani, Friedman 2009, eq. 4.10).
    The covariance of the n rows around the means of their classes, ``C`` (divided by n), is shrunk to
    ``S = (1 - shrinkage) C + shrinkage trace(C) / d I``. Shrinkage ``auto`` is what Ledoit and Wolf (2004, "A
    well-conditioned estimator for large-dimensional covariance matrices") give for these deviations, once for all
    classes; scikit-learn, in contrast, standardises and shrinks the covariance of every class by itself. Priors are the
    classes' shares of the rows, or equal if ``balanced``; ``C`` is the same in either case.

    Where no feature varies within any class, ``S`` is the multiple of ``I`` that `CentroidHead` takes. Two matrices
    (d, d) are held in float64 at a time.

    Raises
    ------
    TrainingError
        If ``S`` is singular, as with fewer rows than features and shrinkage 0, or would take more than 4 GiB.
    """

    shrinkage: float | str
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        return self._solved(Scatter.of(X, targets, len(self.classes_), standardize=self.standardize))

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors
        scatter = Scatter.of(X, targets, len(heads[0].classes_), standardize=heads[0].standardize)
        results: list[Learned | TrainingError] = []
        for head in heads:
            try:
                results.append(head._solved(scatter))
            except TrainingError as e:
                results.append(e)
        return results

    def _solved(self, scatter: Scatter) -> Learned:
        """Return what follows from the scatter with this head's shrinkage."""
        shrinkage = scatter.shrinkage if isinstance(self.shrinkage, str) else self.shrinkage
        coef = scatter.solved(1.0 if scatter.notes else shrinkage)
        return _affine(coef, scatter.classes, self.class_weight), scatter.notes


@final
@dataclass(slots=True, kw_only=True, eq=False)
class NaiveBayesHead(Head):
    """Normal distributions with each feature by itself, like scikit-learn's ``GaussianNB``; see the catalogue.

    To every variance, ``var_smoothing`` times the largest variance of a feature over all rows is added, both of
    standardised features if ``standardize``. Priors are the classes' shares of the rows, or equal if ``balanced``.
    """

    var_smoothing: float
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        del monitor
        classes = Classes.of(X, targets, len(self.classes_), standardize=self.standardize)
        return self._smoothed(classes, classes.variances(X, targets)), ()

    @classmethod
    def _learn_together(
        cls, heads: Sequence[Self], X: Features, targets: Targets, monitors: Sequence[Monitor]
    ) -> list[Learned | TrainingError]:
        del monitors
        classes = Classes.of(X, targets, len(heads[0].classes_), standardize=heads[0].standardize)
        variances = classes.variances(X, targets)
        return [(head._smoothed(classes, variances), ()) for head in heads]

    def _smoothed(self, classes: Classes, variances: Floats) -> "GaussianPredictor":
        """Return what follows from the variance (k, d) of each class."""
        total = classes.settled(classes.counts @ variances / classes.counts.sum() + classes.between())
        smoothing = self.var_smoothing * total.max() or 1.0  # if no feature varies at all, the priors alone decide
        mean, scale = classes.scaling.mean, classes.scaling.scale
        try:
            return GaussianPredictor(
                means=classes.means * scale + mean,
                variances=(variances + smoothing) * np.square(scale),
                log_priors=classes.log_priors(self.class_weight),
            )
        except ValueError as e:
            raise TrainingError(f"{e}: features are too large or too small for float64; scale them") from e


@final
@dataclass(frozen=True, slots=True, eq=False)
class GaussianPredictor:
    """Probabilities by Bayes' rule, where every feature of every class has a normal distribution by itself.

    Standardisation is part of the numbers: they are those of the features as they come.

    Parameters
    ----------
    means, variances
        Of each class's features, shape (k, d), float64; variances are above 0.
    log_priors
        Logarithm of each class's probability before any feature is seen, shape (k,), float64.
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
        """Rebuild it from its stored arrays; see `heads.base.Predictor`."""
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
        # squares of differences, class by class: multiplied out they would lose what small variances need
        for column, (mean, variance) in enumerate(zip(self.means, self.variances, strict=True)):
            scores[:, column] = np.square(block - mean) @ (-0.5 / variance)
        return softmax(scores + self._constants)


def _affine(coef: Floats, classes: Classes, class_weight: str) -> AffinePredictor:
    """Return the predictor whose weights (k, d) are the class means times the inverse of a covariance."""
    intercept = classes.log_priors(class_weight) - np.einsum("kd,kd->k", coef, classes.means) / 2
    return AffinePredictor.learned(coef, intercept, classes.scaling)
