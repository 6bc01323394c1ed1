"""Which rows candidates are trained on and which they are judged by; rows of the test split are not even looked at."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache, FeatureSet
from heads.errors import ParameterError, TrainingError
from heads.rows import Targets
from heads.splits import TRAIN, VALID, Holdout, count_text, roles

_FEWEST_FOLDS = 2
_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Judging:
    """How candidates are judged.

    Parameters
    ----------
    folds
        Number of parts of the training rows, each of which judges what the others have trained; 0 for the rows of the
        valid split.
    holdout
        Part of the training rows that stands in for a valid split where there is none; see `heads.splits.Holdout`.
    seed
        What the choice of rows follows from, and every head's random choices.
    """

    folds: int
    holdout: float
    seed: int

    def __post_init__(self) -> None:
        if self.folds and self.folds < _FEWEST_FOLDS:
            raise ParameterError(
                f"folds is {self.folds}, expected at least {_FEWEST_FOLDS}, or 0 to judge by valid rows"
            )
        if not 0 <= self.seed < _SEEDS:
            raise ParameterError(f"the seed is {self.seed}, expected a whole number from 0 to {_SEEDS - 1}")
        Holdout(self.holdout, self.seed)

    @property
    def rule(self) -> Holdout | None:
        """The rule that holds rows out; None where folds take its place."""
        return None if self.folds else Holdout(self.holdout, self.seed)

    @property
    def parts(self) -> range:
        """The parts that judge, one after the other."""
        return range(self.folds or 1)


def labelled_images(cache: FeatureCache, tap: str) -> FeatureSet:
    """Return all rows of a cache with labels, paths and hashes, but no features."""
    images = cache.index.images
    return FeatureSet(
        X=np.empty((len(cache), 0), np.float32),
        y=images["label"].astype(np.int64),
        paths=images["path"],
        splits=images["split"].astype(str).astype(object),
        sha256=images["sha256"].astype(str).astype(object),
        classes=cache.classes,
        split=None,
        tap=tap,
        recipe=cache.recipe,
    )


def usable_rows(images: FeatureSet, judging: Judging) -> tuple[Targets, Targets]:
    """Return the numbers of the rows that train heads, and of those that judge them unless folds do.

    Raises
    ------
    TrainingError
        If they cannot train or judge a head.
    """
    labelled = images.y >= 0
    if not labelled.any():
        raise TrainingError(
            "the cache has no labelled rows; extract from folders named by class, or from a table with a label column"
        )
    assigned = np.where(labelled, roles(images, judging.rule), "")
    train = np.flatnonzero(assigned == TRAIN)
    valid = np.flatnonzero((assigned == VALID) & (not judging.folds))
    where = count_text(images.splits[labelled])
    if not len(train):
        raise TrainingError(f"there are no training rows: the labelled rows are {where}; put images into a train split")
    present = np.unique(images.y[train])
    if len(present) == 1:
        raise TrainingError(
            f"all {len(train)} training rows are of the class {images.classes[present[0]]!r}; "
            "a head needs rows of at least two classes"
        )
    if judging.folds > len(train):
        raise TrainingError(f"{judging.folds} folds of {len(train)} training rows; take fewer folds")
    if not judging.folds and not len(valid):
        raise TrainingError(
            f"there are no rows to judge by: the labelled rows are {where}; hold some out, or judge by folds"
        )
    return train, valid


def parts_of(images: FeatureSet, judging: Judging) -> NDArray[np.int32]:
    """Return the part that each row belongs to, shape (n,); -1 for rows that are not used.

    Part p is judged by heads that were trained on the rows of all other parts. Without folds valid rows are part 0,
    training rows part 1, and nothing but part 0 judges. With folds the classes have equal shares in every part, and
    rows of equal content are in the same one.

    Raises
    ------
    TrainingError
        If a class has fewer different images than there are folds.
    """
    train, valid = usable_rows(images, judging)
    parts = np.full(len(images), -1, np.int32)
    if not judging.folds:
        parts[valid], parts[train] = 0, 1
        return parts
    from sklearn.model_selection import StratifiedGroupKFold

    y, contents = images.y[train], np.unique(images.sha256[train].astype(str), return_inverse=True)[1]
    for label in np.unique(y):
        different = len(np.unique(contents[y == label]))
        if different < judging.folds:
            raise TrainingError(
                f"{judging.folds} folds need as many different training images of each class, and "
                f"{images.classes[label]!r} has {different}; take fewer folds, or leave the class out"
            )
    splitter = StratifiedGroupKFold(judging.folds, shuffle=True, random_state=judging.seed)
    for part, (_, judged) in enumerate(splitter.split(y, y, contents)):
        parts[train[judged]] = part
    return parts


def rows_of(parts: NDArray[np.int32], part: int) -> tuple[Targets, Targets]:
    """Return the numbers of the rows that train, and of those that judge, for one part, both ascending."""
    return np.flatnonzero((parts >= 0) & (parts != part)), np.flatnonzero(parts == part)


def identity(images: FeatureSet, judging: Judging) -> str:
    """Return the SHA-256 of all that the rows to train and judge by are: recipe, classes, places, contents, labels."""
    train, valid = usable_rows(images, judging)
    digest = hashlib.sha256(json.dumps([images.fingerprint, images.classes, len(images)]).encode())
    for role, rows in ((TRAIN, train), (VALID, valid)):
        for row, sha256, label in zip(rows.tolist(), images.sha256[rows], images.y[rows].tolist(), strict=True):
            digest.update(f"{role} {row} {sha256} {label}\n".encode())
    return digest.hexdigest()
