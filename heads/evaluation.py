"""From predictions to numbers: one table with paths, and everything that is reported computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from heads import metrics
from heads.artifact import TrainedHead
from heads.errors import EvaluationError, MismatchError
from heads.intervals import Interval
from heads.metrics import AverageScores, ClassScores
from heads.resampling import bootstrap
from heads.splits import TRAIN, rows_of_role
from heads.table import PredictionsTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.base import Classifier
    from heads.imagenet import Seen
    from heads.report.model import Table

_SUM_TOLERANCE = 1e-4  # what float32 probabilities of a thousand classes may be off by
_SHOWN = 20  # classes that a notebook shows


@dataclass(frozen=True, eq=False)  # no slots: a cached property keeps its value in the instance's dictionary
class Evaluation:
    """How good a head is on some rows; ``docs/reports.md`` defines every number.

    Parameters
    ----------
    table
        The predictions for the labelled rows, from which the numbers come; in the order of `PredictionsTable.sorted`.
    accuracy
        With its 95 % interval (Wilson's).
    balanced_accuracy
        Mean recall of the classes that have rows.
    log_loss
        In nats; a probability of 0 for the true class costs 36.04. None if there is only one class.
    roc_auc
        Of the second class if there are two, else the mean of one-against-rest; None if a class has no rows.
    average_precision
        Of the same classes; None if a class has no rows.
    macro, weighted
        Precision, recall and F1 averaged over the classes that have rows, each once, or as often as it has rows.
    top_k, top_k_accuracy
        The proportion of rows whose class is among the 5 likeliest, with its 95 % interval (Wilson's); None if there
        are no more classes than that.
    calibration_error
        The expected calibration error: how far probabilities of predicted classes are from accuracies, on average.
    per_class
        Precision, recall, F1 and support, in the order of the classes.
    confusion
        Shape (k, k): rows are the actual, columns the predicted class.
    baseline_accuracy
        Accuracy of always naming the most frequent class: that of the training rows if the head has a record of
        them, else that of the rows evaluated.
    split
        What the rows were asked for as: ``"train"``, ``"valid"`` or ``"test"``; None if nobody said.
    warnings
        What is undefined or was left out, one line each.
    """

    table: PredictionsTable
    accuracy: Interval
    balanced_accuracy: float
    log_loss: float | None
    roc_auc: float | None
    average_precision: float | None
    macro: AverageScores
    weighted: AverageScores
    top_k: int
    top_k_accuracy: Interval | None
    calibration_error: float
    per_class: tuple[ClassScores, ...]
    confusion: NDArray[np.int64]
    baseline_accuracy: float
    split: str | None
    warnings: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.table.classes

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def intervals(self) -> Mapping[str, Interval | None]:
        """The 95 % bootstrap intervals of all numbers that are no accuracies, by name.

        They are computed when they are first asked for. None where a number is undefined, or its resamples tell
        nothing; see `heads.resampling.bootstrap`.
        """
        return bootstrap(self.table.true, self.table.probabilities, values=self._scores())

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers and their intervals, ready for JSON; what is undefined is None."""
        return {
            "n": len(self),
            "split": self.split,
            "classes": list(self.classes),
            "accuracy": asdict(self.accuracy),
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "roc_auc": self.roc_auc,
            "average_precision": self.average_precision,
            "macro": asdict(self.macro),
            "weighted": asdict(self.weighted),
            "top_k_accuracy": self.top_k_accuracy and asdict(self.top_k_accuracy) | {"k": self.top_k},
            "calibration_error": self.calibration_error,
            "intervals": {
                name: each and {"low": each.low, "high": each.high} for name, each in sorted(self.intervals.items())
            },
            "per_class": {name: asdict(each) for name, each in zip(self.classes, self.per_class, strict=True)},
            "confusion": self.confusion.tolist(),
            "baseline_accuracy": self.baseline_accuracy,
            "warnings": list(self.warnings),
        }

    def _scores(self) -> dict[str, float | None]:
        """Return the numbers whose intervals are bootstrapped."""
        names = ("balanced_accuracy", "log_loss", "roc_auc", "average_precision", "calibration_error")
        averages = {"macro": self.macro, "weighted": self.weighted}
        return {name: getattr(self, name) for name in names} | {
            f"{kind}_{name}": value for kind, average in averages.items() for name, value in asdict(average).items()
        }

    def _repr_html_(self) -> str:
        from heads.report.html import fragment

        return fragment([*self.warnings, *self._tables()])

    def _tables(self) -> tuple[Table, Table]:
        """Return all numbers with their intervals, and those of the classes."""
        from heads.report.model import Table

        accuracies = {"accuracy": self.accuracy}
        if self.top_k_accuracy is not None:
            accuracies[f"top-{self.top_k} accuracy"] = self.top_k_accuracy
        numbers = [(name, _number(each.value), _range(each)) for name, each in accuracies.items()]
        numbers.append(("baseline accuracy", _number(self.baseline_accuracy), ""))
        for name, value in self._scores().items():
            numbers.append((name.replace("_", " "), _number(value), _range(self.intervals[name])))
        classes = [
            (name, _number(each.precision), _number(each.recall), _number(each.f1), f"{each.support:,}")
            for name, each in zip(self.classes, self.per_class, strict=True)
        ]
        more = f", of which the first {_SHOWN} are shown" if len(classes) > _SHOWN else ""
        return (
            Table(("number", "value", "95 % interval"), tuple(numbers), caption=f"{len(self):,} rows"),
            Table(
                ("class", "precision", "recall", "F1", "rows"),
                tuple(classes[:_SHOWN]),
                caption=f"{len(classes):,} classes{more}",
            ),
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.low:.4f} to {interval.high:.4f}"


def select_rows(cache: FeatureCache, head: TrainedHead, split: str) -> FeatureSet:
    """Return the rows of a cache that a head is to be judged on.

    Parameters
    ----------
    cache
        The features; of the recipe, tap and classes that the head was trained on.
    head
        The head.
    split
        ``"train"``, ``"valid"`` or ``"test"``. Where the cache has no valid split, these are exactly the rows that
        trained the head and those that were held out from it.

    Raises
    ------
    MismatchError
        If the head was trained on another recipe, tap or classes.
    UnknownNameError
        If the cache has no such rows.
    EvaluationError
        If it has no labelled rows at all.
    """
    if head.tap not in cache.taps:
        raise MismatchError(
            f"tap: the head was trained on {head.tap!r}, the cache holds {', '.join(cache.taps)}; "
            f"extract with that tap, or train a new head"
        )
    features = cache.features(head.tap)
    if not features.classes:
        raise EvaluationError("the cache has no labelled rows to judge by; for what the head says of images: predict")
    head.check(features)
    return replace(rows_of_role(features, split, head.training.holdout), split=split)


def predict_table(head: Classifier, features: FeatureSet) -> PredictionsTable:
    """Return what a head says about every row, labelled or not.

    Raises
    ------
    MismatchError
        If the head may not be used on these features, or knows a class that they have not.
    EvaluationError
        If a row's features or probabilities are not finite, or probabilities do not sum to 1; names the image.
    """
    if isinstance(head, TrainedHead):
        head.check(features)
    columns = np.asarray(head.classes_)
    k = len(features.classes)
    if columns.dtype.kind not in "iu" or (len(columns) and not 0 <= columns.min() <= columns.max() < k):
        raise MismatchError(f"classes: the head's are {columns.tolist()}, expected indices of the {k} of the features")
    probabilities = np.zeros((len(features), k))
    try:
        probabilities[:, columns] = head.predict_proba(features.X)
    except EvaluationError as e:
        raise EvaluationError(f"{features.paths[e.row]}: {e}" if e.row is not None else str(e), e.row) from e
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE) | (probabilities < 0).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EvaluationError(f"{features.paths[row]}: the head's output is no distribution over the classes", row)
    return PredictionsTable(features.paths, features.splits, features.y, probabilities, features.classes)


def evaluate(head: Classifier, features: FeatureSet, *, seen: Seen | None = None) -> Evaluation:
    """Judge a head on labelled rows; rows without a label are left out, and counted in the warnings.

    Parameters
    ----------
    head
        A trained head, or anything fitted on class indices that has ``classes_`` and ``predict_proba``.
    features
        The rows.
    seen
        What the pretrained network saw in these rows (`heads.imagenet.seen_of`); goes into the table.

    Raises
    ------
    EvaluationError
        If no row has a label, or a row's features are not finite.
    MismatchError
        If the head was trained on another recipe, tap or classes.
    """
    labelled = features.y >= 0
    unlabelled = int(np.count_nonzero(~labelled))
    if unlabelled == len(features):
        raise EvaluationError(f"none of {len(features)} rows has a label; there is nothing to compare predictions with")
    table = predict_table(head, features.take(labelled) if unlabelled else features)
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled} rows without a label were left out")
    if isinstance(head, TrainedHead) and features.split == TRAIN:
        notes.append("rows of the train split trained the head: it is better on them than on new images")
    return evaluate_table(
        table if seen is None else replace(table, seen=seen.take(labelled)),
        training_counts=head.training.class_counts if isinstance(head, TrainedHead) else None,
        split=features.split,
        notes=notes,
    )


def evaluate_table(
    table: PredictionsTable,
    *,
    training_counts: Sequence[int] | None = None,
    split: str | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Judge predictions; the order of the rows changes nothing.

    Parameters
    ----------
    table
        The predictions, of labelled rows.
    training_counts
        Number of rows of each class in training, shape (k,), for the baseline; None if they are not known.
    split
        What the rows are: ``"train"``, ``"valid"`` or ``"test"``.
    notes
        Lines for the warnings.

    Raises
    ------
    EvaluationError
        If there is no row, or one without a label.
    """
    unlabelled = int(np.count_nonzero(table.true < 0))
    if unlabelled or not len(table):
        found = f"{unlabelled} of {len(table)} rows have no label" if len(table) else "there is no row"
        raise EvaluationError(f"{found}; judge predictions of labelled rows, at least one")
    table = table.sorted()
    true, predicted, k = table.true, table.predicted, len(table.classes)
    class_counts = np.bincount(true, minlength=k) if training_counts is None else np.asarray(training_counts)
    lines = [*metrics.undefined(true, predicted, table.classes), *notes]
    unseen = int(np.count_nonzero(class_counts[true] == 0))
    if unseen:
        lines.append(f"{unseen} rows are of classes that the head never saw in training: it gives them probability 0")
    accuracy, baseline = metrics.accuracy(true, predicted), metrics.baseline_accuracy(true, class_counts)
    if accuracy.value < baseline:
        lines.append("always naming the most frequent class would be right more often than this head")
    macro, weighted = metrics.average_scores(true, predicted)
    return Evaluation(
        table=table,
        accuracy=accuracy,
        balanced_accuracy=metrics.balanced_accuracy(true, predicted),
        log_loss=metrics.log_loss(true, table.probabilities),
        roc_auc=metrics.roc_auc(true, table.probabilities),
        average_precision=metrics.average_precision(true, table.probabilities),
        macro=macro,
        weighted=weighted,
        top_k=metrics.TOP_K,
        top_k_accuracy=metrics.top_k_accuracy(true, table.probabilities),
        calibration_error=metrics.calibration_error(true, table.probabilities),
        per_class=metrics.class_scores(true, predicted, k),
        confusion=metrics.confusion(true, predicted, k),
        baseline_accuracy=baseline,
        split=split,
        warnings=tuple(lines),
    )
