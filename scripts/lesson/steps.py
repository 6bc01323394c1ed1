"""What lessons on a cache have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurecache import FeatureCache
    from heads import TrainedHead


def require_judges(head: TrainedHead, cache: FeatureCache) -> None:
    """Raise `TrainingError` unless there were images to judge a head by while it was trained."""
    from heads import TrainingError

    if not head.training.n_valid:
        raise TrainingError(
            f"{cache.path} has no images left to judge by; give a cache with a valid split, or with more images"
        )
