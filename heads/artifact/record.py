"""The record of a training, as ``head.json`` stores it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from featurecache.targets import Target
from heads.artifact.description import DESCRIPTION
from heads.epochs import Epoch
from heads.errors import ArtifactError, ParameterError
from heads.notices import Code, Notice
from heads.splits import Holdout, count_groups

if TYPE_CHECKING:
    from featurecache.feature_set import FeatureSet


@dataclass(frozen=True, slots=True)
class TrainingGroups:
    """The groups that a training kept together.

    Parameters
    ----------
    column
        The column that names the groups.
    n_train, n_valid
        Numbers of groups of the training rows and of the valid rows.
    """

    column: str
    n_train: int
    n_valid: int

    @classmethod
    def counted(cls, column: str | None, train: FeatureSet, valid: FeatureSet) -> Self | None:
        """Count the groups of training and valid rows; return None if no column names groups."""
        return None if column is None else cls(column, count_groups(train), count_groups(valid))


@dataclass(frozen=True, slots=True)
class Growth:
    """What rows a head that grew from another one had met.

    Parameters
    ----------
    n_known, n_new
        How many training rows trained the earlier head, and how many did not.
    n_kept
        How many training rows the earlier head had kept, so that they need not be in the cache.
    n_relabelled
        How many of the known rows have another label than before.
    new_classes
        The classes, or labels, that no row of the earlier head had, in the order of the classes.
    """

    n_known: int
    n_new: int
    n_kept: int
    n_relabelled: int
    new_classes: tuple[str, ...]

    @property
    def grew(self) -> bool:
        """Whether rows or classes are new, or labels changed."""
        return bool(self.n_new or self.n_relabelled or self.new_classes)


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a head was trained.

    Parameters
    ----------
    n_train, n_valid, n_unlabelled
        Numbers of training rows, of valid rows, and of rows without a label, which were not used.
    class_counts
        Number of training rows of each class of the cache, or with each label; empty for numbers.
    seed
        The seed of the random choices.
    holdout
        The rule that held out valid rows; None if the cache has a valid split, or nothing was held out.
    rows_sha256
        SHA-256 of the training rows: one line per row with content hash, space and class index, sorted.
    continues
        The ``sha256`` of the head that the training continued; None for a new head.
    epochs
        One record per epoch, including those of the continued head; empty for heads without epochs.
    kept_epoch
        The number of the epoch whose weights were kept; None for heads without epochs.
    train_accuracy, valid_accuracy
        Accuracy of the finished head: of several labels, the share of rows for which all are right; of numbers, R2. The
        latter is None without valid rows, and where all of them have one number.
    seconds
        Wall time of the training.
    versions
        Maps the distributions that trained the head to their versions.
    warnings
        Warnings for the user.
    groups
        The groups that were kept together; None if there were none.
    weight
        The column with the weights of the rows; None if all had weight 1.
    growth
        Which rows the head that this one continues had met; None for a new head.

    Examples
    --------
    >>> head.training.n_train, head.training.class_counts
    (32, (16, 16))
    """

    n_train: int
    n_valid: int
    n_unlabelled: int
    class_counts: tuple[int, ...]
    seed: int
    holdout: Holdout | None
    rows_sha256: str
    continues: str | None
    epochs: tuple[Epoch, ...]
    kept_epoch: int | None
    train_accuracy: float
    valid_accuracy: float | None
    seconds: float
    versions: Mapping[str, str]
    warnings: tuple[Notice, ...]
    groups: TrainingGroups | None = None
    weight: str | None = None
    growth: Growth | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as in ``head.json``."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        groups, weight, growth = (fields.pop(name) for name in ("groups", "weight", "growth"))
        fields |= ({"groups": asdict(groups)} if groups else {}) | ({"weight": weight} if weight else {})
        fields |= {"growth": asdict(growth)} if growth else {}
        return fields | {
            "holdout": self.holdout and asdict(self.holdout),
            "epochs": [asdict(epoch) for epoch in self.epochs],
            # unchanged after reading, so that an old head without codes keeps its identity
            "warnings": [notice.to_dict() if notice.code else notice.message for notice in self.warnings],
        }


def read_record(data: dict[str, Any], classes: tuple[str, ...], target: Target) -> TrainingRecord:
    """Return the record in ``head.json``; raise `ArtifactError` for the first fault."""
    counts = tuple(data["class_counts"])
    fits = sum(counts) == data["n_train"] if target == "class" else max(counts, default=0) <= data["n_train"]
    if len(counts) != len(classes) or min(counts, default=0) < 0 or not fits:
        raise ArtifactError(f"{DESCRIPTION}: class_counts do not match the training rows")
    if not all(isinstance(version, str) for version in data["versions"].values()):
        raise ArtifactError(f"{DESCRIPTION}: versions are not texts")
    try:
        holdout = Holdout(**data["holdout"]) if data["holdout"] else None
    except ParameterError as e:
        raise ArtifactError(f"{DESCRIPTION}: {e}") from e
    if not all(isinstance(stored, str) or stored["code"] for stored in data["warnings"]):
        raise ArtifactError(f"{DESCRIPTION}: a warning has an empty code; a warning without a code is a text")
    epochs = tuple(Epoch(**epoch) for epoch in data["epochs"])
    numbers: list[int | None] = [epoch.epoch for epoch in epochs]
    if numbers != list(range(1, len(epochs) + 1)) or data["kept_epoch"] not in (numbers or [None]):
        raise ArtifactError(f"{DESCRIPTION}: epochs are not numbered from 1, or kept_epoch is not one of them")
    sequences = {
        "class_counts": counts,
        "holdout": holdout,
        "epochs": epochs,
        "warnings": tuple(map(_notice, data["warnings"])),
        "groups": TrainingGroups(**data["groups"]) if "groups" in data else None,
        "growth": _growth(data["growth"], data["n_train"], classes) if "growth" in data else None,
    }
    return TrainingRecord(**(data | sequences))


def _growth(data: dict[str, Any], n_train: int, classes: tuple[str, ...]) -> Growth:
    growth = Growth(**(data | {"new_classes": tuple(data["new_classes"])}))
    few = min(growth.n_known, growth.n_new, growth.n_kept, growth.n_relabelled) >= 0
    unknown = set(growth.new_classes) - set(classes)
    if not few or growth.n_known + growth.n_new != n_train or unknown:
        raise ArtifactError(f"{DESCRIPTION}: growth does not match the training rows or the classes")
    return growth


def _notice(stored: str | dict[str, str]) -> Notice:
    return Notice(Code.UNKNOWN, stored) if isinstance(stored, str) else Notice.from_dict(stored)
