"""Which rows train a head and which judge it; where a cache has no valid split, rows are held out by their content."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from featurecache.errors import UnknownNameError
from heads.errors import ParameterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from featurecache.cache import FeatureSet

TRAIN, VALID = "train", "valid"
_HASH_RANGE = 2**64


@dataclass(frozen=True, slots=True)
class Holdout:
    """A rule that holds rows out of training, by their content: equal content is always on the same side.

    Parameters
    ----------
    fraction
        The expected part of the rows that is held out, at least 0 and below 1.
    seed
        Another seed gives another choice of rows.

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

    def holds_out(self, sha256: str) -> bool:
        """Return the side of one content, given its SHA-256 in hexadecimal digits."""
        digest = hashlib.sha256(f"{self.seed}:{sha256}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * _HASH_RANGE


def has_valid_split(features: FeatureSet) -> bool:
    """Return whether any labelled row is in the valid split, so that nothing need be held out."""
    return bool(np.any(_labelled(features) & (features.splits == VALID)))


def roles(features: FeatureSet, holdout: Holdout | None) -> NDArray[np.object_]:
    """Return what each row is used as: ``"train"``, ``"valid"``, ``"test"``, or ``""`` for rows that are not used.

    Rows in the train split train. If no labelled row is in it, the rows in no split take its place. If there is no
    labelled row in the valid split either, the training rows that ``holdout`` holds out are valid.

    Parameters
    ----------
    features
        All rows of a cache; their number is n.
    holdout
        The rule for caches without a valid split; None holds nothing out.

    Returns
    -------
    NDArray
        Shape (n,), `str` objects.
    """
    assigned = features.splits.copy()
    if not np.any(_labelled(features) & (assigned == TRAIN)):
        assigned[assigned == ""] = TRAIN
    if holdout is not None and holdout.fraction > 0 and not has_valid_split(features):
        pool = np.flatnonzero(assigned == TRAIN)
        held_out = np.fromiter((holdout.holds_out(features.sha256[row]) for row in pool), dtype=bool, count=len(pool))
        assigned[pool[held_out]] = VALID
    return assigned


def rows_of_role(features: FeatureSet, role: str, holdout: Holdout | None) -> FeatureSet:
    """Return the rows, labelled or not, that are used as ``"train"``, ``"valid"`` or ``"test"``; see `roles`.

    Rows that lie together are returned without a copy.

    Raises
    ------
    UnknownNameError
        If no row is used as that.
    """
    assigned = roles(features, holdout)
    rows = np.flatnonzero(assigned == role)
    if not len(rows):
        raise UnknownNameError("split", role, {name or "(in no split)" for name in assigned})
    return take_rows(features, rows)


def training_rows(features: FeatureSet, holdout: Holdout | None) -> tuple[FeatureSet, FeatureSet]:
    """Return the labelled rows that train a head and those that judge it while it trains; either may be empty.

    Parameters
    ----------
    features
        All rows of a cache.
    holdout
        See `roles`.
    """
    assigned = np.where(_labelled(features), roles(features, holdout), "")
    train, valid = (take_rows(features, np.flatnonzero(assigned == role)) for role in (TRAIN, VALID))
    return train, valid


def take_rows(features: FeatureSet, rows: NDArray[np.intp]) -> FeatureSet:
    """Return the rows of these ascending numbers, as a view of the features if they lie together."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return features.take(slice(int(rows[0]), int(rows[-1]) + 1))
    return features.take(rows)


def count_text(names: Iterable[str]) -> str:
    """Return how often each split's name occurs, as words.

    Examples
    --------
    >>> count_text(["test", "test", ""])
    '1 in no split, 2 in test'
    """
    counts = sorted(Counter(names).items())
    return ", ".join(f"{count} in {name or 'no split'}" for name, count in counts)


def _labelled(features: FeatureSet) -> NDArray[np.bool_]:
    return features.y >= 0
