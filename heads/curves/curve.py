"""The use case ``curve``: accuracy against the number of labels."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.images.classes import class_warnings
from heads.artifact.record import TrainingGroups
from heads.catalog import head_spec, make_head
from heads.curves.forecasting import FEWEST_SIZES, Forecast, intervals_and_forecast
from heads.errors import ParameterError, TrainingError
from heads.evaluation.intervals import few_groups, group_numbers
from heads.notices import Code, Notice, to_dicts
from heads.rows import first_not_finite
from heads.splits import (
    DEFAULT_HOLDOUT,
    Holdout,
    kept_together,
    same_content,
    together_numbers,
    torn_files,
    torn_groups,
    training_rows,
    without_views,
)
from heads.training import feature_tap, require_rows, require_weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.evaluation.intervals import Interval
    from heads.parameters import Value
    from heads.rows import Targets

DEFAULT_HEAD = "logreg"  # it is solved to convergence at every size, where epochs would be fewer steps with fewer rows
_FEWEST_ROWS, _ROWS_PER_CLASS, _MOST_SIZES = 10, 2, 8
_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The accuracy of heads that were trained on n rows.

    Parameters
    ----------
    n
        Number of training rows.
    accuracy
        Mean accuracy of the runs, with its 95 % interval; see `intervals_and_forecast`.
    runs
        Accuracy of each run; one run if all training rows are used.
    """

    n: int
    accuracy: Interval
    runs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Accuracy against the number of training rows.

    Parameters
    ----------
    points
        Fewest rows first; the last one has all training rows.
    forecast
        For twice as many; None if there are too few points.
    head, tap, params
        What was trained: its name, the layer, and the value of each of its parameters.
    classes
        The names of the classes.
    n_judged
        Number of validation rows, the same ones for all points.
    repeats, seed
        What was asked for.
    baseline_accuracy
        The majority baseline: accuracy of always predicting the most frequent class of the training rows.
    warnings
        What the user must know.
    groups
        The groups that were kept together; None if there were none.

    Examples
    --------
    >>> curve = heads.learning_curve(cache, "centroid", tap="features", repeats=2)
    >>> curve.to_dict()["head"]
    'centroid'
    """

    points: tuple[CurvePoint, ...]
    forecast: Forecast | None
    head: str
    tap: str
    params: Mapping[str, Value]
    classes: tuple[str, ...]
    n_judged: int
    repeats: int
    seed: int
    baseline_accuracy: float
    warnings: tuple[Notice, ...]
    groups: TrainingGroups | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "points": [asdict(point) | {"runs": list(point.runs)} for point in self.points],
            "forecast": asdict(self.forecast) if self.forecast else None,
            "head": self.head,
            "tap": self.tap,
            "params": dict(self.params),
            "classes": list(self.classes),
            "n_judged": self.n_judged,
            "repeats": self.repeats,
            "seed": self.seed,
            "baseline_accuracy": self.baseline_accuracy,
            "groups": self.groups and asdict(self.groups),
            "warnings": to_dicts(self.warnings),
        }

    def _repr_html_(self) -> str:
        from heads.report import Table
        from heads.report.html import fragment

        rows = [(f"{point.n:,}", *_texts(point.accuracy)) for point in self.points]
        if self.forecast:
            rows.append((f"{self.forecast.n:,} (forecast)", *_texts(self.forecast.accuracy)))
        caption = f"Accuracy of {self.head} on {self.n_judged:,} rows against the number of training rows"
        return fragment((Table(("rows", "accuracy", "from", "to"), tuple(rows), caption), *map(str, self.warnings)))


def _texts(accuracy: Interval) -> tuple[str, str, str]:
    return f"{accuracy.value:.4f}", f"{accuracy.low:.4f}", f"{accuracy.high:.4f}"


def _ignore(done: int, total: int, what: str) -> None:
    """Ignore progress."""


def learning_curve(
    cache: FeatureCache,
    head: str = DEFAULT_HEAD,
    *,
    tap: str | None = None,
    params: Mapping[str, object] | None = None,
    repeats: int = 5,
    seed: int = 0,
    holdout: float = DEFAULT_HOLDOUT,
    progress: Callable[[int, int, str], object] = _ignore,
) -> LearningCurve:
    """Train a head on increasing numbers of training rows and validate each on the same valid rows.

    The rows are those of `heads.train`; the test split is not used. Sizes are n, n/2, n/4, … down to two rows a
    class and ten in all, at most eight. A run draws its rows anew, with like shares of the classes and at least one row
    of each; within a run the rows of a size are among those of the next, so that what doubling does is not blurred by
    other rows. Which rows they are follows from contents and seed, not from their order. All n rows are one draw, which
    is trained on once.

    Of rows in groups (`featurecache.FeatureCache.with_groups`), whole groups are drawn: sizes are halves of the number
    of groups, and the n of a point is the mean number of rows of its runs.

    Parameters
    ----------
    cache
        The features.
    head, params
        Its name in the catalogue, and its parameters. Run r has the seed ``seed + r``.
    tap
        The layer whose features it takes; if not given, the last one below the network's own outputs.
    repeats
        Number of runs, at least 1.
    seed
        What the drawn rows follow from, and the heads' random choices, and the rows held out.
    holdout
        The part of the training rows that is held out for validation where the cache has no valid split, chosen by
        content.
    progress
        Called with the number of trainings that are done, that of all, and ``"training heads"``.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter does not exist or is out of range.
    TrainingError
        If the rows cannot train or validate a head, or a training fails.

    Examples
    --------
    >>> curve = heads.learning_curve(cache, "centroid", tap="features", repeats=2)
    >>> [point.n for point in curve.points]
    [16, 32]
    """
    if repeats < 1:
        raise ParameterError(f"repeats is {repeats}, expected at least 1")
    spec = head_spec(head)
    values = spec.values(params or {})
    make_head(head, seed=seed, **values)
    features = without_views(cache.features(feature_tap(cache, spec, tap)))
    if features.weights is not None:
        require_weighted(spec)
    train, valid = _rows(features, Holdout(holdout, seed))
    units = None if train.groups is None else group_numbers(kept_together(train))
    n_units = len(train) if units is None else int(units.max()) + 1
    counts = sizes_of(n_units, len(np.unique(train.y)), "row" if units is None else "group")
    trainings = _Trainings(train, valid, head, values, seed)
    correct: list[tuple[int, int, NDArray[np.bool_]]] = []
    total = repeats * (len(counts) - 1) + 1
    for run in range(repeats):
        drawn = drawn_order(train, seed, run, units)
        ends = np.arange(1, len(train) + 1) if units is None else np.flatnonzero(np.diff(units[drawn], append=-1)) + 1
        for count in counts if run == 0 else counts[:-1]:
            progress(len(correct), total, "training heads")
            size = int(ends[count - 1])
            correct.append((count, size, trainings.correct(np.sort(drawn[:size]), run)))
    progress(total, total, "training heads")
    matrices = [np.array([each for of, _, each in correct if of == count]) for count in counts]
    sizes = [round(np.mean([size for of, size, _ in correct if of == count])) for count in counts]
    intervals, forecast = intervals_and_forecast(sizes, matrices, seed=seed, groups=valid.groups)
    runs = [tuple(matrix.mean(axis=1).tolist()) for matrix in matrices]
    return LearningCurve(
        points=tuple(map(CurvePoint, sizes, intervals, runs)),
        forecast=forecast,
        head=head,
        tap=features.tap,
        params=MappingProxyType(values),
        classes=features.classes,
        n_judged=len(valid),
        repeats=repeats,
        seed=seed,
        baseline_accuracy=float(np.mean(valid.y == np.bincount(train.y).argmax())),
        warnings=(*_notes(train, valid, forecast, repeats, trainings.warnings), *_falling(sizes, intervals)),
        groups=TrainingGroups.counted(cache.group_column, train, valid),
    )


def _falling(sizes: Sequence[int], intervals: Sequence[Interval]) -> Iterator[Notice]:
    """Yield a warning if a smaller training set scored significantly higher than the full one."""
    best = max(range(len(sizes)), key=lambda position: intervals[position].value)
    if intervals[-1].value < intervals[best].low:
        yield Notice(
            Code.FEWER_ROWS_BETTER,
            f"with {sizes[best]:,} rows the head was better than with all {sizes[-1]:,}: other parameters, or another "
            "head, will use the labels better",
        )


def _rows(features: FeatureSet, rule: Holdout) -> tuple[FeatureSet, FeatureSet]:
    """Return the training and the validation rows, both ordered by path, as they are in a cache."""
    train, valid = training_rows(features, rule)
    require_rows(features, train)
    if not len(valid):
        raise TrainingError(
            f"there are no rows to validate on: all {len(train)} labelled rows in use train; "
            "put images into a valid split, or hold more out"
        )
    for rows in (train, valid):
        row = first_not_finite(rows.X)
        if row is not None:
            raise TrainingError(f"{rows.paths[row]}: holds features that are not finite; extract them again", row)
    return _by_path(train), _by_path(valid)


def _by_path(rows: FeatureSet) -> FeatureSet:
    order = np.argsort(rows.paths.astype(str), kind="stable")
    return rows if np.all(np.diff(order) > 0) else rows.take(order)


def sizes_of(n: int, k: int, unit: str = "row") -> tuple[int, ...]:
    """Return the numbers of training rows to look at, ascending: n, n/2, n/4, …, for n rows of k classes.

    Groups are counted in the place of rows if these are the ``unit``.

    Raises
    ------
    TrainingError
        If there are too few rows for two sizes.

    Examples
    --------
    >>> sizes_of(1000, 2)
    (15, 31, 62, 125, 250, 500, 1000)
    """
    fewest = max(_FEWEST_ROWS, _ROWS_PER_CLASS * k)
    sizes = [n >> halvings for halvings in range(_MOST_SIZES) if n >> halvings >= fewest]
    if len(sizes) < 2:  # noqa: PLR2004
        raise TrainingError(
            f"{n} training {unit}s of {k} classes; a learning curve needs at least {2 * fewest}, so that half of them "
            "can train as well"
        )
    return tuple(reversed(sizes))


def drawn_order(rows: FeatureSet, seed: int, run: int, units: Targets | None = None) -> Targets:
    """Return row numbers, shape (n,), in an order of which every beginning has like shares of the classes.

    The rows of a class are ordered by a hash of their content, the seed and the run. The first of each class come first
    of all; the others are interleaved in proportion.

    Parameters
    ----------
    rows
        The rows.
    seed, run
        What the order follows from.
    units
        Numbers of groups that stay together, shape (n,): they are ordered as rows are, each by the first of its
        contents and its most frequent class. The first with any row of a class come first of all. None for single rows.
    """
    if units is not None:
        return _drawn_groups(rows, seed, run, units)
    drawn = np.array([hashlib.sha256(f"{seed}:{run}:{sha256}".encode()).hexdigest() for sha256 in rows.sha256])
    by_hash = np.lexsort((rows.paths.astype(str), drawn))
    places = np.empty(len(rows))
    for label in np.unique(rows.y):
        own = by_hash[rows.y[by_hash] == label]
        places[own] = (np.arange(len(own)) + 0.5) / len(own)
        places[own[0]] = 0
    return by_hash[np.argsort(places[by_hash], kind="stable")]


def _drawn_groups(rows: FeatureSet, seed: int, run: int, units: Targets) -> Targets:
    of_class = np.zeros((int(units.max()) + 1, len(rows.classes)), np.intp)
    np.add.at(of_class, (units, rows.y), 1)
    firsts = np.full(len(of_class), "~" * 64, dtype=object)  # above all hashes
    np.minimum.at(firsts, units, rows.sha256)
    hashed = [hashlib.sha256(f"{seed}:{run}:{first}".encode()).hexdigest() for first in firsts]
    by_hash = np.argsort(np.array(hashed), kind="stable")
    frequent, places = of_class.argmax(axis=1), np.empty(len(of_class))
    for label in np.unique(frequent):
        own = by_hash[frequent[by_hash] == label]
        places[own] = (np.arange(len(own)) + 0.5) / len(own)
    for label in np.unique(rows.y):
        places[by_hash[np.argmax(of_class[by_hash, label] > 0)]] = 0
    rank = np.empty(len(places), np.intp)
    rank[by_hash[np.argsort(places[by_hash], kind="stable")]] = np.arange(len(places))
    return np.argsort(rank[units], kind="stable")


class _Trainings:
    """Trains one head after the other, on some rows each; what they warn of is kept, each notice once."""

    def __init__(self, train: FeatureSet, valid: FeatureSet, head: str, params: Mapping[str, Value], seed: int) -> None:
        self._train, self._valid = train, valid
        self._head, self._params, self._seed = head, params, seed
        self.warnings: dict[Notice, None] = {}

    def correct(self, rows: Targets, run: int) -> NDArray[np.bool_]:
        """Train a head on these rows; return whether it is right on each validation row, shape (m,)."""
        drawn = self._train if len(rows) == len(self._train) else self._train.take(rows)
        head = make_head(self._head, seed=(self._seed + run) % _SEEDS, **self._params)
        try:
            head.fit(
                drawn.X, drawn.y, sample_weight=drawn.weights, together=together_numbers(drawn), names=drawn.classes
            )
        except TrainingError as e:
            raise TrainingError(f"with {len(rows)} training rows: {e}") from e
        self.warnings |= dict.fromkeys(notice.about(f"with {len(rows)} training rows") for notice in head.warnings_)
        predicted = head.classes_[np.argmax(head.predict_proba(self._valid.X), axis=1)]
        return np.asarray(predicted == self._valid.y)


def _notes(
    train: FeatureSet, valid: FeatureSet, forecast: Forecast | None, repeats: int, warnings: Mapping[Notice, None]
) -> Iterator[Notice]:
    """Yield the notices for the user."""
    yield from class_warnings(train.classes)
    missing = [train.classes[label] for label in np.setdiff1d(np.arange(len(train.classes)), train.y)]
    unvalidated = [train.classes[label] for label in np.setdiff1d(np.arange(len(train.classes)), valid.y)]
    if missing:
        yield Notice(Code.CLASS_NOT_TRAINED, f"no training row is of the class {', '.join(missing)}")
    if unvalidated:
        yield Notice(Code.CLASS_NOT_EVALUATED, f"no valid row is of the class {', '.join(unvalidated)}")
    yield from same_content(valid, train)
    yield from torn_groups(valid.groups, train.groups)
    yield from torn_files(valid, train)
    yield from few_groups(valid.groups)
    if repeats == 1:
        message = "with one run, the intervals leave out the variation between draws of training rows; use more repeats"
        yield Notice(Code.ONE_RUN, message)
    if forecast is None:
        yield Notice(Code.NO_FORECAST, f"no forecast: a power law needs at least {FEWEST_SIZES} sizes")
    yield from warnings
