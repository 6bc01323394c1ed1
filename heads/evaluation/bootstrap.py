"""Percentile bootstrap intervals of all scores, many resamples at a time.

A resample is stored as row counts; all scores are computed from them. A score that is a sum over rows is a product of a
sparse matrix with the counts of many resamples. For scores of rankings, the rows are sorted by probability once.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heads.evaluation.intervals import Interval, drawn_groups, group_numbers, percentile_interval
from heads.evaluation.metrics import CALIBRATION_BINS, calibration_bins, ranked_classes
from heads.rows import Floats, Labels

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RANKED = ("roc_auc", "average_precision")
SUMMED = (
    "balanced_accuracy",
    "log_loss",
    "calibration_error",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "weighted_precision",
    "weighted_recall",
    "weighted_f1",
)
NAMES = (*SUMMED, *RANKED)

_WEIGHTS = 5_000_000  # held at a time; 40 MB
_SORTED = 500_000  # sums over ranks that are held at a time
_DRAWN = 16  # resamples drawn at a time
_FEWEST = 200  # resamples; of fewer, less than five would lie beyond either percentile
_WORK, _MOST_WORK = 2e9, 1e10  # steps that all resamples may take, and that the fewest may
_STEPS = 10  # of one row for all numbers that are sums
_CONSTANT = 1e-9  # range of resamples, of numbers about 1, that differ by nothing but rounding


def bootstrap(
    true: Labels,
    probabilities: Floats,
    *,
    values: Mapping[str, float | None] = MappingProxyType({}),
    groups: NDArray[np.object_] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Return the 95 % percentile bootstrap interval over rows of every number in `NAMES`.

    The method is that of B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. A
    resample without a row of some class counts for the averages over the classes that it has, and is left out where a
    number is then undefined.

    There are fewer resamples where ``replicates`` of them would take more than 2e9 steps, but at least 200, and none
    where 200 would take more than 1e10; steps are n * k for ROC AUC and average precision, and 10 * n for the rest.

    Parameters
    ----------
    true
        Class indices, shape (n,), n at least 1.
    probabilities
        Shape (n, k), float64.
    values
        The numbers themselves, where they are known; None is a number that is undefined. The others are computed.
    groups
        The group of each row, shape (n,): groups are drawn with all of their rows. None to draw rows.
    replicates
        Number of resamples.
    seed
        Seed of the random generator.

    Returns
    -------
    dict
        For each name its interval. None where the number is undefined, where it is in half of the resamples or more,
        where the work would be too much, or where all resamples agree: they then tell nothing of how sure one is.
    """
    n, k = probabilities.shape
    known = dict(values) if values.keys() >= set(NAMES) else _at_weight_one(true, probabilities) | dict(values)
    affordable = {"summed": _affordable(replicates, _STEPS * n), "ranked": _affordable(replicates, n * k)}
    resamples: dict[str, list[Floats]] = {name: [] for name in NAMES}
    done = 0
    for weights in _resamples(np.random.default_rng(seed), n, k, groups, max(affordable.values())):
        summed, ranked = (weights[:, : max(0, affordable[kind] - done)] for kind in ("summed", "ranked"))
        scores = summed_scores(true, probabilities, summed) | ranked_scores(true, probabilities, ranked)
        for name, resampled in scores.items():
            resamples[name].append(resampled)
        done += weights.shape[1]
    return {
        name: _interval(known[name], np.concatenate(parts) if parts else np.empty(0))
        for name, parts in resamples.items()
    }


def bootstrap_scores(
    n: int,
    scores: Callable[[Floats], Mapping[str, Floats]],
    values: Mapping[str, float | None],
    *,
    steps: int,
    groups: NDArray[np.object_] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Return the 95 % percentile bootstrap interval over rows of any scores; see `bootstrap`.

    Parameters
    ----------
    n
        Number of rows.
    scores
        Returns each score, shape (r,), nan where undefined, for weights of rows, shape (n, r).
    values
        The scores of the rows themselves; None is undefined.
    steps
        About how many steps one resample takes.
    groups, replicates, seed
        As in `bootstrap`.
    """
    resamples: dict[str, list[Floats]] = {name: [] for name in values}
    for weights in _resamples(np.random.default_rng(seed), n, 1, groups, _affordable(replicates, steps)):
        for name, resampled in scores(weights).items():
            resamples[name].append(resampled)
    return {
        name: _interval(value, np.concatenate(resamples[name]) if resamples[name] else np.empty(0))
        for name, value in values.items()
    }


def summed_scores(true: Labels, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return the numbers of `SUMMED` for weights of rows, shape (n, r); each has shape (r,), nan where undefined.

    A class whose rows all weigh 0 is left out of the averages, as scikit-learn leaves out labels that do not occur.
    """
    k = probabilities.shape[1]
    sums = _indicators(true, probabilities) @ weights
    support, guesses, hits = sums[:k], sums[k : 2 * k], sums[2 * k : 3 * k]
    total = support.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is what is undefined
        loss = sums[-1] / total if k > 1 else np.full(len(total), np.nan)
        scores = {"log_loss": loss, "calibration_error": np.abs(sums[3 * k : -1]).sum(axis=0) / total}
        per_class = {"precision": hits / guesses, "recall": hits / support, "f1": 2 * hits / (support + guesses)}
    present = support > 0
    for name, values in per_class.items():
        of_present = np.where(present, values, 0.0)
        scores[f"macro_{name}"] = of_present.sum(axis=0) / np.count_nonzero(present, axis=0)
        scores[f"weighted_{name}"] = (of_present * support).sum(axis=0) / total
    scores["balanced_accuracy"] = scores["macro_recall"]
    return scores


def ranked_scores(true: Labels, probabilities: Floats, weights: Floats) -> dict[str, Floats]:
    """Return the numbers of `RANKED` for weights of rows, shape (n, r); each has shape (r,), nan where undefined."""
    k, r = probabilities.shape[1], weights.shape[1]
    means = np.zeros((len(RANKED), r)) if k > 1 else np.full((len(RANKED), r), np.nan)
    if k > 1 and r:
        classes = ranked_classes(k)
        for class_index in classes:
            means += areas(true == class_index, probabilities[:, class_index], weights) / len(classes)
    return dict(zip(RANKED, means, strict=True))


def _indicators(true: Labels, probabilities: Floats) -> "csr_array":
    """Return the matrix whose product with weights holds all sums that `summed_scores` needs, shape (3 k + 16, n).

    Its rows: rows of each class, rows predicted as each class, rows of each class that were found, for each bin of
    calibration how many more were right than was claimed, and the loss.
    """
    from scipy.sparse import csr_array

    n, k = probabilities.shape
    predicted, confidence, rows = probabilities.argmax(axis=1), probabilities.max(axis=1), np.arange(n)
    right, epsilon = predicted == true, np.finfo(np.float64).eps
    own = probabilities[rows, true] / probabilities.sum(axis=1)
    values = (np.ones(n), np.ones(n), right, right - confidence, -np.log(np.clip(own, epsilon, 1 - epsilon)))
    bins = 3 * k + calibration_bins(confidence)
    places = (true, k + predicted, 2 * k + true, bins, np.full(n, 3 * k + CALIBRATION_BINS))
    at = (np.concatenate(places), np.tile(rows, len(places)))
    return csr_array((np.concatenate(values), at), shape=(3 * k + CALIBRATION_BINS + 1, n))


def areas(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return the areas under the ROC and the precision-recall curve of one class, shape (2, r).

    Both only ask, at each score that a positive row has, how much weight of either kind has no lower score.
    """
    if not positive.any():
        return np.full((len(RANKED), weights.shape[1]), np.nan)
    order = np.argsort(-scores, kind="stable")
    positive = positive[order]
    group = np.concatenate([[0], np.cumsum(np.diff(scores[order]) != 0)])  # rows with equal scores count together
    met = np.bincount(group, weights=positive) > 0
    rank: NDArray[np.intp] = (np.cumsum(met) - met)[group]  # of the first group from here on that has a positive row
    m, tied = int(np.count_nonzero(met)), met[group] & ~positive
    matrix = _stacked(m, len(order), [(rank[rows], order[rows]) for rows in (positive, ~positive & (rank < m), tied)])
    total, areas = weights.sum(axis=0), np.empty((len(RANKED), weights.shape[1]))
    step = max(1, _SORTED // m)
    for start in range(0, weights.shape[1], step):
        some = slice(start, start + step)
        found, missed, equal = np.split(matrix @ np.ascontiguousarray(weights[:, some]), 3)
        above, false = found.cumsum(axis=0), missed.cumsum(axis=0)
        positives = above[-1]
        negatives = total[some] - positives
        with np.errstate(invalid="ignore"):  # 0 / 0 is what is undefined
            areas[0, some] = (found * (negatives - false + equal / 2)).sum(axis=0) / (positives * negatives)
            precision = above / np.maximum(above + false, np.finfo(np.float64).tiny)
            areas[1, some] = (found * precision).sum(axis=0) / np.where(negatives > 0, positives, np.nan)
    return areas


def _stacked(m: int, n: int, parts: list[tuple[NDArray[np.intp], NDArray[np.intp]]]) -> "csr_array":
    """Return matrices (m, n) below each other, each of ones at its (rows, columns)."""
    from scipy.sparse import csr_array

    rows = np.concatenate([part * m + at for part, (at, _) in enumerate(parts)])
    columns = np.concatenate([at for _, at in parts])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(parts) * m, n))


def _resamples(
    generator: np.random.Generator, n: int, k: int, groups: NDArray[np.object_] | None, replicates: int
) -> Iterator[Floats]:
    """Yield row counts of resamples of rows, or of groups if there are any, as `_weights`."""
    if groups is None:
        return _weights(generator, n, k, replicates)
    return _group_weights(generator, group_numbers(groups), k, replicates)


def _weights(generator: np.random.Generator, n: int, k: int, replicates: int) -> Iterator[Floats]:
    """Yield row counts of resamples, shapes (n, r), ``replicates`` resamples in all.

    The next iteration overwrites the array that was yielded.
    """
    most = min(replicates, max(1, _WEIGHTS // max(n, 3 * k)))
    room = np.empty(n * most)
    for start in range(0, replicates, max(1, most)):
        r = min(most, replicates - start)
        weights = room[: n * r].reshape(n, r)
        for first in range(0, weights.shape[1], _DRAWN):
            part = weights[:, first : first + _DRAWN]
            part[:] = np.array(
                [np.bincount(generator.integers(0, n, n), minlength=n) for _ in range(part.shape[1])], np.float64
            ).T
        yield weights


def _group_weights(
    generator: np.random.Generator, numbers: NDArray[np.intp], k: int, replicates: int
) -> Iterator[Floats]:
    """Yield row counts of resamples of groups, as `_weights`; ``numbers`` are those of the rows' groups, shape (n,)."""
    most = max(1, _WEIGHTS // max(len(numbers), 3 * k))
    for counts in drawn_groups(generator, int(numbers.max()) + 1, replicates):
        for start in range(0, len(counts), most):
            yield np.ascontiguousarray(counts[start : start + most, numbers].T)


def _at_weight_one(true: Labels, probabilities: Floats) -> dict[str, float | None]:
    """Return the scores of the rows themselves, without resampling."""
    once = np.ones((len(true), 1))
    scores = summed_scores(true, probabilities, once) | ranked_scores(true, probabilities, once)
    return {name: None if np.isnan(values[0]) else float(values[0]) for name, values in scores.items()}


def _affordable(replicates: int, steps: int) -> int:
    """Return the number of resamples if each takes ``steps`` steps; 0 if even the fewest take too many."""
    fewest = min(replicates, _FEWEST)
    if fewest * steps > _MOST_WORK:
        return 0
    return int(min(replicates, max(fewest, _WORK // steps)))


def _interval(value: float | None, resampled: Floats) -> Interval | None:
    """Return the interval of a score; None if too few resamples define it or all of them agree."""
    defined = resampled[~np.isnan(resampled)]
    if value is None or 2 * len(defined) <= len(resampled):
        return None
    if np.ptp(defined) <= _CONSTANT * max(1.0, np.abs(defined).max()):
        return None
    return percentile_interval(value, defined)
