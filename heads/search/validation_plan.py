"""The rows that train and validate the candidates of a sweep; test rows are never read."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurecache.feature_set import FeatureSet
from heads.errors import ParameterError, TrainingError
from heads.rows import Targets
from heads.splits import FEWEST_FOLDS, TRAIN, VALID, Holdout, count_text, folds_of, kept_together, roles

_SEEDS = 2**32
_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CLASS = 2_000, 20


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """How a sweep validates candidates.

    Parameters
    ----------
    folds
        Number of folds of the training rows for cross-validation; 0 to validate on the rows of the valid split.
    holdout
        Part of the training rows that stands in for a valid split where there is none; see `heads.splits.Holdout`.
    seed
        Seed of the choice of rows and of the heads.
    """

    folds: int
    holdout: float
    seed: int

    def __post_init__(self) -> None:
        if self.folds and self.folds < FEWEST_FOLDS:
            raise ParameterError(
                f"folds is {self.folds}, expected at least {FEWEST_FOLDS}, or 0 to validate on valid rows"
            )
        if not 0 <= self.seed < _SEEDS:
            raise ParameterError(f"the seed is {self.seed}, expected a whole number from 0 to {_SEEDS - 1}")
        Holdout(self.holdout, self.seed)

    @property
    def rule(self) -> Holdout | None:
        """The rule that holds rows out; None with folds."""
        return None if self.folds else Holdout(self.holdout, self.seed)

    @property
    def parts(self) -> range:
        """The parts that validate, in order."""
        return range(self.folds or 1)


def usable_rows(images: FeatureSet, validation: ValidationPlan) -> tuple[Targets, Targets]:
    """Return the numbers of the training rows and of the validation rows; with folds there are no validation rows.

    Raises
    ------
    TrainingError
        If the rows cannot train or validate a head.
    """
    labelled = images.y >= 0
    if not labelled.any():
        raise TrainingError(
            "the cache has no labelled rows; extract from folders named by class or from a table with a label column, "
            "or give labels with --labels FILE.csv"
        )
    assigned = np.where(labelled, roles(images, validation.rule), "")
    train = np.flatnonzero(assigned == TRAIN)
    valid = np.flatnonzero((assigned == VALID) & (not validation.folds))
    where = count_text(images.splits[labelled])
    if not len(train):
        raise TrainingError(f"there are no training rows: the labelled rows are {where}; put images into a train split")
    present = np.unique(images.y[train])
    if len(present) == 1:
        raise TrainingError(
            f"all {len(train)} training rows are of the class {images.classes[present[0]]!r}; "
            "a head needs rows of at least two classes"
        )
    if validation.folds > len(train):
        raise TrainingError(f"{validation.folds} folds of {len(train)} training rows; take fewer folds")
    if not validation.folds and not len(valid):
        raise TrainingError(
            f"there are no rows to validate on: the labelled rows are {where}; hold some out, or use folds"
        )
    return train, valid


def parts_of(images: FeatureSet, validation: ValidationPlan) -> NDArray[np.int32]:
    """Return the part that each row belongs to, shape (n,); -1 for rows that are not used.

    Part p is predicted by heads that were trained on the rows of all other parts. Without folds valid rows are part 0,
    training rows part 1, and only part 0 validates. With folds the classes have equal shares in every part, and
    rows of equal content, or of one group, are in the same one.

    Raises
    ------
    TrainingError
        If a class has fewer different images, or groups, than there are folds.
    """
    train, valid = usable_rows(images, validation)
    parts = np.full(len(images), -1, np.int32)
    if not validation.folds:
        parts[valid], parts[train] = 0, 1
        return parts
    y, together = images.y[train], np.unique(kept_together(images)[train].astype(str), return_inverse=True)[1]
    for label in np.unique(y):
        different = len(np.unique(together[y == label]))
        if different < validation.folds:
            units = "different training images" if images.groups is None else "groups of training images"
            raise TrainingError(
                f"{validation.folds} folds need as many {units} of each class, and "
                f"{images.classes[label]!r} has {different}; take fewer folds, or leave the class out"
            )
    parts[train] = folds_of(y, together, images.sha256[train], folds=validation.folds, seed=validation.seed)
    return parts


def rows_of(
    parts: NDArray[np.int32], part: int, only_train: NDArray[np.bool_] | None = None
) -> tuple[Targets, Targets]:
    """Return the numbers of the training rows and of the validation rows for one part, both ascending.

    Rows that ``only_train``, such as views, do not validate.
    """
    validates = parts == part if only_train is None else (parts == part) & ~only_train
    return np.flatnonzero((parts >= 0) & (parts != part)), np.flatnonzero(validates)


def validation_groups(images: FeatureSet, validation: ValidationPlan) -> NDArray[np.object_] | None:
    """Return the groups of the rows that validate, part by part, shape (m,); None without groups."""
    if images.groups is None:
        return None
    parts = parts_of(images, validation)
    return np.concatenate([images.groups[rows_of(parts, part, images.is_view)[1]] for part in validation.parts])


def sample_of(
    images: FeatureSet, parts: NDArray[np.int32], validation: ValidationPlan, k: int
) -> NDArray[np.bool_] | None:
    """Return which rows are in the sample of the training rows, shape (n,); None if it would be more than half of them.

    It has 2,000 rows, or 20 of each of k classes. Each class has its share, and at least two of its rows. Rows are
    chosen by their content and the seed.
    """
    train = np.flatnonzero((parts >= 0) if validation.folds else (parts == 1))
    size = max(_SAMPLE_ROWS, _SAMPLE_ROWS_PER_CLASS * k)
    if 2 * size > len(train):
        return None
    sample = np.zeros(len(parts), np.bool_)
    for label in np.unique(images.y[train]):
        rows = train[images.y[train] == label]
        keys = [hashlib.sha256(f"{validation.seed}:{images.sha256[row]}".encode()).hexdigest() for row in rows]
        count = max(2, round(len(rows) * size / len(train)))
        sample[rows[np.argsort(keys, kind="stable")[:count]]] = True
    return sample


def identity(images: FeatureSet, validation: ValidationPlan) -> str:
    """Return the SHA-256 of the training and validation rows: recipe, classes, places, contents, labels, and more."""
    train, valid = usable_rows(images, validation)
    digest = hashlib.sha256(json.dumps([images.fingerprint, images.classes, len(images)]).encode())
    if images.groups is not None:
        digest.update(json.dumps(images.groups.tolist()).encode())
    if images.weights is not None:
        digest.update(images.weights.tobytes())
    for role, rows in ((TRAIN, train), (VALID, valid)):
        for row, sha256, label in zip(rows.tolist(), images.sha256[rows], images.y[rows].tolist(), strict=True):
            digest.update(f"{role} {row} {sha256} {label}\n".encode())
    return digest.hexdigest()
