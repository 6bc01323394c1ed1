"""Stochastic gradient descent as scikit-learn's ``SGDClassifier`` with logistic loss, on rows that come in chunks.

scikit-learn's own ``fit`` needs all rows in memory. Its ``partial_fit`` forgets parts of the penalty and of the average
between chunks. Given the rows in the same order, `descend` takes the steps of ``fit``, and stops after the same pass.

All problems take a row at the same time. With an l2 penalty and without an average, the scores of a few rows ahead
follow from the products of these rows with each other, so that weights are read and written once for all of them, by
matrix products.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from heads.errors import TrainingError
from heads.rows import Floats, Targets, finite

_PATIENCE = 5  # passes in a row that do not lower the objective by tol
_SMALLEST = 1e-9  # of the common factor of the weights; below it, it is multiplied into them
_AHEAD = 64  # rows whose products are computed together
_LOWEST = -60.0  # a lower score has a probability below 1e-26: its steps are lost in rounding, and slow below 1e-38

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
    going, best, stale = np.arange(K), np.full(K, np.inf), np.zeros(K, np.intp)
    for _ in range(max_iter):
        objective = np.zeros(len(going))
        with np.errstate(all="ignore"):  # what is not finite is found after the pass
            for rows, X in chunks():
                own = np.ones(len(rows)) if weights is None else weights[rows]
                objective += state.learn(X, targets[rows], own) / len(targets)
        coef[going], intercept[going] = state.solution()
        stale[going] = np.where(objective > best[going] - tol, stale[going] + 1, 0)
        best[going] = np.minimum(best[going], objective)
        unsettled = stale[going] < _PATIENCE
        if not unsettled.any():
            return Solutions(coef, intercept, settled=True)
        if not unsettled.all():
            state.keep(unsettled)
            going = going[unsettled]
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

    def keep(self, which: NDArray[np.bool_]) -> None:
        """Leave out the problems that are not in a mask (K,)."""
        positions, weights, rest = self._problems
        self._problems = Problems(positions[which], weights[which], rest[which])
        self._vectors, self._intercept = self._vectors[which], self._intercept[which]
        self._squares, self._sizes, self._cuts = self._squares[which], self._sizes[which], self._cuts[which]
        self._mean, self._mean_intercept = self._mean[which], self._mean_intercept[which]

    def learn(self, X: NDArray[np.floating[Any]], targets: Targets, own: Floats) -> Floats:
        """Take a step for each row; return the sums of the objectives before the steps, shape (K,)."""
        if not self._steps:
            self._vectors = self._vectors.astype(X.dtype)
        if self._l1_share or self._average:
            return self._one_by_one(X, targets, own)
        losses = np.zeros(len(self._intercept))
        for start in range(0, len(X), _AHEAD):
            rows = slice(start, start + _AHEAD)
            losses += self._together(X[rows], targets[rows], own[rows])
        return losses

    def _together(self, X: NDArray[np.floating[Any]], targets: Targets, own: Floats) -> Floats:
        """Take the steps of a few rows (m, d) with an l2 penalty and without an average."""
        from scipy.special import expit

        positions, weights, rest = self._problems
        times = self._begin + self._steps + np.arange(len(X))
        self._steps += len(X)
        rates, first = 1 / (self._alpha * times), max(0.0, times[0] - 1)
        # A step leaves 1 - 1 / time of the weights. The part that is left at row j of what they get at row i, (m, m)
        # above the diagonal; the parts that are left of the first weights at row j, and at the end of those of row i:
        left = np.triu(times[:, np.newaxis] / (times - 1), 1)
        of_first, at_end = np.append(1.0, first / times[:-1]), times / times[-1]
        products = (X @ X.T).astype(np.float64)
        scores = (X @ self._vectors.T).astype(np.float64) * of_first[:, np.newaxis]  # (m, K)
        of_class = (targets[:, np.newaxis] == positions).astype(np.float64)
        most = rates[:, np.newaxis] * np.where(of_class > 0, weights, rest) * own[:, np.newaxis]
        along, updates = np.ascontiguousarray((products * left).T), np.empty_like(scores)
        without = np.empty_like(scores)  # scores before the intercept
        for row in range(len(X)):
            without[row] = scores[row] + along[row, :row] @ updates[:row]
            scores[row] = without[row] + self._intercept
            updates[row] = most[row] * (of_class[row] - expit(np.maximum(scores[row], _LOWEST)))
            self._intercept += updates[row]
        losses = (np.logaddexp(0, np.maximum(scores, _LOWEST)) - of_class * scores).sum(axis=0)
        shrinking = np.maximum(0, 1 - 1 / times)[:, np.newaxis]
        gains = updates * (2 * shrinking * without + updates * np.diag(products)[:, np.newaxis])
        squares = self._squares * np.square(of_first).sum() + np.square(left).sum(axis=1) @ gains
        losses += self._alpha * squares / 2
        whole = first / times[-1]
        self._squares = whole**2 * self._squares + np.square(at_end) @ gains
        self._vectors *= X.dtype.type(whole)
        self._vectors += (at_end[:, np.newaxis] * updates).astype(X.dtype).T @ X
        return np.asarray(losses)

    def _one_by_one(self, X: NDArray[np.floating[Any]], targets: Targets, own: Floats) -> Floats:
        """Take the step of each row in turn."""
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
