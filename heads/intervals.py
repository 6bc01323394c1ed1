"""How sure one is of a number: 95 % intervals, and tests of differences on the same rows."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # the 97.5 % point of the standard normal distribution


@dataclass(frozen=True, slots=True)
class Interval:
    """A proportion with its 95 % interval; ``low <= value <= high``, all from 0 to 1."""

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
