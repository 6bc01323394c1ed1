"""The thresholds of several labels: the probability from which on an image has each of them."""

import numpy as np
from numpy.typing import NDArray

from heads.rows import Floats, Labels


def best_thresholds(probabilities: Floats, y: Labels) -> tuple[float, ...]:
    """Return for each of k labels the threshold with the highest F1 on rows: probabilities (n, k), labels (n, k).

    Of equally good thresholds it is the one nearest to 0.5. It lies between two probabilities of rows, so that a row
    which differs by rounding is on the same side. It is 0.5 where no row has the label, or all have the same
    probability.

    Examples
    --------
    >>> best_thresholds(np.array([[0.1], [0.3], [0.4], [0.9]]), np.array([[0], [1], [1], [1]]))
    (0.2,)
    """
    return tuple(_best_threshold(probabilities[:, label], y[:, label] == 1) for label in range(y.shape[1]))


def _best_threshold(probabilities: Floats, has: NDArray[np.bool_]) -> float:
    values, places = np.unique(probabilities, return_inverse=True)
    if not has.any() or len(values) == 1:
        return 0.5
    candidates = np.array([0.0, *((values[:-1] + values[1:]) / 2)])  # all rows get the label, all but the lowest, ...
    found = np.bincount(places, has, minlength=len(values))[::-1].cumsum()[::-1]
    given = np.bincount(places, minlength=len(values))[::-1].cumsum()[::-1]
    f1 = 2 * found / (given + np.count_nonzero(has))
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(candidates[best[np.argmin(np.abs(candidates[best] - 0.5))]])
