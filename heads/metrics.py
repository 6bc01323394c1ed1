"""Numbers that say how good predictions are: scikit-learn's, with an interval, and with a word where one is undefined.

Labels are class indices below k, probabilities have shape (n, k) with rows that sum to 1. Probabilities are taken as
they are: a class that a head never saw has probability 0, and costs what it costs. What is not defined is None.
"""

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from heads.intervals import Interval, wilson

Labels: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.float64]

_TWO_CLASSES = 2


@dataclass(frozen=True, slots=True)
class ClassScores:
    """How well one class is found.

    Parameters
    ----------
    precision
        Right among the rows predicted as this class; None if there are none.
    recall
        Found among the rows of this class; None if there are none.
    f1
        Harmonic mean of both; None if the class neither occurs nor is predicted.
    support
        Number of rows of this class.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def accuracy(true: Labels, predicted: Labels) -> Interval:
    """Return the proportion of rows whose class was found."""
    return wilson(int(np.count_nonzero(true == predicted)), len(true))


def balanced_accuracy(true: Labels, predicted: Labels) -> float:
    """Return the mean recall of the classes that have rows."""
    from sklearn.metrics import recall_score

    return float(recall_score(true, predicted, labels=np.unique(true), average="macro", zero_division=0.0))


def class_scores(true: Labels, predicted: Labels, k: int) -> tuple[ClassScores, ...]:
    """Return precision, recall, F1 and support of each of k classes."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(k), zero_division=np.nan)
    return tuple(
        ClassScores(_defined(precision), _defined(recall), _defined(f1), int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    )


def log_loss(true: Labels, probabilities: Floats) -> float | None:
    """Return the mean negative logarithm (nats) of the probability of the true class; None if there is one class.

    A probability of 0 counts as the smallest spacing of float64 at 1, which costs 36.04. Only what rounding leaves of
    a row's sum is divided out.
    """
    from sklearn.metrics import log_loss as sklearn_log_loss

    if probabilities.shape[1] < _TWO_CLASSES:
        return None
    exact = probabilities / probabilities.sum(axis=1, keepdims=True)
    return float(sklearn_log_loss(true, exact, labels=np.arange(probabilities.shape[1])))


def roc_auc(true: Labels, probabilities: Floats) -> float | None:
    """Return the area under the ROC curve: of the second class if there are two, else the mean of one-against-rest.

    None if a class has no rows.
    """
    from sklearn.metrics import roc_auc_score

    k = probabilities.shape[1]
    if len(np.unique(true)) < max(k, _TWO_CLASSES):
        return None
    scored = [1] if k == _TWO_CLASSES else range(k)
    return float(np.mean([roc_auc_score(true == each, probabilities[:, each]) for each in scored]))


def confusion(true: Labels, predicted: Labels, k: int) -> NDArray[np.int64]:
    """Return how many rows of each class (rows) were predicted as each class (columns), shape (k, k)."""
    from sklearn.metrics import confusion_matrix

    matrix: NDArray[np.int64] = confusion_matrix(true, predicted, labels=np.arange(k))
    return matrix


def baseline_accuracy(true: Labels, class_counts: Labels) -> float:
    """Return the accuracy of always naming the class with the highest count, the first of them if several have it.

    Parameters
    ----------
    true
        Labels of the rows that are judged, shape (n,).
    class_counts
        Number of rows of each class among those that the guess is taken from: those in training, shape (k,).
    """
    return float(np.mean(true == np.argmax(class_counts)))


def undefined(true: Labels, predicted: Labels, classes: tuple[str, ...]) -> list[str]:
    """Return one line for each reason for which a number is undefined, or is over fewer classes than there are."""
    k = len(classes)
    support, guesses = np.bincount(true, minlength=k), np.bincount(predicted, minlength=k)
    lines = []
    empty = _listed(classes, support == 0)
    if np.count_nonzero(support) < _TWO_CLASSES:
        lines.append(
            f"all rows are of the class {classes[int(np.argmax(support))]!r}: the ROC AUC and the recall of other "
            "classes are undefined, and the balanced accuracy is the recall of this class"
        )
    elif empty:
        lines.append(
            f"no row is of the class {empty}: its recall and the ROC AUC are undefined, "
            "and the balanced accuracy is over the other classes"
        )
    unnamed = _listed(classes, guesses == 0)
    if unnamed:
        lines.append(f"no row was predicted as {unnamed}: its precision is undefined")
    return lines


def _listed(classes: tuple[str, ...], which: NDArray[np.bool_]) -> str:
    """Return the names of some classes, at most five."""
    names = [repr(name) for name, wanted in zip(classes, which, strict=True) if wanted]
    return ", ".join(names[:5]) + (f" (and {len(names) - 5} more)" if len(names) > 5 else "")  # noqa: PLR2004


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
