"""What lessons on a cache have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from featurecache import FeatureCache

SURE = 0.05
"""Below this p a difference is taken for more than luck."""

IN_A_TABLE = 10
"""So many classes have a column in tables."""


def open_cache(path: Path | None) -> FeatureCache:
    """Open the cache that a lesson was given, which it needs."""
    from featurecache import FeatureCache

    return FeatureCache.open(path or "")


def is_random(cache: FeatureCache) -> bool:
    """Return whether the network that made a cache had learned nothing."""
    return cache.recipe.weights.startswith("random:")


def require_usable(cache: FeatureCache, tap: str) -> None:
    """Raise `TrainingError` unless images of at least two classes can train a head, and others judge it."""
    from heads import Holdout, TrainingError
    from heads.splits import training_rows
    from heads.training import DEFAULT_HOLDOUT, require_rows

    features = cache.features(tap)
    train, valid = training_rows(features, Holdout(DEFAULT_HOLDOUT, seed=0))
    require_rows(features, train)
    if not len(valid):
        raise TrainingError(
            f"{cache.path} has no images left to judge by; give a cache with a valid split, or with more images"
        )
