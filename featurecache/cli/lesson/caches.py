"""Checks and limits that the lessons on a cache share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from featurecache import FeatureCache

SIGNIFICANT = 0.05
"""A difference with a p below this is called significant."""

MAX_TABLE_CLASSES = 10
"""The number of classes that have a column in tables."""


def open_cache(path: Path | None) -> FeatureCache:
    """Open the cache of a lesson that needs one."""
    from featurecache import FeatureCache

    return FeatureCache.open(path or "")


def is_random(cache: FeatureCache) -> bool:
    """Return whether a network with random weights made a cache."""
    return cache.recipe.weights.startswith("random:")


def require_usable(cache: FeatureCache, tap: str) -> None:
    """Raise `TrainingError` unless a cache has training rows of at least two classes, and validation rows."""
    from heads import Holdout, TrainingError
    from heads.splits import DEFAULT_HOLDOUT, training_rows
    from heads.training import require_rows

    features = cache.features(tap)
    train, valid = training_rows(features, Holdout(DEFAULT_HOLDOUT, seed=0))
    require_rows(features, train)
    if not len(valid):
        raise TrainingError(
            f"{cache.path} has no rows left to evaluate a head on; give a cache with a valid split, or with more images"
        )
