"""Operations on rows of features that all families share, in NumPy and block by block.

Features may be larger than memory: a memory map, or `featurecache.Rows`. Only `Scaling.applied` copies them as a whole.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.rows import Rows, read_ahead
from heads.errors import EvaluationError, MismatchError

Features: TypeAlias = NDArray[np.floating[Any]] | Rows
"""Rows and features, shape (n, d): an array in memory, a memory map, or rows that are read when they are indexed."""

Labels: TypeAlias = NDArray[np.integer[Any]]
Targets: TypeAlias = NDArray[np.intp]
Floats: TypeAlias = NDArray[np.float64]

_BLOCK_VALUES = 2**21  # values of a block of rows; 16 MiB in float64
LARGE_BYTES = 2**30  # in float32; larger features are read in the order of the file as far as possible


def row_blocks(X: Features, values: int | None = None) -> Iterator[slice]:
    """Yield consecutive slices that cover all rows; their length depends on the width.

    The system is asked to read the next block of large features while one is used.

    Parameters
    ----------
    X
        Features, shape (n, d).
    values
        Largest number of values of a block; 16 MiB in float64 if it is not given.

    Examples
    --------
    >>> list(row_blocks(np.zeros((5, 2**20))))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    count = max(1, (values or _BLOCK_VALUES) // max(1, X.shape[1]))
    far = large(X)
    for start in range(0, len(X), count):
        if far:
            read_ahead(X, slice(start + count, start + 2 * count))
        yield slice(start, min(start + count, len(X)))


def large(X: Features) -> bool:
    """Whether features take more than 1 GiB in float32, on every machine."""
    return float32_bytes(X) > LARGE_BYTES


def float32_bytes(X: Features) -> int:
    """Return how many bytes features take in float32."""
    return math.prod(X.shape) * np.dtype(np.float32).itemsize


def finite(values: NDArray[np.floating[Any]]) -> bool:
    """Whether all values are finite numbers."""
    return bool(np.isfinite(values).all())


def first_not_finite(X: Features) -> int | None:
    """Return the number of the first row with a value that is not finite; None if there is none."""
    for rows in row_blocks(X):
        if not finite(X[rows]):
            return int(rows.start + np.argmin(np.isfinite(X[rows]).all(axis=1)))
    return None


def mean_and_scale(X: Features, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of every feature, shapes (d,), float64, of rows (n, d), in one pass.

    The scale is 1 for a feature that is constant within rounding, by the bound of scikit-learn's ``StandardScaler``, or
    that has a deviation too small for float32. Rows may have weights above 0, shape (n,).
    """
    n, total, squares = 0.0, np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for rows in row_blocks(X):
        block, own = X[rows], None if weights is None else weights[rows]
        count = float(rows.stop - rows.start) if own is None else float(own.sum())
        sums = block.sum(axis=0, dtype=np.float64) if own is None else own @ block
        deviations = block - sums / count
        np.square(deviations, out=deviations)
        squares += deviations.sum(axis=0) if own is None else own @ deviations
        if n:  # joins the deviations from two means (Chan, Golub and LeVeque 1983)
            squares += np.square(sums / count - total / n) * (n * count / (n + count))
        total, n = total + sums, n + count
    mean = total / n
    return mean, scale_of(mean, squares / n, len(X))


def scale_of(mean: Floats, variance: Floats, n: int) -> Floats:
    """Return the scale of features with this mean and variance in n rows; see `mean_and_scale`. Shapes (d,)."""
    epsilon = np.finfo(np.float64).eps
    constant = variance <= n * epsilon * variance + (n * mean * epsilon) ** 2
    scale = np.sqrt(variance)
    return np.where(constant | (scale < np.finfo(np.float32).tiny), 1.0, scale)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """A standardisation of features: ``(X - mean) / scale``.

    Parameters
    ----------
    mean, scale
        Shape (d,), float64; scale is above 0.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def from_rows(cls, X: Features, *, standardize: bool, weights: Floats | None = None) -> Self:
        """Compute it from rows (n, d) with weights (n,), if any, or return the identity if ``standardize`` is false."""
        return cls(*mean_and_scale(X, weights)) if standardize else cls(np.zeros(X.shape[1]), np.ones(X.shape[1]))

    def applied(self, X: Features) -> NDArray[np.floating[Any]]:
        """Return a standardised copy of rows (n, d), C-contiguous: float64 if ``X`` is float64, else float32."""
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        mean, scale = self.mean.astype(dtype), self.scale.astype(dtype)
        standardised = np.empty(X.shape, dtype)
        for rows in row_blocks(X):
            np.subtract(X[rows], mean, out=standardised[rows])
            standardised[rows] /= scale
        return standardised


def class_weights(targets: Targets, k: int, class_weight: str, weights: Floats | None = None) -> Floats:
    """Return the weight of a row of each of k classes, shape (k,): 1, or n / (k * rows of the class) if ``balanced``.

    The formula is that of scikit-learn (King and Zeng 2001). Rows count by their weights, shape (n,), if there are any.

    Examples
    --------
    >>> class_weights(np.array([0, 0, 0, 1]), 2, "balanced").tolist()
    [0.6666666666666666, 2.0]
    """
    if class_weight != "balanced":
        return np.ones(k)
    counts = np.bincount(targets, weights, minlength=k)
    return np.asarray(counts.sum() / (k * counts))


def by_blocks(X: Features, width: int, k: int, probabilities_of: Callable[[Floats], Floats]) -> Floats:
    """Return the results of a function for rows (n, d), shape (n, k); it is called with blocks of float64 rows.

    Raises
    ------
    MismatchError
        If the rows do not have ``width`` features.
    EvaluationError
        If a row has a value that is not finite, or a result that is not finite.
    """
    if len(X.shape) != 2 or X.shape[1] != width:  # noqa: PLR2004
        raise MismatchError(
            f"the features have shape {X.shape}, the head was trained on (n, {width}); take the tap that it was "
            "trained on"
        )
    results = np.empty((len(X), k))
    for rows in row_blocks(X):
        block = X[rows].astype(np.float64)
        # the sum of a row is not finite if any of its values is not; it takes one pass less than a test of each value
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
    """Return mean cross-entropy in nats, and accuracy, of probabilities (n, k) for labels (n,).

    A label that is not among ``classes`` has probability 0. Probabilities are clipped at the spacing of float64 at 1, a
    loss of 36.04, as in scikit-learn's ``log_loss``.
    """
    columns = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
    known = classes[columns] == y
    of_truth = np.where(known, probabilities[np.arange(len(y)), columns], 0.0)
    losses = -np.log(np.maximum(of_truth, np.finfo(np.float64).eps))
    right = classes[np.argmax(probabilities, axis=1)] == y
    return float(losses.mean()), float(right.mean())
