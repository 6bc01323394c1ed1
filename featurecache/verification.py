"""The use case ``verify``: whether a cache is as it was written, and is what its recipe makes of the images."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.batches import image_batches
from featurecache.cache import FeatureCache
from featurecache.decode import PIXEL_LIMIT, DecodeRules
from featurecache.errors import CacheFormatError, ManifestError, OptionError
from featurecache.manifest import SPLITS
from featurecache.names import decode_name, listed
from featurecache.source import Source, as_stored, recipe_of, source_of
from featurecache.store import require_recipe

TOLERANCE = 1e-2
"""Largest relative error that is no problem: devices differ by as much (clip-retrieval#264)."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Parameters
    ----------
    problems
        What is wrong with the cache, one line each; empty if it is whole.
    recomputed
        Rows that were extracted again.
    max_relative_error
        Over these rows and all taps the largest difference, divided by the row's largest absolute value; None if no
        row was extracted again.
    skipped
        Chosen rows whose images are no longer there or have changed.
    """

    problems: tuple[str, ...]
    recomputed: int = 0
    max_relative_error: float | None = None
    skipped: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
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
    images: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Check a cache's structure, order and checksums, and if wanted some rows against their images.

    Parameters
    ----------
    recompute
        How many rows, chosen at random, are extracted again.
    backbone
        The network itself, if it is none of the catalogue.
    images
        The folder that the paths are relative to, if it is no longer where the extraction found it.
    weights
        The network's weights, if they are no longer where the extraction found them.
    device, engine
        As in `featurecache.extract`.
    batch_size
        Images in a forward pass; the engine's own number if not given.
    seed
        What the choice of rows follows from.
    notify
        Is told in one line what is about to take long.

    Raises
    ------
    OptionError
        If ``recompute`` is negative.
    RecipeError, WeightsError, DeviceError, EngineError
        If the network cannot be had, or is not the one of the recipe.
    ManifestError
        If none of the chosen rows' images can be found as they were.
    """
    if recompute < 0:
        raise OptionError(f"recompute is {recompute}; expected a whole number from 0 on")
    try:
        cache = FeatureCache.open(cache_path)
        problems = [*_disorder(cache), *cache.problems()]
    except CacheFormatError as e:
        return Verification((str(e),))
    if not recompute or problems:
        return Verification(tuple(problems))
    provenance, recipe = cache.provenance, cache.recipe
    source = source_of(
        backbone or recipe.backbone,
        weights or str(provenance.get("weights_source")),
        taps=tuple(recipe.taps),
        device=device,
        precision=recipe.precision,
        engine=engine,
        notify=notify,
    )
    rules = DecodeRules(recipe.input_size, recipe.resize, recipe.filter, max_pixels=PIXEL_LIMIT)
    network = recipe_of(source.spec, rules, recipe.dtype)
    require_recipe(recipe, network, cache.path, "name the weights it was made with by --weights")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(cache))[:recompute])
    root = Path(images if images is not None else str(provenance.get("images")))
    rows, error = _compared(cache, chosen, root, rules, source=source, batch_size=batch_size or source.batch_size)
    if not rows:
        raise ManifestError(
            f"none of the {len(chosen)} images that were chosen are as they were in {root}; name the folder that "
            "the paths are relative to with --images"
        )
    if not error <= TOLERANCE:
        problems.append(f"rows differ from their images by {error:.2g} relative, more than {TOLERANCE:g}")
    return Verification(tuple(problems), rows, error if np.isfinite(error) else None, len(chosen) - rows)


def _disorder(cache: FeatureCache) -> list[str]:
    """Return what is wrong with the order of rows and the sets of paths, by the rules of the format."""
    images, failures = cache.index.images, cache.index.failures
    problems = []
    splits = [split.decode("ascii") for split in images["split"].tolist()]
    keys = list(zip(map(SPLITS.index, splits), images["path"], strict=True))
    if keys != sorted(keys):
        problems.append("rows are not sorted by split and path")
    paths = Counter([*images["path"], *failures["path"]])
    twice = [path for path, count in paths.items() if count > 1]
    if twice:
        problems.append(f"{len(twice):,} path(s) stand in more than one row: {listed(twice)}")
    return problems


def _compared(
    cache: FeatureCache, chosen: NDArray[np.intp], root: Path, rules: DecodeRules, *, source: Source, batch_size: int
) -> tuple[int, float]:
    """Extract the chosen rows again whose images have the bytes that were cached; return how many, and the error."""
    network: Backbone | None = None
    compared, largest = 0, 0.0
    images = cache.index.images

    def file_of(row: int) -> bytes:
        return os.path.join(os.fsencode(root), decode_name(images["path"][row]))  # noqa: PTH118 - pathlib takes no bytes

    with closing(image_batches(chosen.tolist(), file_of, rules, batch_size=batch_size, failures={})) as batches:
        for batch in batches:
            same = [
                sha256.encode() == images["sha256"][row] for row, sha256 in zip(batch.items, batch.sha256, strict=True)
            ]
            if any(same):
                network = network or source.start(batch_size, len(chosen))
                rows = list(compress(batch.items, same))
                error = _largest_error(cache, rows, network.forward(batch.pixels[same]))
                compared, largest = compared + len(rows), float(np.maximum(largest, error))
    return compared, largest


def _largest_error(cache: FeatureCache, rows: list[int], features: Mapping[str, NDArray[np.float32]]) -> float:
    """Return the largest difference over rows and taps, relative to each row's largest absolute value.

    A value that is not finite makes it NaN or infinite.
    """
    largest = 0.0
    for tap in cache.taps:
        fresh = as_stored(features, tap, cache.recipe).astype(np.float64)
        cached = np.concatenate([cache.read(tap, row, 1) for row in rows]).astype(np.float64)
        scale = np.maximum(np.abs(fresh).max(axis=1), np.finfo(np.float32).tiny)
        largest = float(np.maximum(largest, (np.abs(cached - fresh).max(axis=1) / scale).max()))
    return largest
