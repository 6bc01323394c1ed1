"""Which rows of a cache evaluate a head, and which of them the head has met in training."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from featurecache.errors import OptionError, UnknownNameError
from featurecache.images.splits import split_named
from featurecache.text import counted
from heads.errors import EvaluationError, MismatchError
from heads.notices import Code, Notice
from heads.splits import (
    ALL,
    TRAIN,
    VALID,
    has_content_of,
    has_valid_split,
    labelled_images,
    roles,
    rows_digest,
    rows_of_role,
    torn_groups,
    without_views,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet
    from heads.artifact import TrainedHead


def select_rows(cache: FeatureCache, head: TrainedHead, split: str) -> FeatureSet:
    """Return the rows of a cache on which to evaluate a head, with labels in the head's classes.

    Classes are matched by name. Classes of these rows that the head does not know follow its own.

    Parameters
    ----------
    cache
        The cache that trained the head, or any other one with the head's recipe and tap.
    head
        The head.
    split
        ``"train"``, ``"valid"``, ``"test"``, or ``"all"`` for all rows. If the cache has no train split, its rows
        without a split are ``"train"``; if it has no valid split, the rule that held rows out of the head's training
        divides them into ``"train"`` and ``"valid"``. In the cache that trained the head, these are exactly the rows
        that trained it and those that were held out. The rows are in the groups of the cache, or else in those of the
        head's training if the cache has that column.

    Raises
    ------
    MismatchError
        If the head was trained on another recipe or tap, no class of the cache is one of the head's, or the holdout
        needs a column of groups that the cache does not have.
    UnknownNameError
        If there is no such split.
    EvaluationError
        If the cache has no such rows, or no labelled rows at all.

    Examples
    --------
    >>> len(heads.select_rows(cache, head, "valid"))
    16
    """
    if head.tap not in cache.taps:
        raise MismatchError(
            f"tap: the head was trained on {head.tap!r}, the cache holds {', '.join(cache.taps)}; "
            f"extract with that tap, or train a new head"
        )
    features = cache.features(head.tap)
    if not features.classes:
        raise EvaluationError(
            "the cache has no labelled rows to evaluate on; give labels with --labels FILE.csv, or use predict"
        )
    chosen = split_named(split) or split
    holdout = head.training.holdout if chosen in {TRAIN, VALID} and not has_valid_split(features) else None
    rows = rows_of_role(_in_own_groups(head, features, cache, needed=holdout is not None), split, holdout)
    if cache.group_column is not None:  # intervals take the groups that were asked for, whatever the holdout took
        rows = replace(rows, groups=_of_rows(rows, features))
    return replace(head.in_own_classes(rows), split=chosen)


def _of_rows(rows: FeatureSet, features: FeatureSet) -> NDArray[np.object_] | None:
    """Return the groups that rows have among all features of their cache."""
    if features.groups is None:
        return None
    by_path = dict(zip(features.paths, features.groups, strict=True))
    return np.array([by_path[path] for path in rows.paths], dtype=object)


def _in_own_groups(head: TrainedHead, features: FeatureSet, cache: FeatureCache, *, needed: bool) -> FeatureSet:
    """Return all features of a cache in the groups that the head's training kept together, or in none.

    Raises
    ------
    MismatchError
        If they are ``needed`` and the cache has no such column.
    """
    record = head.training.groups
    if record is None or record.column == cache.group_column:
        return features if record else replace(features, groups=None)
    try:
        return replace(features, groups=cache.with_groups(record.column).groups)
    except (UnknownNameError, OptionError) as e:
        if not needed:
            return replace(features, groups=None)
        raise MismatchError(
            f"groups: the head's training kept groups of the column {record.column!r} together, and the holdout needs "
            f"it: {e}; give the table that has it with --labels FILE.csv, or evaluate all rows with --split {ALL}"
        ) from e


def rows_to_evaluate(
    head: TrainedHead, features: FeatureSet, cache: FeatureCache | None
) -> tuple[FeatureSet, list[Notice]]:
    """Return the labelled rows without views, in the head's classes, and warnings about them.

    Raises
    ------
    EvaluationError
        If no row has a label.
    MismatchError
        If the head may not be used on these rows.
    """
    rows = without_views(head.in_own_classes(features))
    labelled = rows.labelled
    rows, notes = labelled_rows(rows), left_out(labelled)
    return rows, [*notes, *on_training_rows(head, rows, cache)]


@contextmanager
def errors_name_images(features: FeatureSet) -> Iterator[None]:
    """Let an `EvaluationError` about a row name its image."""
    try:
        yield
    except EvaluationError as e:
        raise EvaluationError(f"{features.paths[e.row]}: {e}" if e.row is not None else str(e), e.row) from e


def labelled_rows(features: FeatureSet) -> FeatureSet:
    """Return the rows that have a label; raise `EvaluationError` if there are none."""
    labelled = features.labelled
    if not labelled.any():
        raise EvaluationError(f"none of {len(features)} rows has a label; there is nothing to compare predictions with")
    return features if labelled.all() else features.take(labelled)


def left_out(labelled: NDArray[np.bool_]) -> list[Notice]:
    """Return a warning that counts the rows without a label, if there are any."""
    unlabelled = int(np.count_nonzero(~labelled))
    if not unlabelled:
        return []
    return [Notice(Code.UNLABELLED_ROWS, f"{counted(unlabelled, 'row')} without a label: left out")]


def trained_rows(head: TrainedHead, features: FeatureSet) -> NDArray[np.bool_]:
    """Return which rows trained a head, shape (n,).

    These are all rows of a role, of a split, or all rows, if they have the hash of the contents and labels of the
    head's training rows; the names of splits do not matter. Else they are the rows with the content of a training row,
    if the head has the list of its rows.

    Parameters
    ----------
    head
        The head.
    features
        Rows with labels in the head's classes (`heads.TrainedHead.in_own_classes`).
    """
    return _found(head, features, TRAIN, head.training.n_train, head.training.rows_sha256)


def _found(head: TrainedHead, features: FeatureSet, role: str, count: int, digest: str) -> NDArray[np.bool_]:
    """Return which rows are those of this number and digest, shape (n,): of a role, of a split, or all.

    If there are none, return those with the content of the head's rows of this role, if it has their list.
    """
    choices = (
        roles(features, head.training.holdout) == role,
        *(features.splits == split for split in sorted(set(features.splits))),
        np.ones(len(features), np.bool_),
    )
    for choice in choices:
        chosen = choice & features.labelled
        if np.count_nonzero(chosen) == count and rows_digest(features.sha256[chosen], features.y[chosen]) == digest:
            return np.asarray(chosen)
    rows = head.training_rows()
    if rows is None:
        return np.zeros(len(features), np.bool_)
    return features.labelled & has_content_of(features, rows.contents(valid=role == VALID))


def on_calibration_rows(head: TrainedHead, features: FeatureSet, cache: FeatureCache | None) -> Iterator[Notice]:
    """Yield a warning if a head's calibration was fitted on rows that evaluate it, or on rows of equal content.

    Parameters
    ----------
    head, features, cache
        As in `on_training_rows`.
    """
    calibration = head.calibration
    if calibration is None:
        return
    everything = features if cache is None else head.in_own_classes(labelled_images(cache, head.tap))
    role = TRAIN if calibration.folds else VALID
    fitted = _found(head, everything, role, calibration.n_rows, calibration.rows_sha256)
    count, n = int(np.count_nonzero(has_content_of(features, everything.sha256[fitted]))), len(features)
    if count:
        which = f"all {counted(n, 'row')}" if count == n else f"{count:,} of {counted(n, 'row')}"
        message = f"the calibration was fitted on {which}: probabilities fit them better than new images"
        yield Notice(Code.CALIBRATION_ROWS, message)


def on_training_rows(head: TrainedHead, features: FeatureSet, cache: FeatureCache | None) -> Iterator[Notice]:
    """Yield warnings about rows that trained a head, that equal rows which did, or that its holdout rule chose.

    Parameters
    ----------
    head
        The head.
    features
        The labelled rows that evaluate it, in its classes.
    cache
        The cache that they are of, where training rows are looked for; None to look among ``features`` only.
    """
    everything = features
    if cache is not None:
        images = head.in_own_classes(labelled_images(cache, head.tap))
        everything = _in_own_groups(head, images, cache, needed=False)
    if head.training.groups and features.groups is None:
        message = (
            f"the head was trained with groups of the column {head.training.groups.column!r}, which these rows do not "
            "have: intervals take rows as independent"
        )
        yield Notice(Code.NO_GROUPS, message)
    trained = trained_rows(head, everything)
    if trained.any():
        paths, n = set(everything.paths[trained]), len(features)
        own = np.fromiter((path in paths for path in features.paths), np.bool_, n)
        same = has_content_of(features, everything.sha256[trained]) & ~own
        count, others = int(np.count_nonzero(own)), int(np.count_nonzero(~own))
        if count:
            which = f"all {counted(n, 'row')}" if count == n else f"{count:,} of {counted(n, 'row')}"
            message = f"{which} trained the head: it is better on them than on new images"
            yield Notice(Code.TRAINING_ROWS, message)
        if same.any():
            found = f"{np.count_nonzero(same):,} of {counted(others, 'row')} that did not train the head"
            yield Notice(Code.SAME_CONTENT, f"{found} have the content of a row that did: the accuracy is optimistic")
        groups = everything.groups if cache is None or cache.groups is None else cache.groups
        if features.groups is not None and groups is not None:
            yield from torn_groups(features.groups[~own], groups[trained], "rows that did not train the head")
    elif cache is not None and _is_by_holdout(head, features, everything):
        pool = int(np.count_nonzero(everything.labelled & (roles(everything, None) == TRAIN)))
        yield Notice(
            Code.ROWS_BY_HOLDOUT,
            f"the cache has no valid split, and other rows trained the head: its holdout chose these {len(features):,} "
            f"of {counted(pool, 'row')}; --split {ALL} evaluates all",
        )


def _is_by_holdout(head: TrainedHead, features: FeatureSet, everything: FeatureSet) -> bool:
    """Whether the holdout rule of a head's training has chosen rows for their split."""
    return bool(head.training.holdout and features.split in {TRAIN, VALID} and not has_valid_split(everything))
