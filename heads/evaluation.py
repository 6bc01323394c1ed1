"""From predictions to numbers: one table with paths, and everything that is reported computed from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heads import metrics
from heads.artifact import TrainedHead
from heads.errors import EvaluationError, MismatchError
from heads.intervals import Interval
from heads.splits import rows_of_role
from heads.table import PredictionsTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache, FeatureSet
    from heads.base import Classifier

_SUM_TOLERANCE = 1e-4  # what float32 probabilities of a thousand classes may be off by


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """How good a head is on some rows.

    Parameters
    ----------
    table
        The predictions for the labelled rows, from which the numbers come.
    accuracy
        With its 95 % interval (Wilson's).
    balanced_accuracy
        Mean recall of the classes that have rows.
    log_loss
        In nats; a probability of 0 for the true class costs 36.04. None if there is only one class.
    roc_auc
        Of the second class if there are two, else the mean of one-against-rest; None if a class has no rows.
    per_class
        Precision, recall, F1 and support, in the order of the classes.
    confusion
        Shape (k, k): rows are the actual, columns the predicted class.
    baseline_accuracy
        Accuracy of always naming the most frequent class: that of the training rows if the head has a record of
        them, else that of the rows evaluated.
    warnings
        What is undefined or was left out, one line each.
    """

    table: PredictionsTable
    accuracy: Interval
    balanced_accuracy: float
    log_loss: float | None
    roc_auc: float | None
    per_class: tuple[metrics.ClassScores, ...]
    confusion: NDArray[np.int64]
    baseline_accuracy: float
    warnings: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.table.classes

    def __len__(self) -> int:
        return len(self.table)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON; what is undefined is None."""
        return {
            "n": len(self),
            "classes": list(self.classes),
            "accuracy": asdict(self.accuracy),
            "balanced_accuracy": self.balanced_accuracy,
            "log_loss": self.log_loss,
            "roc_auc": self.roc_auc,
            "per_class": {name: asdict(each) for name, each in zip(self.classes, self.per_class, strict=True)},
            "confusion": self.confusion.tolist(),
            "baseline_accuracy": self.baseline_accuracy,
            "warnings": list(self.warnings),
        }


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
    """
    if head.tap not in cache.taps:
        raise MismatchError(
            f"tap: the head was trained on {head.tap!r}, the cache holds {', '.join(cache.taps)}; "
            f"extract with that tap, or train a new head"
        )
    features = cache.features(head.tap)
    head.check(features)
    return rows_of_role(features, split, head.training.holdout)


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


def evaluate(head: Classifier, features: FeatureSet) -> Evaluation:
    """Judge a head on labelled rows; rows without a label are left out, and counted in the warnings.

    Parameters
    ----------
    head
        A trained head, or anything fitted on class indices that has ``classes_`` and ``predict_proba``.
    features
        The rows.

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
    true, predicted, k = table.true, table.predicted, len(table.classes)
    class_counts = np.bincount(true, minlength=k)
    notes = metrics.undefined(true, predicted, table.classes)
    if unlabelled:
        notes.append(f"{unlabelled} rows without a label were left out")
    if isinstance(head, TrainedHead):
        class_counts = np.asarray(head.training.class_counts)
        unseen = int(np.count_nonzero(class_counts[true] == 0))
        if unseen:
            notes.append(
                f"{unseen} rows are of classes that the head never saw in training: it gives them probability 0"
            )
    return Evaluation(
        table=table,
        accuracy=metrics.accuracy(true, predicted),
        balanced_accuracy=metrics.balanced_accuracy(true, predicted),
        log_loss=metrics.log_loss(true, table.probabilities),
        roc_auc=metrics.roc_auc(true, table.probabilities),
        per_class=metrics.class_scores(true, predicted, k),
        confusion=metrics.confusion(true, predicted, k),
        baseline_accuracy=metrics.baseline_accuracy(true, class_counts),
        warnings=tuple(notes),
    )
