"""Logistic regression by L-BFGS over blocks of rows, which are never copied as a whole.

It minimises the objective of scikit-learn's ``LogisticRegression`` with the same solver and the same stopping rule.
Several blocks are computed at a time, in threads of our own: those of a BLAS library wait for each other when the
processors are busy. Their results are added in the order of the rows, so that threads make no difference.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurecache.prefetch import ahead
from heads.errors import TrainingError
from heads.families.own_threads import own_threads
from heads.rows import Features, Floats, Scaling, Targets, finite, row_blocks

_BLOCK_VALUES = 2**19  # values of a centred block, which fits into the cache of a processor
_SEARCHES = 50  # steps of a line search, as in scikit-learn
_PRECISION = 64 * np.finfo(np.float64).eps  # relative decrease of the objective that ends the search, as there


class Solution(NamedTuple):
    """The minimum of a logistic regression.

    Parameters
    ----------
    coef
        Weights of the standardised features, shape (k, d), or (1, d) of the second of two classes, float64.
    intercept
        Shape (k,) or (1,), float64.
    fault
        Why the solver stopped before it converged; empty if it converged.
    """

    coef: Floats
    intercept: Floats
    fault: str


def solve(
    X: Features, scaling: Scaling, targets: Targets, weights: Floats, *, C: float, tol: float, max_iter: int
) -> Solution:
    """Minimise ``sum(weights * loss) / sum(weights) + |w|**2 / (2 * C * sum(weights))`` on standardised rows.

    The loss is the cross-entropy of the sigmoid for two classes, of softmax for more.

    Parameters
    ----------
    X
        Shape (n, d). Products are computed in float64 if it is float64, else in float32, and added in float64.
    scaling
        The standardisation of the rows.
    targets
        Positions of the classes, shape (n,).
    weights
        Weights of the rows, shape (n,).
    C
        Inverse strength of the penalty.
    tol
        The largest component of the gradient at which the solver stops.
    max_iter
        Largest number of steps.

    Raises
    ------
    TrainingError
        If the objective is not finite.
    """
    from scipy.optimize import minimize

    options = {"maxiter": max_iter, "maxls": _SEARCHES, "gtol": tol, "ftol": _PRECISION}
    with own_threads() as threads:
        objective = _Objective(X, scaling, targets, weights, C, threads=threads)
        start = np.zeros(math.prod(objective.shape))
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    vectors = objective.vectors(found.x)
    return Solution(vectors[:, :-1], vectors[:, -1], "" if found.success else f"{found.message}".lower())


class _Sums(NamedTuple):
    """The sums of a block of rows: losses, and the gradients by weights and intercepts, (k, d) and (k,)."""

    loss: float
    coef: NDArray[Any]
    intercept: Floats


class _Objective:
    """Value and gradient at weights and intercepts, in one pass over the rows.

    A strong penalty makes the objective much steeper along weights than along intercepts, by about ``k * penalty`` on
    standardised features. The solver sees intercepts in a unit that makes up for it, and takes a tenth of the steps.
    """

    def __init__(
        self, X: Features, scaling: Scaling, targets: Targets, weights: Floats, C: float, *, threads: int
    ) -> None:
        self._X, self._targets, self._weights, self._threads = X, targets, weights, threads
        self._dtype = np.dtype(np.float64 if X.dtype == np.float64 else np.float32)
        self._mean, self._scale = scaling.mean.astype(self._dtype), scaling.scale
        self._total = float(weights.sum())
        self._penalty = 1 / (C * self._total)
        k = int(targets.max()) + 1
        self.shape = (1 if k == 2 else k, X.shape[1] + 1)  # noqa: PLR2004 - one score separates two classes
        self._unit = math.sqrt(max(1.0, k * self._penalty))

    def vectors(self, flat: Floats) -> Floats:
        """Return weights and intercepts, shape (k, d + 1), from what the solver sees."""
        vectors = flat.reshape(self.shape).copy()
        vectors[:, -1] *= self._unit
        return vectors

    def __call__(self, flat: Floats) -> tuple[float, Floats]:
        vectors = self.vectors(flat)
        coef, intercept = vectors[:, :-1], vectors[:, -1]
        value, gradient = 0.0, np.zeros(self.shape)
        with np.errstate(all="ignore"):  # what is not finite is found below
            for sums in self._blocks((coef / self._scale).astype(self._dtype), intercept):
                value += sums.loss
                gradient[:, :-1] += sums.coef
                gradient[:, -1] += sums.intercept
            gradient[:, :-1] /= self._scale
            gradient /= self._total
            gradient[:, :-1] += self._penalty * coef
            gradient[:, -1] *= self._unit
            value = value / self._total + self._penalty * float(np.square(coef).sum()) / 2
        if not (np.isfinite(value) and finite(gradient)):
            raise TrainingError("the training broke down: the loss is not finite; choose less extreme parameters")
        return value, gradient.ravel()

    def _blocks(self, coef: NDArray[Any], intercept: Floats) -> Iterable[_Sums]:
        """Yield the sums of every block, in order."""

        def sums(rows: slice) -> _Sums:
            block = self._centred(rows)
            with np.errstate(all="ignore"):  # a setting of the thread
                losses, slopes = _losses((block @ coef.T).astype(np.float64) + intercept, self._targets[rows])
                slopes *= self._weights[rows, np.newaxis]
                back = slopes.T.astype(self._dtype) @ block
            return _Sums(float(self._weights[rows] @ losses), back, slopes.sum(axis=0))

        blocks = row_blocks(self._X, _BLOCK_VALUES)
        if self._threads == 1 or math.prod(self._X.shape) <= _BLOCK_VALUES:
            return map(sums, blocks)
        return ahead(sums, blocks, workers=self._threads, window=2 * self._threads)

    def _centred(self, rows: slice) -> NDArray[Any]:
        """Return rows without their mean; the scale is part of the weights."""
        block = self._X[rows]
        if not self._mean.any():
            return block.astype(self._dtype, copy=False)
        return np.subtract(block, self._mean, dtype=self._dtype)


def _losses(scores: Floats, targets: Targets) -> tuple[Floats, Floats]:
    """Return the loss of each row, shape (m,), and the slopes by its scores, shape (m, 1) or (m, k)."""
    if scores.shape[1] == 1:
        score = scores[:, 0]
        losses: Floats = np.logaddexp(0, score) - targets * score
        slope: Floats = np.exp(-np.logaddexp(0, -score)) - targets
        return losses, slope[:, np.newaxis]
    numbers = np.arange(len(targets))
    scores -= scores.max(axis=1, keepdims=True)
    of_truth = scores[numbers, targets]
    slopes: Floats = np.exp(scores, out=scores)
    sums = slopes.sum(axis=1)
    slopes /= sums[:, np.newaxis]
    slopes[numbers, targets] -= 1
    return np.log(sums) - of_truth, slopes
