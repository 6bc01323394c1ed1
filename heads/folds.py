"""Out-of-fold probabilities: predictions for rows by heads that were trained without them and their duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heads.rows import Scaling, row_blocks
from heads.splits import FEWEST_FOLDS, NO_FOLD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from heads.base import Head
    from heads.notices import Notice
    from heads.rows import Features, Floats, Labels, Targets


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Predictions of heads for rows that were not in their training.

    Parameters
    ----------
    rows
        The numbers of the rows that could be checked, shape (m,), ascending.
    probabilities
        Shape (m, k), float64, a column for each class.
    warnings
        What the heads warn of, each notice once.
    """

    rows: Targets
    probabilities: Floats
    warnings: tuple[Notice, ...]


def checkable(y: Labels, groups: Targets) -> NDArray[np.bool_]:
    """Return which rows are labelled and of a class that has two groups of rows, shape (n,).

    Parameters
    ----------
    y
        Class indices, shape (n,); -1 without a label.
    groups
        The group of each row, shape (n,); see `heads.splits.folds_of`.
    """
    usable = y >= 0
    for label in np.unique(y[usable]):
        if len(np.unique(groups[y == label])) < FEWEST_FOLDS:
            usable &= y != label
    return usable


def out_of_fold(
    X: Features,
    y: Labels,
    assigned: NDArray[np.intp],
    names: Sequence[str],
    make: Callable[[], Head],
    *,
    scaling: Scaling | None,
    progress: Callable[[int, int], object],
    weights: Floats | None = None,
    together: Targets | None = None,
    only_train: NDArray[np.bool_] | None = None,
) -> OutOfFold:
    """For each fold, train a head on the other folds and predict the rows of the fold.

    Memory holds the training rows of one fold at a time. A row whose class has no training row is not predicted.

    Parameters
    ----------
    X
        Features, shape (n, d), finite; may be a read-only memory map.
    y
        Class indices, shape (n,).
    assigned
        The fold of each row, shape (n,); -1 for rows that take no part.
    names
        The names of the k classes.
    make
        Makes an untrained head, the same one each time.
    scaling
        What features are standardised with; None leaves them as they are.
    progress
        Called with the number of folds that are done, and that of all.
    weights
        The weights of the rows in training, shape (n,); None if all have weight 1.
    together
        The number of each row's group, as `Head.fit` takes it; None if all differ.
    only_train
        Which rows are in the training of other folds and not predicted, shape (n,), such as views; None for no row.

    Raises
    ------
    TrainingError
        If a training fails.
    """
    probabilities, predicted = np.zeros((len(y), len(names))), np.zeros(len(y), np.bool_)
    warnings: dict[Notice, None] = {}
    present = np.unique(assigned[assigned != NO_FOLD])
    most = max((int(np.count_nonzero((assigned != NO_FOLD) & (assigned != fold))) for fold in present), default=0)
    room = np.empty((most, X.shape[1]), np.result_type(X.dtype, np.float32))
    for done, fold in enumerate(present):
        progress(done, len(present))
        train = np.flatnonzero((assigned != NO_FOLD) & (assigned != fold))
        known, rows = np.unique(y[train]), np.flatnonzero(assigned == fold)
        rows = rows[np.isin(y[rows], known)]
        rows = rows if only_train is None else rows[~only_train[rows]]
        if len(known) < FEWEST_FOLDS or not len(rows):
            continue
        for block in row_blocks(room[: len(train)]):
            room[block] = _rows(X, train[block], scaling)
        own = None if weights is None else weights[train]
        groups = None if together is None else together[train]
        head = make().fit(room[: len(train)], y[train], sample_weight=own, together=groups, names=names)
        warnings |= dict.fromkeys(head.warnings_)
        for part in _blocks(rows, X.shape[1]):
            probabilities[np.ix_(part, head.classes_)] = head.predict_proba(_rows(X, part, scaling))
        predicted[rows] = True
    progress(len(present), len(present))
    numbers = np.flatnonzero(predicted)
    return OutOfFold(numbers, probabilities[numbers], tuple(warnings))


def _blocks(rows: Targets, width: int) -> Iterator[Targets]:
    """Yield row numbers, few enough at a time for any width."""
    for block in row_blocks(np.broadcast_to(np.float32(), (len(rows), width))):
        yield rows[block]


def _rows(X: Features, rows: Targets, scaling: Scaling | None) -> Features:
    return X[rows] if scaling is None else scaling.applied(X[rows])
