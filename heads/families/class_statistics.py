"""Means, variances and covariance of the classes, for heads that model classes by normal distributions.

They are computed in float64, block by block: means and variances in one pass, the covariance in a second one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from heads.errors import TrainingError
from heads.notices import Code, Notice
from heads.rows import Features, Floats, Scaling, Targets, row_blocks, scale_of

_MAX_COVARIANCE_BYTES = 4 * 2**30
_ALIKE = Notice(
    Code.NO_VARIANCE, "no feature varies within any class: the variance between the classes stands in for it"
)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Number of rows, means and variances of k classes, of standardised features.

    Parameters
    ----------
    n
        Number of rows.
    counts
        Number of rows of each class, or the sum of their weights, shape (k,).
    means, variances
        Of the standardised features of each class, shape (k, d).
    scaling
        The standardisation.
    """

    n: int
    counts: Floats
    means: Floats
    variances: Floats
    scaling: Scaling

    @classmethod
    def from_rows(
        cls, X: Features, targets: Targets, k: int, *, standardize: bool, weights: Floats | None = None
    ) -> Self:
        """Compute them in one pass over rows (n, d), maybe weighted by (n,); sums are joined as in `mean_and_scale`."""
        counts, means, squares = np.zeros(k), np.zeros((k, X.shape[1])), np.zeros((k, X.shape[1]))
        for rows in row_blocks(X):
            block, positions = X[rows].astype(np.float64), targets[rows]
            indicators = np.eye(k)[positions]  # 1 for the class of each row, else 0
            if weights is not None:
                indicators *= weights[rows, np.newaxis]
            here = indicators.sum(axis=0)
            both = np.where(counts + here > 0, counts + here, 1)[:, np.newaxis]
            of_block = (indicators.T @ block) / np.where(here > 0, here, 1)[:, np.newaxis]
            block -= of_block[positions]
            squares += indicators.T @ np.square(block, out=block)
            apart = np.where(here[:, np.newaxis] > 0, of_block - means, 0.0)
            squares += np.square(apart) * (counts * here)[:, np.newaxis] / both
            means += apart * here[:, np.newaxis] / both
            counts += here
        return cls._standardised(len(X), counts, means, squares, standardize=standardize)

    @classmethod
    def _standardised(cls, n: int, counts: Floats, means: Floats, squares: Floats, *, standardize: bool) -> Self:
        """Make it of means and sums of squared deviations of features that are not standardised, shapes (k, d)."""
        total, variances = counts.sum(), squares / counts[:, np.newaxis]
        scaling = Scaling(np.zeros(means.shape[1]), np.ones(means.shape[1]))
        if standardize:
            mean = counts @ means / total
            variance = (squares.sum(axis=0) + counts @ np.square(means - mean)) / total
            scaling = Scaling(mean, scale_of(mean, variance, n))
        classes = cls(n, counts, (means - scaling.mean) / scaling.scale, variances / np.square(scaling.scale), scaling)
        return replace(classes, variances=classes.settled(classes.variances))

    def deviations(self, X: Features, targets: Targets) -> Iterator[tuple[slice, Floats]]:
        """Yield blocks of rows, and their deviations from the class means, shape (rows, d)."""
        for rows in row_blocks(X):
            block = self.scaling.applied(X[rows].astype(np.float64))
            yield rows, np.subtract(block, self.means[targets[rows]], out=block)

    def settled(self, variances: Floats) -> Floats:
        """Return variances (..., d), with 0 where rounding alone explains them by the bound of `mean_and_scale`."""
        magnitude = np.abs(self.means).max(axis=0) + np.abs(self.scaling.mean) / self.scaling.scale
        rounding = self.n * np.finfo(np.float64).eps * magnitude
        return np.where(variances <= np.square(rounding), 0.0, variances)

    def between(self) -> Floats:
        """Return the variance of the class means, weighted by the rows of the classes, shape (d,)."""
        shares = self.counts / self.counts.sum()
        variance: Floats = shares @ np.square(self.means - shares @ self.means)
        return variance

    def spread(self, within: Floats) -> tuple[float, tuple[Notice, ...]]:
        """Return the mean of the variances within classes (d,); if it is 0, a substitute and a warning."""
        average = float(within.mean())
        if average > 0:
            return average, ()
        return float(self.settled(self.between()).mean()) or 1.0, (_ALIKE,)

    def log_priors(self, class_weight: str) -> Floats:
        """Return the logarithm of the shares of the classes in the rows, or of equal shares if ``balanced``, (k,)."""
        weights = np.ones(len(self.counts)) if class_weight == "balanced" else self.counts
        logarithms: Floats = np.log(weights / weights.sum())
        return logarithms


@dataclass(frozen=True, slots=True, eq=False)
class Scatter:
    """The covariance within classes, and its shrinkage by Ledoit and Wolf's formula.

    Parameters
    ----------
    classes
        Counts and means of the classes.
    covariance
        Shape (d, d), in column order. Only the lower triangle is used; the upper one is 0.
    spread
        The trace divided by d, or a substitute if it is 0.
    shrinkage
        Ledoit and Wolf's shrinkage, from 0 to 1.
    notes
        A warning if there is no variance within classes.
    """

    classes: Classes
    covariance: Floats
    spread: float
    shrinkage: float
    notes: tuple[Notice, ...]

    @classmethod
    def from_rows(
        cls, X: Features, targets: Targets, k: int, *, standardize: bool, weights: Floats | None = None
    ) -> Self:
        """Compute it from rows (n, d), with weights (n,), if any; raise `TrainingError` if it needs more than 4 GiB."""
        from scipy.linalg.blas import dsyrk

        n, d = X.shape
        if 8 * d * d > _MAX_COVARIANCE_BYTES:
            raise TrainingError(
                f"the covariance of {d} features takes {8 * d * d / 2**30:.1f} GiB, expected at most "
                f"{_MAX_COVARIANCE_BYTES / 2**30:.0f}; take a tap with fewer features, or the head centroid"
            )
        classes = Classes.from_rows(X, targets, k, standardize=standardize, weights=weights)
        covariance, fourth = np.zeros((d, d), order="F"), 0.0
        total = float(n if weights is None else weights.sum())
        for rows, block in classes.deviations(X, targets):
            fourths = np.square(np.einsum("nd,nd->n", block, block))
            if weights is not None:
                fourths *= weights[rows]
                np.multiply(block, np.sqrt(weights[rows, np.newaxis]), out=block)
            fourth += float(fourths.sum())
            covariance = dsyrk(1 / total, block.T, beta=1.0, c=covariance, lower=1, overwrite_c=1)
        variances = classes.settled(covariance.diagonal())
        np.fill_diagonal(covariance, variances)
        spread, notes = classes.spread(variances)
        effective = n if weights is None else total**2 / float(np.square(weights).sum())  # Kish's number of rows
        return cls(classes, covariance, spread, _ledoit_wolf(covariance, fourth / total, effective), notes)

    def solved(self, shrinkage: float) -> Floats:
        """Return the class means times the inverse of the shrunk covariance, shape (k, d).

        Raises
        ------
        TrainingError
            If the covariance is singular within rounding.
        """
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        shrunk = (1 - shrinkage) * self.covariance
        diagonal = shrunk.diagonal() + shrinkage * self.spread
        np.fill_diagonal(shrunk, diagonal)
        try:
            factor, lower = cho_factor(shrunk, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError as e:
            raise self._singular(shrinkage) from e
        # the squared diagonal is the variance of a feature given the features before it
        if (np.square(factor.diagonal()) <= len(diagonal) * np.finfo(np.float64).eps * diagonal).any():
            raise self._singular(shrinkage)
        solved: Floats = cho_solve((factor, lower), self.classes.means.T, check_finite=False).T
        return solved

    def _singular(self, shrinkage: float) -> TrainingError:
        return TrainingError(
            f"the covariance of {len(self.covariance)} features in {self.classes.n} rows, with shrinkage "
            f"{shrinkage:g}, has no inverse; set a larger shrinkage, such as 0.1"
        )


def _ledoit_wolf(covariance: Floats, fourth: float, n: float) -> float:
    """Return the shrinkage of the covariance of n rows; ``fourth`` is the mean fourth power of their lengths."""
    d, variances = len(covariance), covariance.diagonal()
    flat = covariance.ravel(order="F")
    squares = 2 * float(flat @ flat) - float(variances @ variances)  # of all entries, from one triangle
    apart = squares - float(variances.sum()) ** 2 / d
    noise = (fourth - squares) / n
    return min(noise / apart, 1.0) if apart > 0 and noise > 0 else 0.0
