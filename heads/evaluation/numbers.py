"""Evaluation of a head of numbers: a table of predictions, and all scores computed from it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import counted, number
from heads.evaluation.bootstrap import bootstrap_scores
from heads.evaluation.evaluate import Score
from heads.evaluation.intervals import OF_GROUPS, few_groups
from heads.evaluation.predictions import encodable
from heads.evaluation.selection import errors_name_images, rows_to_evaluate
from heads.notices import Code, Notice, to_dicts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.artifact import TrainedHead
    from heads.evaluation.intervals import Interval
    from heads.rows import Floats

_COLUMNS = ("path", "split", "true_number", "predicted_number")
_NAMES = {
    "r2": "R2",
    "mean_absolute_error": "mean absolute error",
    "root_mean_squared_error": "root mean squared error",
}
_STEPS = 10  # of one row for all scores


@dataclass(frozen=True, slots=True, eq=False)
class NumberPredictionsTable:
    """The number that a head predicts for each of n rows.

    Parameters
    ----------
    paths, splits
        Relative path and split of each image, shape (n,), `str` objects.
    true
        Shape (n,), float64; NaN for images without a label.
    predicted
        Shape (n,), float64.
    groups
        The group of each row, shape (n,); None if every row is its own.
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: Floats
    predicted: Floats
    groups: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.true)

    def __repr__(self) -> str:
        return f"<NumberPredictionsTable: {counted(len(self), 'row')}>"

    @property
    def errors(self) -> Floats:
        """The predicted number minus the true one, shape (n,); NaN for images without a label."""
        return self.predicted - self.true

    def to_csv(self) -> str:
        """Return the table as CSV text: ``path, split, true_number, predicted_number``; numbers read back exactly."""
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(_COLUMNS)
        for path, split, true, predicted in self._rows():
            writer.writerow([encodable(path), split, "" if true is None else true, predicted])
        return stream.getvalue()

    def to_jsonl(self) -> str:
        """Return the table as JSON lines, one object per row, with the keys of `to_csv`; null is no number."""
        return "".join(json.dumps(dict(zip(_COLUMNS, row, strict=True))) + "\n" for row in self._rows())

    @staticmethod
    def is_beginning(data: bytes) -> bool:
        """Return whether these bytes are the beginning of a file that `to_csv` gives."""
        return data.startswith(",".join(_COLUMNS).encode())

    def _rows(self) -> list[tuple[str, str, float | None, float]]:
        true = [None if np.isnan(each) else each for each in self.true.tolist()]
        return list(zip(self.paths.tolist(), self.splits.tolist(), true, self.predicted.tolist(), strict=True))


@dataclass(frozen=True, eq=False)  # no slots: a cached property keeps its value in the instance's dictionary
class NumbersEvaluation:
    """The scores of a head of numbers; ``docs/targets.md`` defines each score.

    Parameters
    ----------
    table
        The predictions for the labelled rows.
    values
        The scores, by key: ``r2`` (None if all true numbers are equal), ``mean_absolute_error`` and
        ``root_mean_squared_error``.
    baseline_error
        The mean absolute error of always predicting the mean of the training rows.
    split
        The split that was evaluated; None if it is not named.
    warnings
        Notices on rows that were left out, and on a head that is no better than the mean.
    """

    table: NumberPredictionsTable
    values: Mapping[str, float | None]
    baseline_error: float
    split: str | None
    warnings: tuple[Notice, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def n_groups(self) -> int | None:
        """The number of groups of the rows; None if every row is its own."""
        return None if self.table.groups is None else len(set(self.table.groups))

    @cached_property
    def intervals(self) -> Mapping[str, Interval | None]:
        """The 95 % bootstrap intervals of `values`, by key, computed on first access."""
        scores = partial(_scores, self.table.true, self.table.predicted)
        return bootstrap_scores(len(self), scores, self.values, steps=_STEPS * len(self), groups=self.table.groups)

    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them."""
        method = "bootstrap" if self.n_groups is None else OF_GROUPS
        return (
            *(
                Score(key, _NAMES[key], value, self.intervals[key], method if self.intervals[key] else "")
                for key, value in self.values.items()
            ),
            Score("baseline_error", "mean absolute error of the mean", self.baseline_error, None, ""),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all scores and their intervals, ready for JSON; undefined ones are None."""
        return {
            "target": "number",
            "n": len(self),
            "groups": self.n_groups,
            "split": self.split,
            **self.values,
            "baseline_error": self.baseline_error,
            "intervals": {
                name: each and {"low": each.low, "high": each.high} for name, each in sorted(self.intervals.items())
            },
            "warnings": to_dicts(self.warnings),
        }

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        scores = tuple(
            (score.label, number(score.value), score.interval.range_text() if score.interval else "")
            for score in self.scores()
        )
        table = Table(("score", "value", "95 % interval"), scores, caption=f"{len(self):,} rows")
        return fragment([*map(str, self.warnings), table])


def predict_numbers_table(head: TrainedHead, features: FeatureSet) -> NumberPredictionsTable:
    """Return the number that a head predicts for every row, labelled or not.

    Raises
    ------
    MismatchError
        If the head may not be used on these features, or predicts no number.
    EvaluationError
        If a row's features are not finite; names the image.
    """
    features = head.in_own_classes(features)
    with errors_name_images(features):
        predicted = head.predict_numbers(features.X)
    return NumberPredictionsTable(features.paths, features.splits, features.y, predicted, features.groups)


def evaluate_numbers(
    head: TrainedHead, features: FeatureSet, *, cache: FeatureCache | None = None
) -> NumbersEvaluation:
    """Evaluate a head of numbers on labelled rows. Rows without a label are left out; a warning counts them.

    Parameters
    ----------
    head
        A trained head of the target ``"number"``.
    features
        The rows, as `heads.select_rows` gives them.
    cache
        The cache of the rows. If it is given, rows with the content of training rows are found, too.

    Raises
    ------
    EvaluationError
        If no row has a label, or a row's features are not finite.
    MismatchError
        If the head was trained on another recipe, tap or target.
    ManifestError
        If a label is no number.

    Examples
    --------
    >>> sizes = {path: str(int(path[-6:-4])) for path in cache.paths}
    >>> measured = cache.with_labels(sizes)
    >>> head = heads.train(measured, "ridge", tap="features", target="number")
    >>> found = heads.evaluate_numbers(head, heads.select_rows(measured, head, "valid"))
    >>> found.values["r2"] > 0.9
    True
    """
    head.require_target("number", "evaluate_numbers")
    rows, notes = rows_to_evaluate(head, features, cache)
    table = predict_numbers_table(head, rows)
    scores = _scores(table.true, table.predicted, np.ones((len(table), 1)))
    values = {name: None if np.isnan(value[0]) else float(value[0]) for name, value in scores.items()}
    mean = head.number_range.mean if head.number_range else float(table.true.mean())
    baseline = float(np.abs(table.true - mean).mean())
    notes += few_groups(table.groups)
    if values["r2"] is None:
        notes.append(Notice(Code.UNDEFINED_SCORE, f"all rows have the number {table.true[0]:g}: R2 is undefined"))
    if (values["mean_absolute_error"] or 0.0) > baseline:
        message = "the head is worse than the baseline, which always predicts the mean of the training rows"
        notes.append(Notice(Code.BELOW_BASELINE, message))
    return NumbersEvaluation(table, values, baseline, features.split, tuple(notes))


def _scores(true: Floats, predicted: Floats, weights: Floats) -> dict[str, Floats]:
    """Return the scores for weights of rows, shape (n, r), as scikit-learn defines them; nan where undefined."""
    total = weights.sum(axis=0)
    errors, centred = predicted - true, true - true.mean()
    squares = np.square(errors) @ weights
    spread = np.square(centred) @ weights - np.square(centred @ weights) / total
    scale = max(float(np.abs(true).max()), 1e-300)
    constant = spread <= 1e-12 * scale**2 * total  # nothing but rounding
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(constant, np.nan, 1 - squares / spread)
    return {
        "r2": r2,
        "mean_absolute_error": np.abs(errors) @ weights / total,
        "root_mean_squared_error": np.sqrt(squares / total),
    }
