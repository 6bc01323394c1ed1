"""Which rows train a head and which evaluate it: splits, rows held out by content, and folds."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featurecache.errors import UnknownNameError
from featurecache.images.names import split_frame
from featurecache.images.splits import SPLITS, split_named
from featurecache.text import counted
from heads.errors import EvaluationError, ParameterError
from heads.notices import Code, Notice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.feature_set import FeatureSet

TRAIN, VALID = "train", "valid"
ALL = "all"  # every row, whatever its split
NO_FOLD = -1
FEWEST_FOLDS = 2
_HASH_RANGE = 2**64


DEFAULT_HOLDOUT = 0.2


@dataclass(frozen=True, slots=True)
class Holdout:
    """A rule that holds rows out of training by their content, so that rows of equal content stay together.

    Rows in groups are held out by their group instead; see `kept_together`.

    Parameters
    ----------
    fraction
        The expected share of held-out rows, at least 0 and below 1.
    seed
        The seed of the choice.

    Examples
    --------
    >>> Holdout(fraction=0.2, seed=0).holds_out("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
    False
    """

    fraction: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ParameterError(f"holdout is {self.fraction}, expected at least 0 and below 1")

    def holds_out(self, key: str) -> bool:
        """Return whether rows with this SHA-256, in hexadecimal digits, or of this group, are held out."""
        digest = hashlib.sha256(f"{self.seed}:{key}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * _HASH_RANGE


def labelled_images(cache: FeatureCache, tap: str) -> FeatureSet:
    """Return all rows of a cache with labels, paths and hashes, but no features: shape (n, 0)."""
    from featurecache.feature_set import FeatureSet

    images = cache.index.images
    return FeatureSet(
        X=np.empty((len(cache), 0), np.float32),
        y=images["label"].astype(np.int64),
        paths=cache.paths,
        splits=images["split"].astype(str).astype(object),
        sha256=cache.contents,
        classes=cache.classes,
        split=None,
        tap=tap,
        recipe=cache.recipe,
        groups=cache.groups,
        weights=cache.weights,
    )


def kept_together(features: FeatureSet) -> NDArray[np.object_]:
    """Return a key of each row, shape (n,), `str` objects: rows with the same key must not be separated.

    It is the content of the row, or its group if the rows have groups. Groups that share a content count as one, under
    the first of their names.

    Parameters
    ----------
    features
        The rows, best all of a cache.
    """
    if features.groups is None:
        return features.sha256
    joined: dict[str, str] = {}  # the name of a group, and that of another one with the same content, which comes first
    first_of: dict[str, str] = {}  # content to group
    names = np.where(features.groups == "", "\0" + features.sha256, features.groups)  # a row in no group is one
    for name, content in zip(names, features.sha256, strict=True):
        low, high = sorted((_root(joined, name), _root(joined, first_of.setdefault(content, name))))
        if low != high:
            joined[high] = low
    return np.array([_root(joined, name) for name in names], dtype=object)


def together_numbers(features: FeatureSet) -> NDArray[np.intp] | None:
    """Return a number for each row, shape (n,), the same for rows that must not be separated; None if all differ."""
    numbers = np.unique(kept_together(features).astype(str), return_inverse=True)[1]
    return numbers if numbers.max(initial=0) + 1 < len(numbers) else None


def _root(joined: dict[str, str], name: str) -> str:
    """Return the group that stands for all that this one was joined with; shorten the way to it."""
    while (above := joined.get(name)) is not None:
        joined[name] = joined.get(above, above)
        name = above
    return name


def has_valid_split(features: FeatureSet) -> bool:
    """Return whether a labelled row is in the valid split, so that no rows need to be held out."""
    return bool(np.any(features.labelled & (features.splits == VALID)))


def roles(features: FeatureSet, holdout: Holdout | None) -> NDArray[np.object_]:
    """Return the role of each row: ``"train"``, ``"valid"``, ``"test"``, or ``""`` for rows that are not used.

    The role of a row is its split. If the train split has no labelled row, rows without a split have the role train. If
    the valid split has no labelled row, the training rows that ``holdout`` holds out have the role valid. Augmented
    views only train: those of images with another role are not used.

    Parameters
    ----------
    features
        All rows of a cache; their number is n.
    holdout
        The rule for caches without a valid split; None to hold out no rows.

    Returns
    -------
    NDArray
        Shape (n,), `str` objects.
    """
    assigned = features.splits.copy()
    if not np.any(features.labelled & (assigned == TRAIN)):
        assigned[assigned == ""] = TRAIN
    if holdout is not None and holdout.fraction > 0 and not has_valid_split(features):
        pool = np.flatnonzero(assigned == TRAIN)
        keys = kept_together(features)[pool]
        held_out = np.fromiter(map(holdout.holds_out, keys), dtype=bool, count=len(pool))
        assigned[pool[held_out]] = VALID
    assigned[features.is_view & (assigned != TRAIN)] = ""
    return assigned


def rows_of_role(features: FeatureSet, role: str, holdout: Holdout | None) -> FeatureSet:
    """Return the rows of a role, or all rows for the role ``"all"``, labelled or not, without views; see `roles`.

    Consecutive rows are returned without a copy.

    Raises
    ------
    UnknownNameError
        If there is no such role.
    EvaluationError
        If no row has this role; the message counts the rows that there are.
    """
    if role == ALL:
        return without_views(features)
    role = split_named(role) or role
    if role not in SPLITS:
        raise UnknownNameError("split", role, {*filter(None, SPLITS), ALL})
    assigned = roles(features, holdout)
    rows = np.flatnonzero((assigned == role if role else features.splits == "") & ~features.is_view)
    if not len(rows):
        raise EvaluationError(
            f"no row is in {f'the {role} split' if role else 'no split'}: the rows are {count_text(features.splits)}; "
            f"choose a split that has rows, or all rows with --split {ALL}"
        )
    return take_rows(features, rows)


def without_views(features: FeatureSet) -> FeatureSet:
    """Return the rows of images alone, without augmented views of them."""
    is_view = features.is_view
    return features.take(~is_view) if is_view.any() else features


def training_rows(features: FeatureSet, holdout: Holdout | None) -> tuple[FeatureSet, FeatureSet]:
    """Return the labelled training rows and the labelled validation rows; either may be empty.

    Parameters
    ----------
    features
        All rows of a cache.
    holdout
        See `roles`.
    """
    assigned = np.where(features.labelled, roles(features, holdout), "")
    train, valid = (take_rows(features, np.flatnonzero(assigned == role)) for role in (TRAIN, VALID))
    return train, valid


def rows_digest(sha256: NDArray[np.object_], y: NDArray[Any]) -> str:
    """Return the SHA-256 of the contents and labels of rows, whatever their order and names; see `TrainingRecord`.

    Examples
    --------
    >>> rows_digest(np.array(["aa", "bb"]), np.array([0, 1])) == rows_digest(np.array(["bb", "aa"]), np.array([1, 0]))
    True
    """
    lines = sorted(f"{content} {label}" for content, label in zip(sha256, y.tolist(), strict=True))
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()


def same_content(valid: FeatureSet, train: FeatureSet) -> list[Notice]:
    """Return a warning if valid rows have the content of training rows."""
    same = int(np.count_nonzero(has_content_of(valid, train.sha256)))
    if not same:
        return []
    message = f"{same} of the {len(valid)} valid rows have the content of a training row: their accuracy is optimistic"
    return [Notice(Code.SAME_CONTENT, message)]


def torn_groups(
    groups: NDArray[np.object_] | None, trained: NDArray[np.object_] | None, which: str = "valid rows"
) -> list[Notice]:
    """Return a warning if rows are of groups with training rows; none if the rows have no groups.

    Parameters
    ----------
    groups, trained
        The groups of rows that did not train a head, and of those that did.
    which
        What the first ones are called.
    """
    both = set() if groups is None or trained is None else (set(groups) & set(trained)) - {""}
    if groups is None or not both:
        return []
    count = sum(group in both for group in groups)
    message = (
        f"{count:,} of the {len(groups):,} {which} are of {counted(len(both), 'group')} with training rows as well: "
        "the given splits tear groups, so the accuracy is optimistic"
    )
    return [Notice(Code.TORN_GROUPS, message)]


def torn_files(valid: FeatureSet, train: FeatureSet) -> list[Notice]:
    """Return a warning if frames of one file, such as pages of a scan, are on both sides of rows without groups.

    Parameters
    ----------
    valid, train
        The rows that did not train a head, and those that did.
    """
    if valid.groups is not None:
        return []
    found = [[split_frame(path) for path in rows.paths] for rows in (valid, train)]
    framed = {file for frames in found for file, frame in frames if frame > 1}
    both = framed.intersection(*([file for file, _ in frames] for frames in found))
    count = sum(file in both for file, _ in found[0])
    if not count:
        return []
    message = (
        f"{count:,} of the {len(valid):,} valid rows are frames of {counted(len(both), 'file')} with training rows "
        "as well, so the accuracy is optimistic: keep files together with --group file"
    )
    return [Notice(Code.TORN_GROUPS, message)]


def count_groups(features: FeatureSet) -> int:
    """Return the number of groups of rows; rows without groups are their own."""
    return len(features) if features.groups is None else len(set(features.groups))


def has_content_of(features: FeatureSet, sha256: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which rows have one of these contents, shape (n,)."""
    contents = set(sha256)
    return np.fromiter((content in contents for content in features.sha256), np.bool_, len(features))


def take_rows(features: FeatureSet, rows: NDArray[np.intp]) -> FeatureSet:
    """Return the rows of these ascending numbers, as a view of the features if they are consecutive."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return features.take(slice(int(rows[0]), int(rows[-1]) + 1))
    return features.take(rows)


def folds_of(
    y: NDArray[np.int64], groups: NDArray[np.intp], sha256: NDArray[np.object_], *, folds: int, seed: int
) -> NDArray[np.intp]:
    """Assign rows to folds: a group stays in one fold, and the rows of each class are spread evenly over the folds.

    Groups are assigned one after the other, large ones first, groups of equal size in an order that depends on their
    contents and the seed. Each group goes to the fold with the fewest rows of its most frequent class. So the order of
    the rows does not matter, and a class of at least two groups has rows in at least two folds. A class may have fewer
    groups than there are folds.

    Parameters
    ----------
    y
        Class indices, shape (n,), at least 0.
    groups
        The group number of each row, shape (n,). Rows of one group stay together.
    sha256
        The hash of each row's content, shape (n,). Rows of equal content must be in one group.
    folds
        Number of folds, at least 2.
    seed
        Different seeds give different folds.

    Returns
    -------
    NDArray
        The fold of each row, shape (n,), 0 to ``folds - 1``.
    """
    assigned = np.full(len(y), NO_FOLD, np.intp)
    rows_of_class = np.zeros((int(y.max(initial=0)) + 1, folds), np.intp)
    rows_of_fold = np.zeros(folds, np.intp)
    for rows in _shuffled_groups(groups, sha256, seed):
        counts = np.bincount(y[rows], minlength=len(rows_of_class))
        fold = np.lexsort((rows_of_fold, rows_of_class[counts.argmax()]))[0]
        rows_of_class[:, fold] += counts
        rows_of_fold[fold] += len(rows)
        assigned[rows] = fold
    return assigned


def _shuffled_groups(groups: NDArray[np.intp], sha256: NDArray[np.object_], seed: int) -> list[NDArray[np.intp]]:
    """Return the rows of each group: large groups first, groups of equal size in a random order."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []

    def key(rows: NDArray[np.intp]) -> tuple[int, str]:
        return -len(rows), hashlib.sha256(f"{seed}:{min(sha256[rows])}".encode()).hexdigest()

    return sorted(members, key=key)


def count_text(names: Iterable[str]) -> str:
    """Return the number of rows in each split, as text.

    Examples
    --------
    >>> count_text(["test", "test", ""])
    '1 in no split, 2 in test'
    """
    counts = sorted(Counter(names).items())
    return ", ".join(f"{count} in {name or 'no split'}" for name, count in counts)
