"""The use case ``verify``: checks that a cache is undamaged and that its features match the images."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.cached_network import find_network, originals_of, unchanged_images
from featurecache.errors import CacheFormatError, OptionError
from featurecache.images.image_source import ImageSource
from featurecache.images.names import shown_name
from featurecache.images.splits import SPLITS
from featurecache.named_backbone import as_stored
from featurecache.options import RunOptions, check_without_words
from featurecache.text import counted, listed

TOLERANCE = 1e-2
"""The largest accepted relative error; results of different devices can differ this much (clip-retrieval#264)."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`.

    Parameters
    ----------
    problems
        One line for each problem; empty if the cache is undamaged.
    recomputed
        The number of rows that were extracted again.
    max_relative_error
        The largest difference over these rows and all taps, divided by the row's largest absolute value; None if no
        row was extracted again.
    skipped
        The number of chosen rows whose images are missing, have changed, or are no longer accepted.

    Examples
    --------
    >>> featurecache.verify(cache.path).to_dict()
    {'ok': True, 'problems': [], 'recomputed': 0, 'max_relative_error': None, 'skipped': 0}
    """

    problems: tuple[str, ...]
    recomputed: int = 0
    max_relative_error: float | None = None
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "ok": self.ok,
            "problems": list(self.problems),
            "recomputed": self.recomputed,
            "max_relative_error": self.max_relative_error,
            "skipped": self.skipped,
        }


def verify(
    cache_path: str | os.PathLike[str],
    *,
    recompute: int = 0,
    backbone: Backbone | None = None,
    images: str | os.PathLike[str] | ImageSource | None = None,
    weights: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], object] = lambda *_: None,
    notify: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Check the structure, order and checksums of a cache; optionally compare rows with their images.

    Parameters
    ----------
    recompute
        The number of random rows to extract again and compare.
    backbone
        The backbone itself, if it is not in the catalogue.
    images
        The folder that the paths are relative to, or another image source, if it differs from the one that was
        extracted.
    weights
        The network's weights, if they have moved since the extraction.
    device, engine
        As in `featurecache.extract`.
    batch_size
        Images per forward pass; the engine's default if None.
    seed
        The seed of the random choice of rows.
    progress
        Called with how many blocks of rows or images are done, of how many, and with the current step.
    notify
        Called with one-line status messages for the user.

    Raises
    ------
    UnknownNameError, OptionError
        If ``recompute`` is negative, or another option is out of its range.
    RecipeError, WeightsError, DeviceError, EngineError
        If the network is not available, or is not the network of the recipe.
    ManifestError
        If the images of all chosen rows are missing or have changed, or their folder is not recorded.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> found = featurecache.verify(cache.path, recompute=3, backbone=FakeBackbone())
    >>> found.ok, found.recomputed, found.max_relative_error
    (True, 3, 0.0)
    """
    check_without_words(RunOptions, batch_size=batch_size, device=device, engine=engine)
    if recompute < 0:
        raise OptionError(f"recompute is {recompute}; expected a whole number from 0 on")
    try:
        cache = FeatureCache.open(cache_path)
        problems = [
            *_disorder(cache),
            *cache.problems(lambda done, total: progress(done, total, "comparing checksums")),
        ]
    except CacheFormatError as e:
        return Verification((str(e),))
    if not recompute or problems or not len(cache):
        return Verification(tuple(problems))
    network = find_network(cache, backbone=backbone, weights=weights, device=device, engine=engine, notify=notify)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(cache))[:recompute])
    size = batch_size or network.batch_size
    started: Backbone | None = None
    rows, error = 0, 0.0
    batches = unchanged_images(
        cache,
        chosen,
        originals_of(cache, images),
        batch_size=size,
        progress=lambda done, total: progress(done, total, "extracting rows again"),
    )
    for found, pixels in batches:
        started = started or network.start(size, size)
        rows += len(found)
        error = float(np.maximum(error, _largest_error(cache, found, started.forward(pixels))))
    if not error <= TOLERANCE:
        problems.append(f"rows differ from their images by a relative error of {error:.2g}, more than {TOLERANCE:g}")
    return Verification(tuple(problems), rows, error if np.isfinite(error) else None, len(chosen) - rows)


def _disorder(cache: FeatureCache) -> list[str]:
    """Return one line for each violation of the format's rules on the order of rows and on unique paths."""
    images, failures = cache.index.images, cache.index.failures
    problems = []
    splits = [split.decode("ascii") for split in images["split"].tolist()]
    keys = list(zip(map(SPLITS.index, splits), images["path"], strict=True))
    if keys != sorted(keys):
        problems.append("rows are not sorted by split and path")
    paths = Counter([*images["path"], *failures["path"]])
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        problems.append(f"{counted(len(twice), 'path')} in more than one row: {listed(map(shown_name, twice))}")
    return problems


def _largest_error(cache: FeatureCache, rows: list[int], features: Mapping[str, NDArray[np.float32]]) -> float:
    """Return the largest difference over rows and taps, relative to each row's largest absolute value.

    The result is NaN or infinite if a value is.
    """
    largest = 0.0
    for tap in cache.taps:
        fresh = as_stored(features, tap, cache.recipe).astype(np.float64)
        cached = np.concatenate([cache.read(tap, row, 1) for row in rows]).astype(np.float64)
        scale = np.maximum(np.abs(fresh).max(axis=1), np.finfo(np.float32).tiny)
        largest = float(np.maximum(largest, (np.abs(cached - fresh).max(axis=1) / scale).max()))
    return largest
