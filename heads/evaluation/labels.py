"""Evaluation of a head of several labels: a table of predictions, and all scores computed from it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featurecache.images.flags import SEPARATOR
from featurecache.text import counted, listed, number
from heads.evaluation.bootstrap import areas, bootstrap_scores
from heads.evaluation.evaluate import Score
from heads.evaluation.intervals import OF_GROUPS, WILSON, Interval, few_groups, proportion
from heads.evaluation.predictions import encodable
from heads.evaluation.selection import errors_name_images, rows_to_evaluate
from heads.notices import Code, Notice, to_dicts
from heads.splits import ALL, VALID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.artifact import TrainedHead
    from heads.rows import Floats

_TEXTS = ("path", "split", "true_labels", "predicted_labels")
_SHOWN = 20  # labels that a notebook shows


@dataclass(frozen=True, slots=True, eq=False)
class LabelPredictionsTable:
    """What a head says about each of n rows, and k labels that do not exclude each other.

    Parameters
    ----------
    paths, splits
        Relative path and split of each image, shape (n,), `str` objects.
    true
        1 for a label that an image has, 0 for one that it has not, -1 throughout for images without a label; shape
        (n, k), int8.
    probabilities
        Shape (n, k), float64.
    thresholds
        The probability from which on an image gets each label, shape (k,), float64.
    labels
        The names of the k labels, in the order of the columns.
    groups
        The group of each row, shape (n,); None if every row is its own.
    """

    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    true: NDArray[np.int8]
    probabilities: Floats
    thresholds: Floats
    labels: tuple[str, ...]
    groups: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.true)

    def __repr__(self) -> str:
        return f"<LabelPredictionsTable: {counted(len(self), 'row')}, {counted(len(self.labels), 'label')}>"

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Which labels each image gets, shape (n, k)."""
        return np.asarray(self.probabilities >= self.thresholds)

    def names(self, row: int, *, true: bool = False) -> tuple[str, ...]:
        """Return the labels that an image gets, or truly has."""
        has = self.true[row] == 1 if true else self.predicted[row]
        return tuple(name for name, each in zip(self.labels, has, strict=True) if each)

    def to_csv(self) -> str:
        """Return the table as CSV text (RFC 4180): a header, then one line per row.

        The columns are ``path, split, true_labels, predicted_labels`` and ``probability_LABEL`` for each label. Labels
        have ``|`` between them; ``|`` alone is an image without any of them, and the true labels of an image without a
        label are empty.
        """
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(map(encodable, [*_TEXTS, *(f"probability_{name}" for name in self.labels)]))
        for row, probabilities in enumerate(self.probabilities.tolist()):
            texts = (self.paths[row], self.splits[row], self._text(row, true=True), self._text(row, true=False))
            writer.writerow([*map(encodable, texts), *probabilities])
        return stream.getvalue()

    def to_jsonl(self) -> str:
        """Return the table as JSON lines, one object per row: lists of labels, and the probability of each label."""
        lines = []
        for row, probabilities in enumerate(self.probabilities.tolist()):
            known = bool((self.true[row] >= 0).all())
            line = {
                "path": self.paths[row],
                "split": self.splits[row],
                "true_labels": list(self.names(row, true=True)) if known else None,
                "predicted_labels": list(self.names(row)),
                "probabilities": dict(zip(self.labels, probabilities, strict=True)),
            }
            lines.append(json.dumps(line) + "\n")
        return "".join(lines)

    @staticmethod
    def is_beginning(data: bytes) -> bool:
        """Return whether these bytes are the beginning of a file that `to_csv` gives."""
        return data.startswith(",".join(_TEXTS).encode())

    def _text(self, row: int, *, true: bool) -> str:
        if true and (self.true[row] < 0).any():
            return ""
        return SEPARATOR.join(self.names(row, true=true)) or SEPARATOR


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
        Precision averaged over recall, of the order of the probabilities; None if no row has the label.
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


@dataclass(frozen=True, eq=False)  # no slots: a cached property keeps its value in the instance's dictionary
class LabelsEvaluation:
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

    table: LabelPredictionsTable
    subset_accuracy: Interval
    values: Mapping[str, float | None]
    per_label: tuple[LabelScores, ...]
    split: str | None
    warnings: tuple[Notice, ...]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in order."""
        return self.table.labels

    @property
    def n_groups(self) -> int | None:
        """The number of groups of the rows; None if every row is its own."""
        return None if self.table.groups is None else len(set(self.table.groups))

    @cached_property
    def intervals(self) -> Mapping[str, Interval | None]:
        """The 95 % bootstrap intervals of `values`, by key, computed on first access."""
        sums = _Sums(self.table)
        return bootstrap_scores(
            len(self), sums.scores, self.values, steps=len(self) * len(self.labels), groups=self.table.groups
        )

    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them."""
        of_proportions, of_others = (WILSON, "bootstrap") if self.n_groups is None else (OF_GROUPS, OF_GROUPS)
        exact = self.subset_accuracy
        return (
            Score("subset_accuracy", "all labels right", exact.value, exact, of_proportions),
            *(
                Score(key, _NAMES[key], value, self.intervals[key], of_others if self.intervals[key] else "")
                for key, value in self.values.items()
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all scores and their intervals, ready for JSON; undefined ones are None."""
        return {
            "target": "labels",
            "n": len(self),
            "groups": self.n_groups,
            "split": self.split,
            "labels": list(self.labels),
            "subset_accuracy": asdict(self.subset_accuracy),
            **self.values,
            "intervals": {
                name: each and {"low": each.low, "high": each.high} for name, each in sorted(self.intervals.items())
            },
            "per_label": {name: asdict(each) for name, each in zip(self.labels, self.per_label, strict=True)},
            "warnings": to_dicts(self.warnings),
        }

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

    def _repr_html_(self) -> str:
        from heads.report.html import fragment
        from heads.report.model import Table

        scores = tuple(
            (score.label, number(score.value), score.interval.range_text() if score.interval else "")
            for score in self.scores()
        )
        caption = f"{len(self.labels):,} labels"
        return fragment(
            [
                *map(str, self.warnings),
                Table(("score", "value", "95 % interval"), scores, caption=f"{len(self):,} rows"),
                Table(self.label_header, self.label_rows()[:_SHOWN], caption=caption),
            ]
        )


_NAMES = {
    "label_accuracy": "label accuracy",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "mean_average_precision": "mean average precision",
    "ranking_precision": "ranking precision",
}


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
    values = sums.scores(np.ones((len(table), 1)))
    return LabelsEvaluation(
        table=table,
        subset_accuracy=proportion(right, table.groups),
        values={name: None if np.isnan(value[0]) else float(value[0]) for name, value in values.items()},
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
        with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 is what is undefined
            f1 = np.where(present, 2 * hits / (support + given), 0.0)
            micro = 2 * hits.sum(axis=0) / (support + given).sum(axis=0)
            macro = f1.sum(axis=0) / np.count_nonzero(present, axis=0)
        columns = enumerate(self._true.T)
        precisions = np.array([areas(has, self._table.probabilities[:, label], weights)[1] for label, has in columns])
        defined = present & ~np.isnan(precisions)
        with np.errstate(invalid="ignore", divide="ignore"):
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
