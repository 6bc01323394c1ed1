"""Evaluation of a head: a table of predictions, and all scores computed from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.text import counted, listed, number
from heads.artifact import TrainedHead
from heads.errors import EvaluationError, MismatchError
from heads.evaluation import metrics
from heads.evaluation.bootstrap import bootstrap
from heads.evaluation.intervals import Interval, few_groups
from heads.evaluation.metrics import AverageScores, ClassScores
from heads.evaluation.predictions import PredictionsTable
from heads.evaluation.scores import BaseEvaluation, Score, first_rows
from heads.evaluation.selection import (
    errors_name_images,
    labelled_rows,
    left_out,
    on_calibration_rows,
    on_training_rows,
)
from heads.notices import Code, Notice
from heads.splits import without_views

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.evaluation.imagenet import ImageNetTop3
    from heads.fitted_model import Classifier
    from heads.report.model import Table

_SUM_TOLERANCE = 1e-4  # what float32 probabilities of a thousand classes may be off by


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(BaseEvaluation[PredictionsTable]):
    """The scores of a head on labelled rows; ``docs/reports.md`` defines each score.

    Parameters
    ----------
    table
        The predictions for the labelled rows, in the order of `PredictionsTable.sorted`. All scores follow from them.
    accuracy
        With its 95 % interval (Wilson's; of rows in groups, by a bootstrap of groups).
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
        The proportion of rows whose class is among the 5 likeliest, with its 95 % interval as that of the accuracy;
        None if there are no more classes than that.
    calibration_error
        The expected calibration error: how far probabilities of predicted classes are from accuracies, on average.
    per_class
        Precision, recall, F1 and support, in the order of the classes.
    confusion
        Shape (k, k): rows are the actual, columns the predicted class.
    baseline_accuracy
        The majority baseline: accuracy of always predicting the most frequent class of the training rows; of the
        evaluated rows if the head has no record of its training.
    split
        The split that was evaluated: ``"train"``, ``"valid"``, ``"test"``, or ``"all"``; None if it is not named.
    warnings
        Notices on undefined scores and on rows that were left out.
    uncalibrated
        The predictions of the head without its calibration, for the same rows; None if it has none.

    Examples
    --------
    >>> evaluation.confusion.tolist()
    [[8, 0], [0, 8]]
    >>> sorted(evaluation.to_dict())[:3]
    ['accuracy', 'average_precision', 'balanced_accuracy']
    """

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
    uncalibrated: PredictionsTable | None = None

    @property
    def before_calibration(self) -> Mapping[str, float | None]:
        """Accuracy, log loss and calibration error without the head's calibration; empty if it has none."""
        table = self.uncalibrated
        if table is None:
            return {}
        return {
            "accuracy": metrics.accuracy(table.true, table.predicted).value,
            "log_loss": metrics.log_loss(table.true, table.probabilities),
            "calibration_error": metrics.calibration_error(table.true, table.probabilities),
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in order."""
        return self.table.classes

    def scores(self) -> tuple[Score, ...]:
        """Return every score with its interval, in the order in which tables show them."""
        top_k, label = self.top_k_accuracy, f"top-{self.top_k} accuracy"
        return (
            self._proportion("accuracy", "accuracy", self.accuracy),
            *(() if top_k is None else (self._proportion("top_k_accuracy", label, top_k),)),
            Score("baseline_accuracy", "majority baseline", self.baseline_accuracy, None, ""),
            *self._bootstrapped(self._others()),
        )

    def confusions(self, most: int) -> tuple[tuple[int, int, int], ...]:
        """Return the most frequent confusions: indices of the labelled and the predicted class, and the rows.

        At most ``most``, the most frequent first; equal ones in the order of the classes.
        """
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
        return tuple((int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j])

    def _bootstrap(self) -> Mapping[str, Interval | None]:
        table = self.table
        return bootstrap(table.true, table.probabilities, values=self._others(), groups=table.groups)

    def _others(self) -> dict[str, float | None]:
        """Return the scores that have bootstrap intervals, by key."""
        names = ("balanced_accuracy", "log_loss", "roc_auc", "average_precision", "calibration_error")
        averages = {"macro": self.macro, "weighted": self.weighted}
        return {name: getattr(self, name) for name in names} | {
            f"{kind}_{name}": value for kind, average in averages.items() for name, value in asdict(average).items()
        }

    def _values(self) -> dict[str, Any]:
        return {
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
            "before_calibration": dict(self.before_calibration) or None,
            "per_class": {name: asdict(each) for name, each in zip(self.classes, self.per_class, strict=True)},
            "confusion": self.confusion.tolist(),
            "baseline_accuracy": self.baseline_accuracy,
        }

    def _tables(self) -> tuple[Table, ...]:
        rows = tuple(
            (name, number(each.precision), number(each.recall), number(each.f1), f"{each.support:,}")
            for name, each in zip(self.classes, self.per_class, strict=True)
        )
        return (first_rows(("class", "precision", "recall", "F1", "rows"), rows, "classes"),)


def predict_table(head: Classifier, features: FeatureSet) -> PredictionsTable:
    """Return the predictions of a head for every row, labelled or not.

    The classes of a `heads.TrainedHead` and of the features are matched by name. Further classes that rows have follow
    the head's; their probability is 0.

    Raises
    ------
    MismatchError
        If the head may not be used on these features; or, for another classifier, if its classes are not indices of
        the features' classes.
    EvaluationError
        If a row's features or probabilities are not finite, or probabilities do not sum to 1; names the image.

    Examples
    --------
    >>> table = heads.predict_table(head, cache.features("features"))
    >>> len(table), table.classes
    (48, ('dark', 'light'))
    """
    if isinstance(head, TrainedHead):
        features = head.in_own_classes(features)
    columns = np.asarray(head.classes_)
    k = len(features.classes)
    if columns.dtype.kind not in "iu" or not np.isin(columns, np.arange(k)).all():
        raise MismatchError(f"classes: the head's are {columns.tolist()}, expected indices of the {k} of the features")
    probabilities = np.zeros((len(features), k))
    with errors_name_images(features):
        probabilities[:, columns] = head.predict_proba(features.X)
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(probabilities.sum(axis=1) - 1) <= _SUM_TOLERANCE) | (probabilities < 0).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EvaluationError(f"{features.paths[row]}: the head's output is no distribution over the classes", row)
    return PredictionsTable(
        features.paths, features.splits, features.y, probabilities, features.classes, groups=features.groups
    )


def evaluate(
    head: Classifier,
    features: FeatureSet,
    *,
    cache: FeatureCache | None = None,
    imagenet_top3: ImageNetTop3 | None = None,
) -> Evaluation:
    """Evaluate a head on labelled rows. Rows without a label are left out; a warning counts them.

    The classes of a `heads.TrainedHead` and of the features are matched by name. Rows of classes that the head does not
    know count as wrong, and rows that trained it are looked for by content; warnings count both.

    Parameters
    ----------
    head
        A trained head, or anything fitted on class indices that has ``classes_`` and ``predict_proba``.
    features
        The rows.
    cache
        The cache of the rows. If it is given, rows with the content of training rows are found, too.
    imagenet_top3
        The three likeliest ImageNet classes of each row (`heads.imagenet_top3`), for the table.

    Raises
    ------
    EvaluationError
        If no row has a label, or a row's features are not finite.
    MismatchError
        If the head was trained on another recipe or tap, no class of the features is one of the head's, or the head
        predicts several labels or a number (`heads.evaluate_labels`, `heads.evaluate_numbers`).

    Examples
    --------
    >>> evaluation = heads.evaluate(head, heads.select_rows(cache, head, "valid"))
    >>> evaluation.accuracy.value
    1.0
    """
    if isinstance(head, TrainedHead):
        head.require_target("class", "evaluate")
    if imagenet_top3 is not None:
        imagenet_top3 = imagenet_top3.take(~features.is_view)
    features = without_views(features)
    labelled = features.labelled
    rows, notes, training_counts = labelled_rows(features), left_out(labelled), None
    if isinstance(head, TrainedHead):
        rows = head.in_own_classes(rows)
        notes += (*on_training_rows(head, rows, cache), *on_calibration_rows(head, rows, cache))
        unknown = len(rows.classes) - len(head.classes)
        training_counts = (*head.training.class_counts, *[0] * unknown)
    table = predict_table(head, rows)
    found = evaluate_table(
        table if imagenet_top3 is None else replace(table, imagenet_top3=imagenet_top3.take(labelled)),
        training_counts=training_counts,
        split=features.split,
        notes=notes,
    )
    if isinstance(head, TrainedHead) and head.calibration:
        return replace(found, uncalibrated=predict_table(head.uncalibrated, rows).sorted())
    return found


def evaluate_table(
    table: PredictionsTable,
    *,
    training_counts: Sequence[int] | None = None,
    split: str | None = None,
    notes: Sequence[Notice] = (),
) -> Evaluation:
    """Evaluate predictions. The result does not depend on the order of the rows.

    Parameters
    ----------
    table
        The predictions; every row must be labelled.
    training_counts
        Number of rows of each class in training, shape (k,), for the baseline; None if they are not known. A class
        without training rows is unknown to the head: its rows count as wrong.
    split
        What the rows are: ``"train"``, ``"valid"``, ``"test"`` or ``"all"``.
    notes
        Further warnings.

    Raises
    ------
    EvaluationError
        If there is no row, or one without a label.

    Examples
    --------
    >>> table = heads.predict_table(head, cache.features("features", "train"))
    >>> heads.evaluate_table(table).confusion.tolist()
    [[16, 0], [0, 16]]
    """
    unlabelled = int(np.count_nonzero(table.true < 0))
    if unlabelled or not len(table):
        found = f"{unlabelled} of {len(table)} rows have no label" if len(table) else "there is no row"
        raise EvaluationError(f"{found}; evaluate predictions of at least one labelled row")
    table = table.sorted()
    true, predicted, k = table.true, table.predicted, len(table.classes)
    class_counts = np.bincount(true) if training_counts is None else np.asarray(training_counts)
    known = np.ones(k, np.bool_) if training_counts is None else class_counts > 0
    warnings = [*metrics.undefined(true, predicted, table.classes), *notes]
    unknown = true[~known[true]]
    if len(unknown):
        names = listed((table.classes[index] for index in np.unique(unknown)), sort=False)
        message = (
            f"{len(unknown):,} of {counted(len(true), 'row')} are of a class that the head does not know ({names}): "
            f"they count as wrong, and each costs {-np.log(np.finfo(np.float64).eps):.2f} in the log loss"
        )
        warnings.append(Notice(Code.CLASS_UNKNOWN_TO_HEAD, message))
    accuracy = metrics.accuracy(true, predicted, table.groups)
    baseline = metrics.baseline_accuracy(true, class_counts)
    if accuracy.value < baseline:
        message = "the head is less accurate than the majority baseline, which always predicts the most frequent class"
        warnings.append(Notice(Code.BELOW_BASELINE, message))
    warnings += few_groups(table.groups)
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
        top_k_accuracy=metrics.top_k_accuracy(true, table.probabilities, known=known, groups=table.groups),
        calibration_error=metrics.calibration_error(true, table.probabilities),
        per_class=metrics.class_scores(true, predicted, k),
        confusion=metrics.confusion(true, predicted, k),
        baseline_accuracy=baseline,
        split=split,
        warnings=tuple(warnings),
    )
