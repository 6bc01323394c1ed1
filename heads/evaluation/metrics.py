"""Scores of predictions, as scikit-learn defines them; undefined scores are None.

Labels are class indices below k, probabilities have shape (n, k) with rows that sum to 1. A class that
was not in a head's training rows has probability 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurecache.text import listed
from heads.evaluation.intervals import Interval, proportion
from heads.notices import Code, Notice
from heads.rows import Floats, Labels, row_blocks

TOP_K = 5  # ImageNet's custom
CALIBRATION_BINS = 15  # Guo et al. (2017)
_TWO_CLASSES = 2


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of one class.

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


@dataclass(frozen=True, slots=True)
class AverageScores:
    """Precision, recall and F1 as means over the classes that have rows.

    Parameters
    ----------
    precision
        None if one of these classes is predicted for no row.
    recall, f1
        Defined wherever there is a row.
    """

    precision: float | None
    recall: float | None
    f1: float | None


def accuracy(true: Labels, predicted: Labels, groups: NDArray[np.object_] | None = None) -> Interval:
    """Return the proportion of rows whose class was found; rows are in ``groups``, shape (n,), if there are any."""
    return proportion(true == predicted, groups)


def balanced_accuracy(true: Labels, predicted: Labels) -> float:
    """Return the mean recall of the classes that have rows."""
    from sklearn.metrics import recall_score

    return float(recall_score(true, predicted, labels=np.unique(true), average="macro"))


def class_scores(true: Labels, predicted: Labels, k: int) -> tuple[ClassScores, ...]:
    """Return precision, recall, F1 and support of each of k classes."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=np.arange(k), zero_division=np.nan)
    return tuple(
        ClassScores(_defined(precision), _defined(recall), _defined(f1), int(support))
        for precision, recall, f1, support in zip(*columns, strict=True)
    )


def average_scores(true: Labels, predicted: Labels) -> tuple[AverageScores, AverageScores]:
    """Return macro and weighted averages over the classes that have rows: each counts once, or as its rows do."""
    from sklearn.metrics import precision_recall_fscore_support

    present = np.unique(true)
    unnamed = not np.isin(present, predicted).all()
    averages = []
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, predicted, labels=present, average=average, zero_division=0.0
        )
        averages.append(AverageScores(None if unnamed else float(precision), float(recall), float(f1)))
    macro, weighted = averages
    return macro, weighted


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

    return _of_ranked_classes(roc_auc_score, true, probabilities)


def average_precision(true: Labels, probabilities: Floats) -> float | None:
    """Return the precision averaged over recall: of the second class if there are two, else the mean of all classes.

    None if a class has no rows.
    """
    from sklearn.metrics import average_precision_score

    return _of_ranked_classes(average_precision_score, true, probabilities)


def _of_ranked_classes(
    score: Callable[[NDArray[np.bool_], Floats], float], true: Labels, probabilities: Floats
) -> float | None:
    """Return the mean score of classes, each against the rest; None if a class has no rows."""
    k = probabilities.shape[1]
    if len(np.unique(true)) < max(k, _TWO_CLASSES):
        return None
    return float(np.mean([score(true == each, probabilities[:, each]) for each in ranked_classes(k)]))


def ranked_classes(k: int) -> range:
    """Return which of k classes the ROC AUC and the average precision are taken of, each against the rest."""
    return range(1, 2) if k == _TWO_CLASSES else range(k)


def top_k_accuracy(
    true: Labels,
    probabilities: Floats,
    top: int = TOP_K,
    *,
    known: NDArray[np.bool_] | None = None,
    groups: NDArray[np.object_] | None = None,
) -> Interval | None:
    """Return the proportion of rows whose class is among the ``top`` likeliest; None if there are no more classes.

    Of equally likely classes the later ones come first, as in scikit-learn's ``top_k_accuracy_score``; unlike that,
    no row is sorted.

    Parameters
    ----------
    true, probabilities
        Labels, shape (n,), and probabilities, shape (n, k).
    top
        The number of classes.
    known
        Which classes the head knows, shape (k,); all if None. Only these are ranked, so that no tie at probability 0
        finds a row of another class.
    groups
        The group of each row, shape (n,), if the rows are in groups.
    """
    n, k = probabilities.shape
    known = np.ones(k, np.bool_) if known is None else known
    if np.count_nonzero(known) <= top:
        return None
    found = np.zeros(n, np.bool_)
    for rows in row_blocks(probabilities):
        block, own = probabilities[rows], true[rows, np.newaxis]
        of_own = np.take_along_axis(block, own, axis=1)
        before = ((block > of_own) | ((block == of_own) & (np.arange(k) > own))) & known
        found[rows] = known[true[rows]] & (before.sum(axis=1) < top)
    return proportion(found, groups)


def calibration_bins(confidence: Floats) -> NDArray[np.intp]:
    """Return the bin, from 0, that each highest probability falls into: 15 of equal width, closed above; shape (n,)."""
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.intp) - 1
    return np.clip(bins, 0, CALIBRATION_BINS - 1)


def calibration_error(true: Labels, probabilities: Floats) -> float:
    """Return the expected calibration error of the predicted class.

    The mean difference, without its sign, between accuracy and mean probability in 15 bins of equal width, weighted by
    their rows: C. Guo et al., "On calibration of modern neural networks", ICML 2017.
    """
    confidence = probabilities.max(axis=1)
    gaps = (probabilities.argmax(axis=1) == true) - confidence
    per_bin = np.bincount(calibration_bins(confidence), weights=gaps)
    return float(np.abs(per_bin).sum() / len(true))


def confusion(true: Labels, predicted: Labels, k: int) -> NDArray[np.int64]:
    """Return how many rows of each class (rows) were predicted as each class (columns), shape (k, k)."""
    return np.asarray(np.bincount(true * k + predicted, minlength=k * k).reshape(k, k), dtype=np.int64)


def baseline_accuracy(true: Labels, class_counts: Labels) -> float:
    """Return the accuracy of always naming the class with the highest count, the first of them if several have it.

    Parameters
    ----------
    true
        Labels of the evaluated rows, shape (n,).
    class_counts
        Number of rows of each class among those that the guess is taken from: those in training, shape (k,).
    """
    return float(np.mean(true == np.argmax(class_counts)))


def undefined(true: Labels, predicted: Labels, classes: tuple[str, ...]) -> list[Notice]:
    """Return a notice for each reason for which a number is undefined, or is over fewer classes than there are."""
    k = len(classes)
    support, guesses = np.bincount(true, minlength=k), np.bincount(predicted, minlength=k)
    messages = []
    empty = listed((name for name, count in zip(classes, support, strict=True) if not count), sort=False)
    if k < _TWO_CLASSES:
        messages.append(
            f"{classes[0]!r} is the only class: the log loss, the ROC AUC and the average precision are undefined"
        )
    elif np.count_nonzero(support) < _TWO_CLASSES:
        messages.append(
            f"all rows are of the class {classes[int(np.argmax(support))]!r}: the ROC AUC, the average precision and "
            "the recall of other classes are undefined, and the balanced accuracy and all averages are of this class"
        )
    elif empty:
        messages.append(
            f"no row is of the class {empty}: its recall, the ROC AUC and the average precision are undefined, "
            "and the balanced accuracy and all averages are over the other classes"
        )
    unnamed = listed((name for name, count in zip(classes, guesses, strict=True) if not count), sort=False)
    if unnamed:
        averages = ", and so are the macro and the weighted precision" if ((guesses == 0) & (support > 0)).any() else ""
        messages.append(f"no row was predicted as {unnamed}: its precision is undefined{averages}")
    return [Notice(Code.UNDEFINED_SCORE, message) for message in messages]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
