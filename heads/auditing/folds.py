"""Out-of-fold probabilities: what heads say about rows that they, and copies of them, have not learned from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from heads.rows import Scaling, row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from heads.base import Head
    from heads.rows import Features, Floats, Labels, Targets

NO_FOLD = -1
FEWEST_FOLDS = 2


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """What heads say about rows that they have not learned from.

    Parameters
    ----------
    rows
        The numbers of the rows that could be judged, shape (m,), ascending.
    probabilities
        Shape (m, k), float64, a column for each class.
    warnings
        What the heads warn of, each text once.
    """

    rows: Targets
    probabilities: Floats
    warnings: tuple[str, ...]


def judgeable(y: Labels, groups: Targets) -> NDArray[np.bool_]:
    """Return which rows are labelled and of a class that has two groups of rows, shape (n,).

    Parameters
    ----------
    y
        Class indices, shape (n,); -1 without a label.
    groups
        The group of each row, shape (n,), see `deal`.
    """
    usable = y >= 0
    for label in np.unique(y[usable]):
        if len(np.unique(groups[y == label])) < FEWEST_FOLDS:
            usable &= y != label
    return usable


def deal(y: Labels, groups: Targets, sha256: NDArray[np.object_], *, folds: int, seed: int) -> NDArray[np.intp]:
    """Return the fold of each row, shape (n,): a group is in one fold, and every class has like shares of all.

    Groups come in an order drawn from their contents and the seed, large ones first, and each goes where its class has
    fewest rows so far. So the order of the rows changes nothing, and a class of two groups has rows in two folds; a
    class may have fewer groups than there are folds.

    Parameters
    ----------
    y
        Class indices, shape (n,), at least 0.
    groups
        Numbers of groups of rows that must not be parted, shape (n,).
    sha256
        The hash of each row's content, shape (n,); equal contents are in one group.
    folds
        At least 2.
    seed
        Another seed gives other folds.
    """
    dealt = np.full(len(y), NO_FOLD, np.intp)
    of_class, of_fold = np.zeros((int(y.max(initial=0)) + 1, folds), np.intp), np.zeros(folds, np.intp)
    for rows in _drawn(groups, sha256, seed):
        counts = np.bincount(y[rows], minlength=len(of_class))
        fold = np.lexsort((of_fold, of_class[counts.argmax()]))[0]
        of_class[:, fold] += counts
        of_fold[fold] += len(rows)
        dealt[rows] = fold
    return dealt


def _drawn(groups: Targets, sha256: NDArray[np.object_], seed: int) -> list[Targets]:
    """Return the rows of each group, the groups in a drawn order, large ones first."""
    order = np.argsort(groups, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []

    def key(rows: Targets) -> tuple[int, str]:
        return -len(rows), hashlib.sha256(f"{seed}:{min(sha256[rows])}".encode()).hexdigest()

    return sorted(parts, key=key)


def out_of_fold(
    X: Features,
    y: Labels,
    dealt: NDArray[np.intp],
    names: Sequence[str],
    make: Callable[[], Head],
    *,
    scaling: Scaling | None,
    progress: Callable[[int, int], object],
) -> OutOfFold:
    """Train a head on the rows of all folds but one, and let it judge that one; so for each fold.

    Memory holds one copy of the rows that train, never more. A row is not judged where its class has no row to train.

    Parameters
    ----------
    X
        Features, shape (n, d), finite; may be a read-only memory map.
    y
        Class indices, shape (n,).
    dealt
        The fold of each row, shape (n,); -1 for rows that take no part.
    names
        The names of the k classes.
    make
        Makes an untrained head, the same one each time.
    scaling
        What features are standardised with; None leaves them as they are.
    progress
        Called with the number of folds that are done, and that of all.

    Raises
    ------
    TrainingError
        If a training fails.
    """
    probabilities, judged = np.zeros((len(y), len(names))), np.zeros(len(y), np.bool_)
    warnings: dict[str, None] = {}
    present = np.unique(dealt[dealt != NO_FOLD])
    most = max((int(np.count_nonzero((dealt != NO_FOLD) & (dealt != fold))) for fold in present), default=0)
    room = np.empty((most, X.shape[1]), np.result_type(X, np.float32))
    for done, fold in enumerate(present):
        progress(done, len(present))
        train = np.flatnonzero((dealt != NO_FOLD) & (dealt != fold))
        known, rows = np.unique(y[train]), np.flatnonzero(dealt == fold)
        rows = rows[np.isin(y[rows], known)]
        if len(known) < FEWEST_FOLDS or not len(rows):
            continue
        for some in row_blocks(room[: len(train)]):
            room[some] = _rows(X, train[some], scaling)
        head = make().fit(room[: len(train)], y[train], names=names)
        warnings |= dict.fromkeys(head.warnings_)
        for part in _blocks(rows, X.shape[1]):
            probabilities[np.ix_(part, head.classes_)] = head.predict_proba(_rows(X, part, scaling))
        judged[rows] = True
    progress(len(present), len(present))
    numbers = np.flatnonzero(judged)
    return OutOfFold(numbers, probabilities[numbers], tuple(warnings))


def _blocks(rows: Targets, width: int) -> Iterator[Targets]:
    """Yield row numbers, few enough at a time for any width."""
    for some in row_blocks(np.broadcast_to(np.float32(), (len(rows), width))):
        yield rows[some]


def _rows(X: Features, rows: Targets, scaling: Scaling | None) -> Features:
    return X[rows] if scaling is None else scaling.applied(X[rows])
