"""Evaluation of a head of several labels: all scores computed from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featurecache.text import listed, number
from heads.evaluation.bootstrap import areas, bootstrap_scores
from heads.evaluation.intervals import Interval, few_groups, proportion
from heads.evaluation.label_predictions import LabelPredictionsTable
from heads.evaluation.scores import BaseEvaluation, Score, first_rows, unweighted
from heads.evaluation.selection import errors_name_images, rows_to_evaluate
from heads.notices import Code, Notice
from heads.splits import ALL, VALID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead
    from heads.report.model import Table
    from heads.rows import Floats


@dataclass(frozen=True, slots=True)
class LabelScores:
    """The scores of one label.

    Parameters
    ----------
    threshold
        The probability from which on an image gets the label.
    accuracy
        Share of the rows for which it is right whether they have the label.
    precision
        Right among the rows that got the label; None if there are none.
    recall
        Found among the rows that have the label; None if there are none.
    f1
        Harmonic mean of both; None if no row has or gets the label.
    average_precision
        Precision averaged over recall, of the order of the probabilities; None if no row has the label,
        or every one.
    support
        Number of rows that have the label.
    """

    threshold: float
    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    support: int


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelsEvaluation(BaseEvaluation[LabelPredictionsTable]):
    """The scores of a head of several labels; ``docs/targets.md`` defines each score.

    Parameters
    ----------
    table
        The predictions for the labelled rows.
    subset_accuracy
        Share of the rows for which every label is right, with its 95 % interval (Wilson's; of rows in groups, by a
        bootstrap of groups).
    values
        The other scores, by key: ``label_accuracy`` (share of all answers that are right), ``micro_f1``, ``macro_f1``,
        ``mean_average_precision`` and ``ranking_precision``; None where undefined.
    per_label
        The scores of each label, in the order of the labels.
    split
        The split that was evaluated; None if it is not named.
    warnings
        Notices on undefined scores and on rows that were left out.
    """

    subset_accuracy: Interval
    values: Mapping[str, float | None]
    per_label: tuple[LabelScores, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return self.table.labels

    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them."""
        exact = self._proportion("subset_accuracy", "all labels right", self.subset_accuracy)
        return (exact, *self._bootstrapped(self.values))

    label_header: ClassVar = ("label", "precision", "recall", "F1", "average precision", "threshold", "images")
    """The header of `label_rows`."""

    def label_rows(self) -> tuple[tuple[str, ...], ...]:
        """Return a row of texts for each label: name, precision, recall, F1, average precision, threshold and rows."""
        return tuple(
            (
                name,
                *map(number, (each.precision, each.recall, each.f1, each.average_precision, each.threshold)),
                f"{each.support:,}",
            )
            for name, each in zip(self.labels, self.per_label, strict=True)
        )

    def _bootstrap(self) -> Mapping[str, Interval | None]:
        sums = _Sums(self.table)
        return bootstrap_scores(
            len(self), sums.scores, self.values, steps=len(self) * len(self.labels), groups=self.table.groups
        )

    def _values(self) -> dict[str, Any]:
        return {
            "target": "labels",
            "labels": list(self.labels),
            "subset_accuracy": asdict(self.subset_accuracy),
            **self.values,
            "per_label": {name: asdict(each) for name, each in zip(self.labels, self.per_label, strict=True)},
        }

    def _tables(self) -> tuple[Table, ...]:
        return (first_rows(self.label_header, self.label_rows(), "labels"),)


def predict_labels_table(head: TrainedHead, features: FeatureSet) -> LabelPredictionsTable:
    """Return the predictions of a head of several labels for every row, labelled or not.

    Labels are matched by name. Further labels that rows have follow the head's; their probability is 0.

    Raises
    ------
    MismatchError
        If the head may not be used on these features, or predicts no labels.
    EvaluationError
        If a row's features are not finite; names the image.
    """
    head.require_target("labels", "predict_labels_table")
    features = head.in_own_classes(features)
    known = len(head.classes)
    probabilities = np.zeros((len(features), len(features.classes)))
    with errors_name_images(features):
        probabilities[:, :known] = head.predict_proba(features.X)
    thresholds = np.array([*head.thresholds, *[0.5] * (len(features.classes) - known)])
    places = (features.paths, features.splits, features.y)
    return LabelPredictionsTable(*places, probabilities, thresholds, features.classes, features.groups)


def evaluate_labels(head: TrainedHead, features: FeatureSet, *, cache: FeatureCache | None = None) -> LabelsEvaluation:
    """Evaluate a head of several labels on labelled rows. Rows without a label are left out; a warning counts them.

    Parameters
    ----------
    head
        A trained head of the target ``"labels"``.
    features
        The rows, as `heads.select_rows` gives them.
    cache
        The cache of the rows. If it is given, rows with the content of training rows are found, too.

    Raises
    ------
    EvaluationError
        If no row has a label, or a row's features are not finite.
    MismatchError
        If the head was trained on another recipe, tap or target, or no label of the features is one of the head's.

    Examples
    --------
    >>> tagged = cache.with_labels({"train/dark/00.png": "dark|first"})
    >>> tagger = heads.train(tagged, "centroid", tap="features", target="labels")
    >>> found = heads.evaluate_labels(tagger, heads.select_rows(tagged, tagger, "valid"))
    >>> found.labels, found.per_label[0].f1
    (('dark', 'first', 'light'), 1.0)
    """
    head.require_target("labels", "evaluate_labels")
    rows, notes = rows_to_evaluate(head, features, cache)
    table = predict_labels_table(head, rows)
    unknown = table.labels[len(head.classes) :]
    if unknown:
        message = f"the head does not know the labels {listed(unknown, sort=False)}: no image gets them"
        notes.append(Notice(Code.CLASS_UNKNOWN_TO_HEAD, message))
    if features.split in {VALID, ALL} and head.training.n_valid:
        message = "the thresholds were chosen on valid rows: scores that depend on them are optimistic there"
        notes.append(Notice(Code.THRESHOLDS_FROM_ROWS, message))
    empty = [name for name, count in zip(table.labels, table.true.sum(axis=0), strict=True) if not count]
    if empty:
        message = f"no row has the label {listed(empty, sort=False)}: its recall and average precision are undefined"
        notes.append(Notice(Code.UNDEFINED_SCORE, message))
    sums = _Sums(table)
    right = np.asarray((table.predicted == table.true).all(axis=1))
    notes += few_groups(table.groups)
    return LabelsEvaluation(
        table=table,
        subset_accuracy=proportion(right, table.groups),
        values=unweighted(sums.scores, len(table)),
        per_label=sums.per_label(),
        split=features.split,
        warnings=tuple(notes),
    )


class _Sums:
    """The scores of a table for weights of its rows; all but the average precision follow from sums over rows."""

    def __init__(self, table: LabelPredictionsTable) -> None:
        self._table, true = table, table.true == 1
        predicted = table.predicted
        self._true, self._hits, self._given = true, true & predicted, predicted
        self._right = np.asarray(true == predicted).mean(axis=1)
        self._ranking = _ranking_precision(true, table.probabilities)

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Return the scores for weights of rows, shape (n, r); each has shape (r,), nan where undefined.

        As scikit-learn defines them: ``f1_score`` with micro and macro average, the mean of
        ``average_precision_score``, ``label_ranking_average_precision_score``, and 1 - ``hamming_loss``. Labels that no
        row has are left out of the means; rows without any label have the ranking precision 1.
        """
        total = weights.sum(axis=0)
        support, hits, given = (part.T.astype(np.float64) @ weights for part in (self._true, self._hits, self._given))
        present = support > 0
        with np.errstate(invalid="ignore"):  # 0 / 0 is what is undefined
            f1 = np.where(present, 2 * hits / (support + given), 0.0)
            micro = 2 * hits.sum(axis=0) / (support + given).sum(axis=0)
            macro = f1.sum(axis=0) / np.count_nonzero(present, axis=0)
        columns = enumerate(self._true.T)
        precisions = np.array([areas(has, self._table.probabilities[:, label], weights)[1] for label, has in columns])
        defined = present & ~np.isnan(precisions)
        with np.errstate(invalid="ignore"):
            mean = np.where(defined, precisions, 0.0).sum(axis=0) / np.count_nonzero(defined, axis=0)
        return {
            "label_accuracy": self._right @ weights / total,
            "micro_f1": micro,
            "macro_f1": macro,
            "mean_average_precision": mean,
            "ranking_precision": self._ranking @ weights / total,
        }

    def per_label(self) -> tuple[LabelScores, ...]:
        """Return the scores of each label."""
        once = np.ones((len(self._table), 1))
        found = []
        for label, threshold in enumerate(self._table.thresholds.tolist()):
            true, given, hits = (part[:, label] for part in (self._true, self._given, self._hits))
            precision = float(areas(true, self._table.probabilities[:, label], once)[1, 0])
            support, count, right = int(true.sum()), int(given.sum()), int(hits.sum())
            found.append(
                LabelScores(
                    threshold=threshold,
                    accuracy=float((true == given).mean()),
                    precision=right / count if count else None,
                    recall=right / support if support else None,
                    f1=2 * right / (support + count) if support + count else None,
                    average_precision=None if np.isnan(precision) else precision,
                    support=support,
                )
            )
        return tuple(found)


def _ranking_precision(true: NDArray[np.bool_], probabilities: Floats) -> Floats:
    """Return the label ranking average precision of each row, shape (n,); scikit-learn defines it."""
    n, k = true.shape
    precision = np.ones(n)
    for row in range(n):
        has = true[row]
        if 0 < np.count_nonzero(has) < k:
            scores = probabilities[row]
            above = scores[None, :] >= scores[has][:, None]
            precision[row] = ((above & has).sum(axis=1) / above.sum(axis=1)).mean()
    return precision
