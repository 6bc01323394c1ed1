"""How sure one is of a number: 95 % intervals, and tests of differences on the same rows."""

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
    """Return the two-sided p-value of the exact McNemar test that two heads are right equally often on the same rows.

    Under that hypothesis, each row on which one of them alone is right is equally likely to be of either; see
    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), 153-157.

    Parameters
    ----------
    ours, theirs
        Whether each head is right on each row, shapes (n,).

    Examples
    --------
    >>> f"{mcnemar(np.array([True] * 5 + [False]), np.array([False] * 5 + [True])):.5f}"
    '0.21875'
    """
    only_one = int(np.count_nonzero(ours & ~theirs)), int(np.count_nonzero(theirs & ~ours))
    n, fewer = sum(only_one), min(only_one)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(fewer + 1)
    log_ways = log_factorials[n] - log_factorials[k] - log_factorials[n - k]
    return float(min(1.0, 2 * np.exp(log_ways - n * np.log(2)).sum()))


def paired_bootstrap(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], *, replicates: int = 1000, seed: int = 0
) -> Interval:
    """Return by how much our accuracy is above theirs on the same rows, with its percentile bootstrap interval.

    Rows are resampled as pairs: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    All that a resample needs to tell is how many of its n rows one head alone has right, and those counts are
    multinomial: they are drawn instead of the rows.

    Parameters
    ----------
    ours, theirs
        Whether each head is right on each row, shapes (n,), n at least 1.
    replicates
        Number of resamples.
    seed
        What they follow from.

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
    """Return a number with the interval between the 2.5 and 97.5 percentiles of its resamples, widened to hold it."""
    low, high = (float(each) for each in np.percentile(resampled, _PERCENTILES))
    return Interval(value, min(low, value), max(high, value))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Return p-values, in the order given, adjusted for how many they are.

    Who takes all that are then below 0.05 for differences errs at all in at most 5 % of cases. The method is that of
    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979),
    65-70.

    Examples
    --------
    >>> [round(each, 9) for each in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return tuple(adjusted)
