"""Linear heads that scikit-learn solves; what it warns of is kept, never shown and lost."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from heads.affine import AffinePredictor, OneVsRestPredictor, two_rows
from heads.base import Head, Learned, Monitor
from heads.errors import TrainingError
from heads.rows import Features, Scaling, Targets


@dataclass(slots=True, kw_only=True, eq=False)
class LogisticHead(Head):
    """scikit-learn's ``LogisticRegression`` on standardised features; parameters and defaults are in the catalogue.

    The solver (lbfgs) has no random part: the seed changes nothing, and is taken because every head takes one. It
    has no epochs either.
    """

    C: float
    max_iter: int
    tol: float
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        from sklearn.linear_model import LogisticRegression

        del monitor  # there are no epochs
        regression = LogisticRegression(
            C=self.C,
            max_iter=self.max_iter,
            tol=self.tol,
            class_weight=None if self.class_weight == "none" else self.class_weight,
            random_state=self.seed,
        )
        scaling = Scaling.of(X, standardize=self.standardize)
        said = _fitted(regression, _rows(X, scaling, standardize=self.standardize), targets)
        coef, intercept = regression.coef_, regression.intercept_
        if len(coef) == 1:
            coef, intercept = two_rows(coef, intercept)
        remedy = "raise max_iter or lower C"
        late = f"logreg did not converge (max_iter={self.max_iter}): {_remedy(remedy, standardize=self.standardize)}"
        return AffinePredictor.learned(coef, intercept, scaling), tuple(_texts(said, late))


@dataclass(slots=True, kw_only=True, eq=False)
class SGDHead(Head):
    """scikit-learn's ``SGDClassifier`` with the loss of logistic regression; parameters are in the catalogue.

    Each class is told from the rest by itself. The seed draws the order of the rows in each pass.
    """

    alpha: float
    penalty: str
    max_iter: int
    tol: float
    average: bool
    class_weight: str
    standardize: bool
    seed: int

    def _learn(self, X: Features, targets: Targets, monitor: Monitor) -> Learned:
        from sklearn.linear_model import SGDClassifier

        del monitor  # scikit-learn tells nothing of its passes
        descent = SGDClassifier(
            loss="log_loss",
            alpha=self.alpha,
            penalty=self.penalty,
            max_iter=self.max_iter,
            tol=self.tol,
            average=self.average,
            class_weight=None if self.class_weight == "none" else self.class_weight,
            random_state=self.seed,
        )
        scaling = Scaling.of(X, standardize=self.standardize)
        said = _fitted(descent, _rows(X, scaling, standardize=self.standardize), targets)
        coef, intercept = descent.coef_, descent.intercept_
        if len(coef) == 1:
            coef, intercept = np.concatenate([-coef, coef]), np.concatenate([-intercept, intercept])
        remedy = _remedy("raise max_iter or tol", standardize=self.standardize)
        late = f"sgd did not converge (max_iter={self.max_iter}): {remedy}"
        return OneVsRestPredictor.learned(coef, intercept, scaling), tuple(_texts(said, late))


def _rows(X: Features, scaling: Scaling, *, standardize: bool) -> Features:
    """Return rows as scikit-learn takes them: those given, or one copy if it must be another."""
    return scaling.applied(X) if standardize or X.dtype == np.float16 else X


def _fitted(estimator: Any, X: Features, targets: Targets) -> list[warnings.WarningMessage]:  # noqa: ANN401
    """Fit a scikit-learn estimator; return what it warns of, each text once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(X, targets)
        except (ValueError, ArithmeticError) as e:
            said = str(e).partition("\n")[0].rstrip(". ")
            raise TrainingError(f"the training broke down: {said}; choose less extreme parameters") from e
    return list({str(each.message): each for each in caught}.values())


def _remedy(remedy: str, *, standardize: bool) -> str:
    return remedy if standardize else f"set standardize=true, {remedy}"


def _texts(said: list[warnings.WarningMessage], late: str) -> Iterator[str]:
    """Yield warnings in one line each; one that the solver did not converge begins with what to do about it."""
    from sklearn.exceptions import ConvergenceWarning

    for warning in said:
        text = str(warning.message).partition("\n")[0].rstrip(" :")
        if issubclass(warning.category, ConvergenceWarning):
            yield f"{late}; scikit-learn says: {text}"
        else:
            yield f"{warning.category.__name__}: {text}"
