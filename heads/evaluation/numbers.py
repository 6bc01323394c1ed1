"""Evaluation of a head of numbers: all scores computed from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from heads.evaluation.bootstrap import bootstrap_scores
from heads.evaluation.intervals import few_groups
from heads.evaluation.number_predictions import NumberPredictionsTable
from heads.evaluation.scores import BaseEvaluation, Score, unweighted
from heads.evaluation.selection import errors_name_images, rows_to_evaluate
from heads.notices import Code, Notice

if TYPE_CHECKING:
    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead
    from heads.evaluation.intervals import Interval
    from heads.rows import Floats

_STEPS = 10  # of one row for all scores


@dataclass(frozen=True, eq=False, kw_only=True)
class NumbersEvaluation(BaseEvaluation[NumberPredictionsTable]):
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

    values: Mapping[str, float | None]
    baseline_error: float

    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them."""
        baseline = Score("baseline_error", "baseline error", self.baseline_error, None, "")
        return (*self._bootstrapped(self.values), baseline)

    def _bootstrap(self) -> Mapping[str, Interval | None]:
        scores = partial(_scores, self.table.true, self.table.predicted)
        return bootstrap_scores(len(self), scores, self.values, steps=_STEPS * len(self), groups=self.table.groups)

    def _values(self) -> dict[str, Any]:
        return {"target": "number", **self.values, "baseline_error": self.baseline_error}


def predict_numbers_table(head: TrainedHead, features: FeatureSet) -> NumberPredictionsTable:
    """Return the number that a head predicts for every row, labelled or not.

    Raises
    ------
    MismatchError
        If the head may not be used on these features, or predicts no number.
    EvaluationError
        If a row's features are not finite; names the image.
    """
    head.require_target("number", "predict_numbers_table")
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
    values = unweighted(partial(_scores, table.true, table.predicted), len(table))
    mean = head.number_range.mean if head.number_range else float(table.true.mean())
    baseline = float(np.abs(table.true - mean).mean())
    notes += few_groups(table.groups)
    if values["r2"] is None:
        notes.append(Notice(Code.UNDEFINED_SCORE, f"all rows have the number {table.true[0]:g}: R2 is undefined"))
    if (values["mean_absolute_error"] or 0.0) > baseline * (1 + 1e-9):  # more than rounding
        message = "the head is worse than the baseline error: that of always predicting the mean of the training rows"
        notes.append(Notice(Code.BELOW_BASELINE, message))
    return NumbersEvaluation(
        table=table, values=values, baseline_error=baseline, split=features.split, warnings=tuple(notes)
    )


def _scores(true: Floats, predicted: Floats, weights: Floats) -> dict[str, Floats]:
    """Return the scores for weights of rows, shape (n, r), as scikit-learn defines them; nan where undefined."""
    total = weights.sum(axis=0)
    errors, centred = predicted - true, true - true.mean()
    squares = np.square(errors) @ weights
    spread = np.square(centred) @ weights - np.square(centred @ weights) / total
    rounding = 1e-12 * np.square(centred).max() + np.square(1e-14 * np.abs(true).max())  # of one row
    constant = spread <= rounding * total
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(constant, np.nan, 1 - squares / spread)
    return {
        "r2": r2,
        "mean_absolute_error": np.abs(errors) @ weights / total,
        "root_mean_squared_error": np.sqrt(squares / total),
    }
