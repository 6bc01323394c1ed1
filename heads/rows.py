"""Rows of features by blocks: what every family of heads needs of them, in plain NumPy.

Features may be a memory map larger than memory: nothing here copies them as a whole, unless it is asked to.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.errors import EvaluationError, MismatchError

Features: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.integer[Any]]
Targets: TypeAlias = NDArray[np.intp]
Floats: TypeAlias = NDArray[np.float64]

_BLOCK_VALUES = 2**21  # values of a block of rows; 16 MiB in float64


def row_blocks(X: Features) -> Iterator[slice]:
    """Yield consecutive rows that together are all rows, few enough at a time for any width."""
    count = max(1, _BLOCK_VALUES // max(1, X.shape[1]))
    for start in range(0, len(X), count):
        yield slice(start, min(start + count, len(X)))


def finite(values: NDArray[np.floating[Any]]) -> bool:
    """Whether all values are finite numbers."""
    return bool(np.isfinite(values).all())


def first_not_finite(X: Features) -> int | None:
    """Return the number of the first row that holds a value that is not finite; None if there is none."""
    for rows in row_blocks(X):
        if not finite(X[rows]):
            return int(rows.start + np.argmin(np.isfinite(X[rows]).all(axis=1)))
    return None


def mean_and_scale(X: Features) -> tuple[Floats, Floats]:
    """Return the mean and the standard deviation of every feature, shapes (d,), of rows (n, d), by blocks, in float64.

    A feature that is constant but for rounding, by the bound of scikit-learn's ``StandardScaler``, or whose deviation
    float32 cannot hold, gets the scale 1.
    """
    n, epsilon = len(X), np.finfo(np.float64).eps
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows in row_blocks(X):
        total += X[rows].sum(axis=0, dtype=np.float64)
    mean = total / n
    for rows in row_blocks(X):
        squares += np.square(X[rows] - mean).sum(axis=0)
    variance = squares / n
    constant = variance <= n * epsilon * variance + (n * mean * epsilon) ** 2
    scale = np.sqrt(variance)
    return mean, np.where(constant | (scale < np.finfo(np.float32).tiny), 1.0, scale)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """What features are standardised with: ``(X - mean) / scale``.

    Parameters
    ----------
    mean, scale
        Shape (d,), float64; scale is above 0.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, X: Features, *, standardize: bool) -> Self:
        """Measure it in rows (n, d), or take the one that leaves features as they are."""
        return cls(*mean_and_scale(X)) if standardize else cls(np.zeros(X.shape[1]), np.ones(X.shape[1]))

    def applied(self, X: Features) -> Features:
        """Return standardised rows (n, d), C-contiguous: float64 if ``X`` is, else float32; a copy in any case."""
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        mean, scale = self.mean.astype(dtype), self.scale.astype(dtype)
        standardised = np.empty(X.shape, dtype)
        for rows in row_blocks(X):
            np.subtract(X[rows], mean, out=standardised[rows])
            standardised[rows] /= scale
        return standardised


def class_weights(targets: Targets, k: int, class_weight: str) -> Floats:
    """Return the weight of a row of each of k classes, shape (k,): 1, or n / (k * rows of the class) if ``balanced``.

    The formula is scikit-learn's (King and Zeng 2001).
    """
    if class_weight != "balanced":
        return np.ones(k)
    return len(targets) / (k * np.bincount(targets, minlength=k))


def by_blocks(X: Features, width: int, k: int, probabilities_of: Callable[[Floats], Floats]) -> Floats:
    """Return what a function says about rows (n, d), shape (n, k), calling it with a few float64 rows at a time.

    Raises
    ------
    MismatchError
        If rows have another number of features than ``width``.
    EvaluationError
        If a row holds a number that is not finite, or what is computed of it is not.
    """
    if X.ndim != 2 or X.shape[1] != width:  # noqa: PLR2004
        raise MismatchError(
            f"the features have shape {X.shape}, the head was trained on (n, {width}); take the tap that it was "
            "trained on"
        )
    results = np.empty((len(X), k))
    for rows in row_blocks(X):
        block = X[rows].astype(np.float64)
        # the sum of a row is finite only if all of it is, and costs one pass less than looking at each number
        with np.errstate(over="ignore", invalid="ignore"):
            usable = np.isfinite(block.sum(axis=1))
        if not usable.all():
            row = rows.start + int(np.argmin(usable))
            raise EvaluationError(f"row {row} holds features that are not finite; extract them again", row)
        with np.errstate(all="ignore"):
            results[rows] = probabilities_of(block)
        usable = np.isfinite(results[rows]).all(axis=1)
        if not usable.all():
            row = rows.start + int(np.argmin(usable))
            raise EvaluationError(f"row {row} gets no probabilities: what the head computes of it is not finite", row)
    return results


def loss_and_accuracy(probabilities: NDArray[np.floating[Any]], classes: Labels, y: Labels) -> tuple[float, float]:
    """Return the mean cross-entropy in nats, and the accuracy, of probabilities (n, k) for labels (n,).

    A label that is not among ``classes`` has probability 0, which counts as the smallest spacing of float64 at 1 (a
    loss of 36.04), as in scikit-learn's ``log_loss``.
    """
    columns = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    known = classes[columns] == y
    of_truth = np.where(known, probabilities[np.arange(len(y)), columns], 0.0)
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    right = classes[np.argmax(probabilities, axis=1)] == y
    return float(losses.mean()), float(right.mean())
