"""Intervals of a learning curve, and its extrapolation by a power law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.evaluation.intervals import Interval, drawn_groups, group_numbers, proportion, wilson
from heads.rows import row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from heads.rows import Floats

FEWEST_SIZES = 3  # that a power law is fitted to
_FITTED_RANGE = 8  # it is fitted from n / 8 rows on
_REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Forecast:
    """What accuracy a power law leads to expect with n training rows: an extrapolation.

    Parameters
    ----------
    n
        Number of training rows, twice those that there are.
    accuracy
        What is to be expected, with its 95 % interval.
    gain
        By how much that is more than with the rows that there are, with its 95 % interval; never below 0.
    """

    n: int
    accuracy: Interval
    gain: Interval


def intervals_and_forecast(
    sizes: Sequence[int],
    correct: Sequence[NDArray[np.bool_]],
    *,
    seed: int = 0,
    groups: NDArray[np.object_] | None = None,
) -> tuple[tuple[Interval, ...], Forecast | None]:
    """Return the mean accuracy at each size with its 95 % interval, and what is to be expected of twice the rows.

    Validation rows and runs are both drawn again, 1,000 times, the same ones for all sizes. Where there is one run
    alone, the last size, a single run of the size before says how much another draw would change: halves of a sample
    differ as much among each other as such samples do (P. J. McCarthy, "Pseudo-replication: half samples", Review of
    the International Statistical Institute 37 (1969), 239-264). Intervals are from the 2.5th to the 97.5th percentile,
    and never narrower than Wilson's of one head, for heads that are always right leave nothing to draw.

    The forecast extends the curve by a power law, error = a n^-b with b >= 0. b is fitted to the logarithms of n and of
    (wrong + 1/2) / (m + 1) over all sizes from an eighth of the largest on, in each of the 1,000 draws. So it is never
    below the measured accuracy. Such laws fit
    well where there are enough rows (J. Hestness et al., "Deep learning scaling is predictable, empirically",
    arXiv:1712.00409, 2017; R. L. Figueroa et al., "Predicting sample size required for classification performance",
    BMC Medical Informatics and Decision Making 12:8, 2012). It has no term for an error that more rows do not reduce.

    Parameters
    ----------
    sizes
        Numbers of training rows, ascending.
    correct
        For each size whether each run is right on each validation row, shape (runs, m); the last size may have one
        run, all others have equally many.
    seed
        What is drawn follows from it.
    groups
        The group of each validation row, shape (m,): groups are drawn again in the place of rows, and intervals are
        never narrower than that of one head by `heads.evaluation.intervals.proportion`. None if every row is its own.

    Returns
    -------
    tuple
        An interval for each size, and the forecast; None with fewer than three sizes from n / 8 on.
    """
    m = correct[0].shape[1]
    values = np.array([matrix.mean() for matrix in correct])
    drawn = np.concatenate(list(_resampled(correct, np.random.default_rng(seed), groups)))
    least = [None if groups is None else proportion(matrix[0], groups) for matrix in correct]
    intervals = tuple(map(_interval, values, drawn.T, [m] * len(values), least))
    fitted = np.array(sizes) >= sizes[-1] // _FITTED_RANGE
    if np.count_nonzero(fitted) < FEWEST_SIZES:
        return intervals, None
    target, n = 2 * sizes[-1], np.array(sizes)[fitted]
    expected = float(power_law(n, values[np.newaxis, fitted], m, target)[0])
    redrawn = power_law(n, drawn[:, fitted], m, target)
    gain, gains = max(0.0, expected - float(values[-1])), np.maximum(redrawn - drawn[:, -1], 0)
    low, high = np.percentile(gains, [2.5, 97.5])
    gained = Interval(gain, float(min(low, gain)), float(max(high, gain)))
    return intervals, Forecast(target, _interval(expected, redrawn, m, least[-1]), gained)


def _resampled(
    correct: Sequence[NDArray[np.bool_]], generator: np.random.Generator, groups: NDArray[np.object_] | None
) -> Iterator[Floats]:
    """Yield accuracies of heads whose runs and rows are drawn anew, some draws at a time, shape (draws, sizes)."""
    m, repeats = correct[0].shape[1], len(correct[0])
    stacked = np.concatenate(correct).astype(np.float32)
    numbers = np.arange(m) if groups is None else group_numbers(groups)
    count = int(numbers.max()) + 1
    ends = np.cumsum([len(matrix) for matrix in correct])[:-1]
    for some in row_blocks(np.broadcast_to(np.float32(), (_REPLICATES, m))):
        draws = some.stop - some.start
        weights = np.concatenate([part.astype(np.float32) for part in drawn_groups(generator, count, draws)])[
            :, numbers
        ]
        rows = weights.sum(axis=1, dtype=np.float64)[:, np.newaxis]
        accuracies = np.split((weights @ stacked.T).astype(np.float64) / rows, ends, axis=1)
        runs = generator.integers(0, repeats, (draws, repeats))
        means = [
            np.take_along_axis(correct, runs, axis=1).mean(axis=1) if correct.shape[1] > 1 else correct[:, 0]
            for correct in accuracies
        ]
        if repeats > 1 and accuracies[-1].shape[1] == 1:
            halves = accuracies[-2]
            spread = np.take_along_axis(halves, runs[:, :1], axis=1)[:, 0] - halves.mean(axis=1)
            means[-1] = np.clip(means[-1] + spread * np.sqrt(repeats / (repeats - 1)), 0, 1)
        yield np.stack(means, axis=1)


def power_law(n: NDArray[np.integer[Any]], accuracies: Floats, m: int, target: int) -> Floats:
    """Return the accuracies that a power law of the error leads to with ``target`` rows, shape (draws,).

    Parameters
    ----------
    n
        Numbers of rows, shape (s,).
    accuracies
        On m rows, shape (draws, s).
    m, target
        See `intervals_and_forecast`.
    """
    wrong = (1 - accuracies) * m + 0.5
    x = np.log(n) - np.log(n).mean()
    slopes = np.minimum(np.log(wrong) @ x / (x @ x), 0)
    expected = wrong[:, -1] * (target / n[-1]) ** slopes
    return np.asarray(1 - np.maximum(expected - 0.5, 0) / m)


def _interval(value: float, drawn: Floats, m: int, least: Interval | None = None) -> Interval:
    """Return a value with the percentiles of what was drawn.

    The interval is no narrower than Wilson's of m rows, or, if it is given, than another one about its own value.
    """
    low, high = np.percentile(drawn, [2.5, 97.5])
    one_head = wilson(round(value * m), m)
    below, above = one_head.low, one_head.high
    if least is not None:
        below, above = max(0.0, value - least.value + least.low), min(1.0, value - least.value + least.high)
    return Interval(float(value), float(min(value, low, below)), float(max(value, high, above)))
