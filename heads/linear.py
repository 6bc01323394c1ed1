"""Logistic regression by scikit-learn, solved to convergence; what it warns of is kept, never shown and lost."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heads.base import AffinePredictor, Features, Head, Monitor


@dataclass(slots=True, kw_only=True, eq=False)
class LogisticHead(Head):
    """``StandardScaler`` and ``LogisticRegression`` on features; parameters and defaults are in the catalogue.

    The solver (lbfgs) has no random part: the seed changes nothing, and is taken because every head takes one. It
    has no epochs either.

    Attributes
    ----------
    pipeline_ : sklearn.pipeline.Pipeline
        The fitted scikit-learn object.
    """

    C: float
    max_iter: int
    tol: float
    class_weight: str
    standardize: bool
    seed: int
    pipeline_: Any = field(init=False, repr=False)

    def _learn(
        self, X: Features, targets: NDArray[np.intp], monitor: Monitor
    ) -> tuple[AffinePredictor, tuple[str, ...]]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        regression = LogisticRegression(
            C=self.C,
            max_iter=self.max_iter,
            tol=self.tol,
            class_weight=None if self.class_weight == "none" else self.class_weight,
            random_state=self.seed,
        )
        scaler = StandardScaler() if self.standardize else None
        self.pipeline_ = make_pipeline(*filter(None, (scaler, regression)))
        rows = X.astype(np.float32) if X.dtype == np.float16 else X  # StandardScaler would compute in float16
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.pipeline_.fit(rows, targets)
        predictor = AffinePredictor.learned(
            regression.coef_,
            regression.intercept_,
            scaler.mean_ if scaler else None,
            scaler.scale_ if scaler else None,
        )
        return predictor, tuple(dict.fromkeys(self._text(each) for each in caught))

    def _text(self, warning: warnings.WarningMessage) -> str:
        """Return a warning in one line, with what to do about it where that is known."""
        from sklearn.exceptions import ConvergenceWarning

        said = str(warning.message).partition("\n")[0].rstrip(" :")
        if not issubclass(warning.category, ConvergenceWarning):
            return f"{warning.category.__name__}: {said}"
        remedy = "raise max_iter or lower C" if self.standardize else "set standardize=true, raise max_iter or lower C"
        return f"logreg did not converge (max_iter={self.max_iter}): {remedy}; scikit-learn says: {said}"
