"""Stochastic gradient descent as scikit-learn's ``SGDClassifier`` with logistic loss, on rows that come in chunks.

scikit-learn's own ``fit`` needs all rows in memory. Its ``partial_fit`` forgets parts of the penalty and of the average
between chunks. Given the rows in the same order, `descend` takes the steps of ``fit``, and stops after the same pass.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heads.errors import TrainingError
from heads.rows import Floats, Targets, finite

_PATIENCE = 5  # passes in a row that do not lower the objective by tol
_SMALLEST = 1e-9  # of the common factor of the weights; below it, it is multiplied into them

Chunks = Iterable[tuple[Targets, NDArray[np.floating[Any]]]]


class Problems(NamedTuple):
    """Classes that are each separated from the rest.

    Parameters
    ----------
    positions
        The classes, positions among all classes, shape (K,).
    weights, rest
        The weights of the rows of each of them, and of the other rows, shapes (K,).
    """

    positions: Targets
    weights: Floats
    rest: Floats


class Solutions(NamedTuple):
    """Weights (K, d) and intercepts (K,) of K problems, and whether all of them settled."""

    coef: Floats
    intercept: Floats
    settled: bool


def descend(
    chunks: Callable[[], Chunks],
    targets: Targets,
    problems: Problems,
    *,
    width: int,
    alpha: float,
    l1_share: float,
    average: bool,
    tol: float,
    max_iter: int,
    weights: Floats | None = None,
) -> Solutions:
    """Solve problems by passes over all rows, with scikit-learn's learning rate ``optimal``.

    Parameters
    ----------
    chunks
        Called for each pass; yields numbers and standardised features of rows, shapes (m,) and (m, d).
    targets
        The positions of the classes, shape (n,).
    problems
        The problems.
    width
        The number of features, d.
    alpha, l1_share
        Strength of the penalty, and the part of it that is l1.
    average
        Whether the mean of the weights over all steps is the solution.
    tol, max_iter
        As in scikit-learn.
    weights
        Weights of the rows, shape (n,); None if all have weight 1.

    Raises
    ------
    TrainingError
        If weights are no longer finite.
    """
    K, state = len(problems.positions), _State(problems, width, alpha, l1_share, average=average)
    coef, intercept = np.zeros((K, width)), np.zeros(K)
    best, stale = np.full(K, np.inf), np.zeros(K, np.intp)
    for _ in range(max_iter):
        objective = np.zeros(K)
        with np.errstate(all="ignore"):  # what is not finite is found after the pass
            for rows, X in chunks():
                own = np.ones(len(rows)) if weights is None else weights[rows]
                objective += state.learn(X, targets[rows], own) / len(targets)
        going = stale < _PATIENCE
        current = state.solution()
        coef[going], intercept[going] = current[0][going], current[1][going]
        stale = np.where(going, np.where(objective > best - tol, stale + 1, 0), stale)
        best = np.minimum(best, objective)
        if (stale >= _PATIENCE).all():
            return Solutions(coef, intercept, settled=True)
    return Solutions(coef, intercept, settled=False)


class _State:
    """The weights of all problems, ``factor * vectors``, and what is kept of earlier steps."""

    def __init__(self, problems: Problems, width: int, alpha: float, l1_share: float, *, average: bool) -> None:
        K = len(problems.positions)
        self._problems, self._alpha, self._l1_share, self._average = problems, alpha, l1_share, average
        self._begin = np.sqrt(np.sqrt(alpha)) / alpha  # the first rate is a typical weight (Bottou 2012)
        self._steps, self._factor = 0, 1.0
        self._vectors: NDArray[np.floating[Any]] = np.zeros((K, width))
        self._intercept, self._squares, self._sizes = np.zeros(K), np.zeros(K), np.zeros(K)
        self._cuts, self._possible = np.zeros((K, width)), 0.0  # of the l1 penalty: made so far, and the most possible
        self._mean, self._mean_intercept = np.zeros((K, width)), np.zeros(K)

    def learn(self, X: NDArray[np.floating[Any]], targets: Targets, own: Floats) -> Floats:
        """Take a step for each row; return the sums of the objectives before the steps, shape (K,)."""
        if not self._steps:
            self._vectors = self._vectors.astype(X.dtype)
        losses, lengths = np.zeros(len(self._intercept)), np.einsum("nd,nd->n", X, X, dtype=np.float64)
        positions, weights, rest = self._problems
        for x, length, target, weight in zip(X, lengths.tolist(), targets.tolist(), own.tolist(), strict=True):
            rate = 1 / (self._alpha * (self._begin + self._steps))
            self._steps += 1
            products = (self._vectors @ x).astype(np.float64)
            scores, of_class = self._factor * products + self._intercept, positions == target
            ridge = self._factor**2 * self._squares / 2
            losses += np.logaddexp(0, scores) - of_class * scores
            losses += self._alpha * ((1 - self._l1_share) * ridge + self._l1_share * self._factor * self._sizes)
            update = rate * (of_class - np.exp(-np.logaddexp(0, -scores))) * np.where(of_class, weights, rest) * weight
            products *= self._shrink(1 - (1 - self._l1_share) * rate * self._alpha)
            change = update / self._factor
            self._vectors += change.astype(X.dtype)[:, np.newaxis] * x
            self._squares += change * (2 * products + change * length)
            self._intercept += update
            if self._average:
                self._mean += (self._factor * self._vectors - self._mean) / self._steps
                self._mean_intercept += (self._intercept - self._mean_intercept) / self._steps
            if self._l1_share:
                self._sizes = np.abs(self._vectors).sum(axis=1, dtype=np.float64)
                self._squares = np.einsum("kd,kd->k", self._vectors, self._vectors, dtype=np.float64)
                self._possible += self._l1_share * rate * self._alpha
                self._cut()
        return losses

    def solution(self) -> tuple[Floats, Floats]:
        """Return weights (K, d) and intercepts (K,).

        Raises
        ------
        TrainingError
            If they are not finite.
        """
        coef, intercept = self._factor * self._vectors.astype(np.float64), self._intercept
        if not (finite(coef) and finite(intercept)):
            raise TrainingError("the training broke down: weights are not finite; choose less extreme parameters")
        return (self._mean.copy(), self._mean_intercept.copy()) if self._average else (coef, intercept.copy())

    def _shrink(self, factor: float) -> float:
        """Multiply all weights by a factor; return by what the vectors themselves were multiplied."""
        self._factor *= max(0.0, factor)
        if self._factor >= _SMALLEST:
            return 1.0
        folded, self._factor = self._factor, 1.0
        self._vectors *= folded
        self._squares *= folded**2
        self._sizes *= folded
        return folded

    def _cut(self) -> None:
        """Move weights towards 0 by the l1 penalty of all steps so far (Tsuruoka, Tsujii and Ananiadou 2009)."""
        before = self._factor * self._vectors
        above = np.maximum(0, before - (self._possible + self._cuts))
        below = np.minimum(0, before + (self._possible - self._cuts))
        after = np.where(before > 0, above, np.where(before < 0, below, 0))
        self._cuts += after - before
        self._vectors[...] = after / self._factor
