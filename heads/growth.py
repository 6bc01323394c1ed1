"""Growing a head: which rows it has met, which are new, and those that it kept beside the rows of a cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.images.views import View
from featurecache.memory import free_memory
from featurecache.options import VIEW_KINDS
from featurecache.text import counted, in_units, listed
from heads.artifact import Growth
from heads.errors import MismatchError, TrainingError
from heads.notices import Code, Notice
from heads.rows import row_blocks
from heads.splits import TRAIN, VALID, has_content_of, rows_digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from featurecache.feature_set import FeatureSet
    from heads.artifact import HeadRows, TrainedHead

_SHOWN = 12  # digits of a digest that stands for the path of a row


@dataclass(frozen=True, slots=True)
class GrownRows:
    """The rows of a training that continues a head.

    Parameters
    ----------
    train, valid
        The rows of the cache, and before them those that the head kept and the cache lacks.
    growth
        How many of the training rows the head had met; None if it does not have the list of its rows.
    notices
        Warnings about the rows.
    """

    train: FeatureSet
    valid: FeatureSet
    growth: Growth | None
    notices: tuple[Notice, ...]


def grown_rows(
    start: TrainedHead, train: FeatureSet, valid: FeatureSet, contents: Iterable[str], *, anew: bool
) -> GrownRows:
    """Return the rows that a training from a head has: those of a cache, and those that the head kept.

    The rows of the cache stand for the kept rows of the same content, whatever their labels and their split: a kept row
    whose image is in the test split now, or has lost its label, trains no more.

    Parameters
    ----------
    start
        The head.
    train, valid
        The labelled rows of the cache, in the head's classes and new ones after them.
    contents
        The contents of all rows of the cache, as SHA-256.
    anew
        Whether the training learns from all rows, as heads without epochs do, or continues from the head's weights.

    Raises
    ------
    TrainingError
        If a training from all rows lacks rows that trained the head, or there is no room for the rows.
    """
    rows = start.training_rows()
    if rows is None:
        return GrownRows(train, valid, None, _unlisted(start, train, anew=anew))
    here = set(contents)
    lacking = np.array([content not in here for content in rows.sha256], bool)
    lost = int(np.count_nonzero(lacking & ~rows.valid))
    features = _features(start, rows)
    lost_valid = int(np.count_nonzero(lacking & rows.valid))
    n_kept = 0
    if features is not None:
        (train, kept), (valid, kept_valid) = (
            _joined(own, rows, features, lacking & (rows.valid == role))
            for own, role in ((train, False), (valid, True))
        )
        n_kept, lost, lost_valid = kept, 0, lost_valid - kept_valid
    notices = _lost(start, lost, anew=anew)
    if lost_valid:
        message = (
            f"{lost_valid:,} of the {counted(start.training.n_valid, 'valid row')} of the head to continue are not in "
            "the cache, nor kept in the head: its accuracy is that of other rows"
        )
        notices.append(Notice(Code.OTHER_ROWS, message))
    known = has_content_of(train, rows.contents(valid=False))
    only_valid = has_content_of(valid, rows.contents(valid=False)) & ~has_content_of(valid, train.sha256)
    if not anew and (leaked := int(np.count_nonzero(only_valid))):  # others have a warning of their own
        message = f"{leaked:,} of the {counted(len(valid), 'valid row')} trained the head to continue, which knows them"
        notices.append(Notice(Code.OTHER_ROWS, f"{message}: their accuracy is optimistic"))
    changed = _relabelled(start, rows, train)
    if changed:
        paths = listed(train.paths[changed].tolist(), quoted=False)
        message = f"{counted(len(changed), 'row')} had another label when the earlier head was trained: {paths}"
        notices.append(Notice(Code.RELABELLED_ROWS, message))
    n_known = int(np.count_nonzero(known))
    growth = Growth(n_known, len(train) - n_known, n_kept, len(changed), _new_classes(start, train))
    return GrownRows(train, valid, growth, tuple(notices))


def _new_classes(start: TrainedHead, train: FeatureSet) -> tuple[str, ...]:
    """Return the classes, or labels, of training rows that did not train a head."""
    if train.target != "class":
        return train.classes[len(start.classes) :]
    return tuple(train.classes[index] for index in np.setdiff1d(train.y, start.trained_classes).tolist())


def start_columns(start: TrainedHead, train: FeatureSet) -> list[int | None]:
    """Return, for each class that training rows have, its place among the trained classes of a head; None if it is new.

    Raises
    ------
    MismatchError
        If a class of the head has no training row, which it would lose.
    """
    present = np.unique(train.y).tolist()
    lost = [start.classes[index] for index in start.trained_classes if index not in present]
    if lost:
        raise MismatchError(
            f"trained_classes: the head to continue was trained on {listed(lost, quoted=False)}, which no training row "
            "has: it would lose what it has learned of them; give rows of all its classes, such as those of its own "
            "cache (featurecache merge joins caches), or train heads with --keep-rows"
        )
    places = {index: place for place, index in enumerate(start.trained_classes)}
    return [places.get(index) for index in present]


def _features(start: TrainedHead, rows: HeadRows) -> NDArray[np.float32] | None:
    """Return the features that a head has of its rows: kept ones, or those of its model; None without."""
    if rows.X is not None:
        return rows.X
    of_model = getattr(start.model, "training_features", None)
    if of_model is None or len(of_model) != np.count_nonzero(~rows.valid):
        return None
    found = np.full((len(rows.sha256), start.model.width), np.nan, np.float32)
    found[~rows.valid] = of_model
    return found


def _joined(
    own: FeatureSet, rows: HeadRows, features: NDArray[np.float32], chosen: NDArray[np.bool_]
) -> tuple[FeatureSet, int]:
    """Return chosen rows of a head, if it has their features, and the rows of a cache after them; and their number."""
    numbers = np.flatnonzero(chosen & ~np.isnan(features[:, 0]))
    if not len(numbers):
        return own, 0
    needed, free = 4 * (len(numbers) + len(own)) * features.shape[1], free_memory()
    if needed > free:
        raise TrainingError(
            f"the rows of the cache and the {len(numbers):,} that the head kept are joined in memory: they take "
            f"{in_units(needed)}, and {in_units(free)} are free; join the caches instead (featurecache merge ALL.h5 "
            "OLD.h5 NEW.h5)"
        )
    X = np.empty((len(numbers) + len(own), features.shape[1]), np.float32)
    np.take(features, numbers, axis=0, out=X[: len(numbers)])
    for block in row_blocks(own.X):
        X[len(numbers) :][block] = own.X[block]
    y = rows.y[numbers]
    if own.target == "labels":
        y = np.pad(y, ((0, 0), (0, len(own.classes) - y.shape[1])))
    groups = rows.sha256 if rows.groups is None else rows.groups
    weights = np.ones(len(rows.y)) if rows.weights is None else rows.weights
    joined = replace(
        own,
        X=X,
        y=np.concatenate([y, own.y]),
        paths=np.concatenate([_names(rows, numbers), own.paths]),
        splits=np.concatenate([np.where(rows.valid[numbers], VALID, TRAIN).astype(object), own.splits]),
        sha256=np.concatenate([rows.sha256[numbers], own.sha256]),
        groups=None if own.groups is None else np.concatenate([groups[numbers], own.groups]),
        weights=None if own.weights is None else np.concatenate([weights[numbers], own.weights]),
    )
    return joined, len(numbers)


def _names(rows: HeadRows, numbers: NDArray[np.intp]) -> NDArray[np.object_]:
    """Return what messages call rows that a head kept: they have no path, but views are named as views are."""
    names = [f"a row that the head kept ({content[:_SHOWN]})" for content in rows.sha256[numbers]]
    if rows.is_view is not None:
        view = View(1, VIEW_KINDS)
        pairs = zip(names, rows.is_view[numbers].tolist(), strict=True)
        names = [view.path_of(name) if is_view else name for name, is_view in pairs]
    return np.array(names, dtype=object)


def _lost(start: TrainedHead, lost: int, *, anew: bool) -> list[Notice]:
    """Return a warning if rows that trained a head are not there; raise `TrainingError` if all are needed."""
    if not lost:
        return []
    n = start.training.n_train
    which = f"{lost:,} of the {counted(n, 'row')} that trained the head are not in the cache, nor kept in the head"
    if anew:
        raise TrainingError(
            f"{which}, and {start.name} learns from all rows: join the caches (featurecache merge ALL.h5 OLD.h5 "
            "NEW.h5), or train heads with --keep-rows to grow them without their cache"
        )
    return [Notice(Code.OTHER_ROWS, f"{which}: the head may forget what it has learned from them")]


def _unlisted(start: TrainedHead, train: FeatureSet, *, anew: bool) -> tuple[Notice, ...]:
    """Return a warning if a head without a list of its rows was trained on others; or raise `TrainingError`."""
    if start.training.rows_sha256 == rows_digest(train.sha256, train.y):
        return ()
    message = "the head has no list of the rows that trained it (rows.safetensors), and they are not those of the cache"
    if anew:
        raise TrainingError(f"{message}: {start.name} learns from all rows; train a new head")
    return (Notice(Code.OTHER_ROWS, f"{message}: they may include rows that evaluate it now"),)


def _relabelled(start: TrainedHead, rows: HeadRows, train: FeatureSet) -> list[int]:
    """Return the numbers of training rows that trained the head with other labels."""
    earlier: dict[str, set[Any]] = {}
    trained = ~rows.valid
    for content, y in zip(rows.sha256[trained], rows.y[trained], strict=True):
        earlier.setdefault(content, set()).add(_label(y))
    return [
        number
        for number, (content, y) in enumerate(zip(train.sha256, train.y, strict=True))
        if content in earlier and _label(y) not in earlier[content]
    ]


def _label(y: Any) -> Any:  # noqa: ANN401 - a class, a number, or a row of 0 and 1
    """Return what equal labels have in common."""
    return tuple(np.flatnonzero(y).tolist()) if np.ndim(y) else y.item()
