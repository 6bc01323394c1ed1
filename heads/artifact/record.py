"""How a head was trained: what is kept of it, and the reading of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heads.artifact.description import DESCRIPTION
from heads.base import Epoch
from heads.errors import ArtifactError, ParameterError
from heads.splits import Holdout


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How a head was trained.

    Parameters
    ----------
    n_train, n_valid, n_unlabelled
        Number of rows that trained it, that judged it meanwhile, and that were left out for want of a label.
    class_counts
        Number of training rows of each of the cache's classes.
    seed
        What the random choices followed from.
    holdout
        The rule by which valid rows were held out; None if the cache has a valid split, or nothing was held out.
    rows_sha256
        SHA-256 of the training rows: a line of content hash, space, class index for each, sorted.
    continues
        The ``sha256`` of the stored head that the training went on from; None if it began anew.
    epochs
        One record per epoch, those of the head it went on from included; empty for heads without epochs.
    kept_epoch
        The number of the epoch whose weights were kept; None for heads without epochs.
    train_accuracy, valid_accuracy
        Accuracy of the finished head; None without valid rows.
    seconds
        Wall time of the training.
    versions
        Distributions that took part, to their versions.
    warnings
        What the user must know, one line each.
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
    warnings: tuple[str, ...]


def read_record(data: dict[str, Any], classes: tuple[str, ...]) -> TrainingRecord:
    """Return the record that ``head.json`` holds, or raise `ArtifactError` for the first thing that is wrong."""
    counts = tuple(data["class_counts"])
    if len(counts) != len(classes) or min(counts) < 0 or sum(counts) != data["n_train"]:
        raise ArtifactError(f"{DESCRIPTION}: class_counts are not the training rows of each class")
    if not all(isinstance(version, str) for version in data["versions"].values()):
        raise ArtifactError(f"{DESCRIPTION}: versions are not texts")
    try:
        holdout = Holdout(**data["holdout"]) if data["holdout"] else None
    except ParameterError as e:
        raise ArtifactError(f"{DESCRIPTION}: {e}") from e
    epochs = tuple(Epoch(**epoch) for epoch in data["epochs"])
    numbers: list[int | None] = [epoch.epoch for epoch in epochs]
    if numbers != list(range(1, len(epochs) + 1)) or data["kept_epoch"] not in (numbers or [None]):
        raise ArtifactError(f"{DESCRIPTION}: epochs are not numbered from 1 on, or kept_epoch is none of them")
    sequences = {
        "class_counts": counts,
        "holdout": holdout,
        "epochs": epochs,
        "warnings": tuple(data["warnings"]),
    }
    return TrainingRecord(**(data | sequences))
