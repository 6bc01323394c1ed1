"""95 % intervals of scores, and tests of differences between heads on the same rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its 95 % interval; ``low <= value <= high``."""

    value: float
    low: float
    high: float

    def range_text(self, digits: int = 4) -> str:
        """Return the bounds as text.

        Examples
        --------
        >>> Interval(0.972, 0.9587, 0.9811).range_text()
        '0.9587 to 0.9811'
        """
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


def wilson(successes: int, trials: int) -> Interval:
    """Return a proportion with its 95 % score interval.

    The formula is that of E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212.

    Examples
    --------
    >>> interval = wilson(8, 10)
    >>> f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    '0.800 (0.490 to 0.943)'
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials, expected 0 to {trials} in at least one")
    value = successes / trials
    spread = Z_95 * math.sqrt(value * (1 - value) / trials + (Z_95 / (2 * trials)) ** 2)
    centre = value + Z_95**2 / (2 * trials)
    low, high = ((centre + side * spread) / (1 + Z_95**2 / trials) for side in (-1, 1))
    return Interval(value, max(0.0, min(low, value)), min(1.0, max(high, value)))


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Return the two-sided p-value of McNemar's exact test that two heads are right equally often on the same rows.

    The test uses the rows that exactly one head classifies correctly. If both heads are equally accurate, each of these
    rows belongs to either head with probability 1/2. See Q. McNemar, "Note on the sampling error of the difference
    between correlated proportions or percentages", Psychometrika 12 (1947), 153-157.

    Parameters
    ----------
    ours, theirs
        Whether each head is right on each row, shapes (n,).

    Returns
    -------
    float
        The p-value; 1 if no row is classified correctly by exactly one head.

    Examples
    --------
    >>> f"{mcnemar(np.array([True] * 5 + [False]), np.array([False] * 5 + [True])):.5f}"
    '0.21875'
    """
    from scipy.stats import binomtest

    only_ours, only_theirs = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    if not only_ours + only_theirs:
        return 1.0
    return float(binomtest(min(only_ours, only_theirs), only_ours + only_theirs).pvalue)


def paired_bootstrap(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], *, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Return the difference of two accuracies on the same rows, with its percentile bootstrap interval.

    Rows are resampled as pairs: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    A resample needs only the number of rows that exactly one of the heads classifies correctly. These counts follow a
    multinomial distribution, so the counts are drawn instead of the rows.

    Parameters
    ----------
    ours, theirs
        Whether each head is right on each row, shapes (n,), n at least 1.
    replicates
        Number of resamples.
    seed
        Seed of the random generator.

    Examples
    --------
    >>> paired_bootstrap(np.array([True, True, False]), np.array([True, True, False]))
    Interval(value=0.0, low=0.0, high=0.0)
    """
    n = len(ours)
    if n == 0 or len(theirs) != n:
        raise ValueError(f"{n} and {len(theirs)} rows, expected the same rows, at least one")
    only_ours, only_theirs = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    shares = np.array([only_ours, only_theirs, n - only_ours - only_theirs]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=replicates)
    return percentile_interval((only_ours - only_theirs) / n, (counts[:, 0] - counts[:, 1]) / n)


def percentile_interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    """Return a number with the 2.5 and 97.5 percentiles of its resamples; the interval always contains the number."""
    low, high = (float(bound) for bound in np.percentile(resampled, _PERCENTILES))
    return Interval(value, min(low, value), max(high, value))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values adjusted for multiple tests, in the order given.

    Rejecting adjusted p < 0.05 keeps the family-wise error rate at 5 %. The method is that of S. Holm, "A simple
    sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979), 65-70.

    Examples
    --------
    >>> [round(p, 9) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return tuple(adjusted)
