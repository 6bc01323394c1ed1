"""What heads that take classes for normal distributions must know of the rows: means, variances, covariance.

All of it is gathered by blocks of rows, in float64, of features that are standardised on the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from heads.errors import TrainingError
from heads.rows import Features, Floats, Scaling, Targets, row_blocks

_MAX_COVARIANCE_BYTES = 4 * 2**30
_ALIKE = "no feature varies within any class: the variance between the classes stands in for it"


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """The rows and the means of k classes, of features that were standardised.

    Parameters
    ----------
    counts
        Rows of each class, shape (k,).
    means
        Shape (k, d).
    scaling
        What features were standardised with.
    """

    counts: NDArray[np.intp]
    means: Floats
    scaling: Scaling

    @classmethod
    def of(cls, X: Features, targets: Targets, k: int, *, standardize: bool) -> Self:
        """Gather them from rows (n, d)."""
        scaling = Scaling.of(X, standardize=standardize)
        sums = np.zeros((k, X.shape[1]))
        for rows in row_blocks(X):
            sums += _indicators(targets[rows], k).T @ scaling.applied(X[rows].astype(np.float64))
        counts = np.bincount(targets, minlength=k)
        return cls(counts, sums / counts[:, np.newaxis], scaling)

    def deviations(self, X: Features, targets: Targets) -> Iterator[tuple[Targets, Floats]]:
        """Yield blocks of rows: their classes, and their deviations (rows, d) from the means of these."""
        for rows in row_blocks(X):
            block = self.scaling.applied(X[rows].astype(np.float64))
            yield targets[rows], np.subtract(block, self.means[targets[rows]], out=block)

    def variances(self, X: Features, targets: Targets) -> Floats:
        """Return the variance of every class, shape (k, d)."""
        squares = np.zeros(self.means.shape)
        for positions, block in self.deviations(X, targets):
            squares += _indicators(positions, len(squares)).T @ np.square(block)
        return self.settled(squares / self.counts[:, np.newaxis])

    def settled(self, variances: Floats) -> Floats:
        """Return variances (..., d) with 0 in place of what is rounding alone, by the bound of `mean_and_scale`."""
        magnitude = np.abs(self.means).max(axis=0) + np.abs(self.scaling.mean) / self.scaling.scale
        rounding = self.counts.sum() * np.finfo(np.float64).eps * magnitude
        return np.where(variances <= np.square(rounding), 0.0, variances)

    def between(self) -> Floats:
        """Return the variance of the class means, each as often as it has rows, shape (d,)."""
        shares = self.counts / self.counts.sum()
        variance: Floats = shares @ np.square(self.means - shares @ self.means)
        return variance

    def spread(self, within: Floats) -> tuple[float, tuple[str, ...]]:
        """Return the mean of the variances within classes, shape (d,), or what stands in for 0; and what to say."""
        average = float(within.mean())
        if average > 0:
            return average, ()
        return float(self.settled(self.between()).mean()) or 1.0, (_ALIKE,)

    def log_priors(self, class_weight: str) -> Floats:
        """Return the logarithm of the classes' shares of the rows, or of equal shares if ``balanced``."""
        weights = np.ones(len(self.counts)) if class_weight == "balanced" else self.counts
        logarithms: Floats = np.log(weights / weights.sum())
        return logarithms


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """The covariance within classes, and how far Ledoit and Wolf would shrink it.

    Parameters
    ----------
    classes
        The classes' means.
    covariance
        Shape (d, d), in column order; only its lower triangle counts, the upper one holds zeros.
    spread
        Its trace divided by d, or what stands in for it.
    shrinkage
        From 0 to 1.
    notes
        What is said if there is no variance within classes.
    """

    classes: Classes
    covariance: Floats
    spread: float
    shrinkage: float
    notes: tuple[str, ...]

    @classmethod
    def of(cls, X: Features, targets: Targets, k: int, *, standardize: bool) -> Self:
        """Gather it from rows (n, d); raise `TrainingError` if it would take more than 4 GiB."""
        from scipy.linalg.blas import dsyrk

        n, d = X.shape
        if 8 * d * d > _MAX_COVARIANCE_BYTES:
            raise TrainingError(
                f"the covariance of {d} features takes {8 * d * d / 2**30:.1f} GiB, expected at most "
                f"{_MAX_COVARIANCE_BYTES / 2**30:.0f}; take a tap with fewer features, or the head centroid"
            )
        classes = Classes.of(X, targets, k, standardize=standardize)
        covariance, fourth = np.zeros((d, d), order="F"), 0.0
        for _, block in classes.deviations(X, targets):
            covariance = dsyrk(1 / n, block.T, beta=1.0, c=covariance, lower=1, overwrite_c=1)
            fourth += float(np.square(np.einsum("nd,nd->n", block, block)).sum())
        variances = classes.settled(covariance.diagonal())
        np.fill_diagonal(covariance, variances)
        spread, notes = classes.spread(variances)
        return cls(classes, covariance, spread, _ledoit_wolf(covariance, fourth / n, n), notes)

    def solved(self, shrinkage: float) -> Floats:
        """Return the class means times the inverse of the shrunk covariance, shape (k, d).

        Raises
        ------
        TrainingError
            If it has no inverse, within rounding.
        """
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        shrunk = (1 - shrinkage) * self.covariance
        diagonal = shrunk.diagonal() + shrinkage * self.spread
        np.fill_diagonal(shrunk, diagonal)
        try:
            factor, lower = cho_factor(shrunk, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError as e:
            raise self._singular(shrinkage) from e
        # what is left of a feature's variance once the features before it are known
        if (np.square(factor.diagonal()) <= len(diagonal) * np.finfo(np.float64).eps * diagonal).any():
            raise self._singular(shrinkage)
        solved: Floats = cho_solve((factor, lower), self.classes.means.T, check_finite=False).T
        return solved

    def _singular(self, shrinkage: float) -> TrainingError:
        return TrainingError(
            f"the covariance of {len(self.covariance)} features in {self.classes.counts.sum()} rows, with shrinkage "
            f"{shrinkage:g}, has no inverse; set a larger shrinkage, such as 0.1"
        )


def _indicators(targets: Targets, k: int) -> Floats:
    """Return 1 where a row is of a class and 0 elsewhere, shape (n, k)."""
    return np.eye(k)[targets]


def _ledoit_wolf(covariance: Floats, fourth: float, n: int) -> float:
    """Return the shrinkage of a covariance of n rows, the mean of whose lengths to the fourth power is ``fourth``."""
    d, variances = len(covariance), covariance.diagonal()
    flat = covariance.ravel(order="F")
    squares = 2 * float(flat @ flat) - float(variances @ variances)  # of all entries, from one triangle
    apart = squares - float(variances.sum()) ** 2 / d
    noise = (fourth - squares) / n
    return min(noise / apart, 1.0) if apart > 0 and noise > 0 else 0.0
