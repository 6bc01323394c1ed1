"""The network of a cache, found again: to compute its own images once more, or other ones."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.errors import ManifestError
from featurecache.feature_set import FeatureSet
from featurecache.images.batches import ImageBatch, image_batches
from featurecache.images.decode import DecodeRules
from featurecache.images.failures import Failure
from featurecache.images.image_source import ImageSource
from featurecache.images.in_memory import MEMORY
from featurecache.images.manifest import ImageEntry, Manifest, from_files
from featurecache.images.names import shown_names
from featurecache.images.sources import open_source
from featurecache.images.views import images_of
from featurecache.named_backbone import NamedBackbone, as_stored, network_of, recipe_of, source_of
from featurecache.options import RunOptions, check_without_words
from featurecache.recipe import require_recipe

_BATCH_SIZE = 32


def decode_rules_of(cache: FeatureCache) -> DecodeRules:
    """Return how the images of a cache were decoded."""
    recipe = cache.recipe
    return DecodeRules(recipe.input_size, recipe.resize, recipe.filter, max_pixels=cache.made_by.pixel_limit)


def find_network(
    cache: FeatureCache,
    *,
    backbone: Backbone | None = None,
    weights: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    engine: str = "auto",
    notify: Callable[[str], None] = lambda _: None,
) -> NamedBackbone:
    """Find the network that computed the features of a cache; it is not started.

    The options are those of `featurecache.verify`. With another precision it is the same network in this precision.

    Raises
    ------
    RecipeError
        If it is another network, or has other weights.
    """
    made_by, recipe = cache.made_by, cache.recipe
    network = source_of(
        backbone or network_of(recipe),
        weights or made_by.weights_source or recipe.weights,
        taps=tuple(recipe.taps),
        device=device,
        precision=precision or recipe.precision,
        engine=engine,
        before=made_by.cpu_engine,
        is_new=precision == "tf32" != recipe.precision,  # a CPU would compare float32 with itself
        notify=notify,
    )
    found = recipe_of(network.spec, decode_rules_of(cache), recipe.dtype)
    wanted = replace(recipe, precision=precision or recipe.precision)
    require_recipe(wanted, found, cache.path, "give the weights it was made with by --weights")
    return network


def originals_of(cache: FeatureCache, images: str | os.PathLike[str] | ImageSource | None) -> ImageSource:
    """Return the source of a cache's images: the given one, or the one that the cache records.

    Raises
    ------
    ManifestError
        If it records none.
    """
    images = cache.made_by.images if images is None else images
    if images is None:
        raise ManifestError(f"{cache.path} does not record the folder of its images; give it by --images")
    if images == MEMORY:
        raise ManifestError(
            f"the images of {cache.path} were in memory; give a folder with them by --images, or in Python the source "
            "of their manifest"
        )
    return open_source(images)


def unchanged_images(
    cache: FeatureCache,
    rows: NDArray[np.intp],
    originals: ImageSource,
    *,
    batch_size: int,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> Iterator[tuple[list[int], NDArray[np.uint8]]]:
    """Yield rows of a cache with their decoded images, in batches, but not those whose images have changed or are gone.

    Raises
    ------
    ManifestError
        After the last batch, if no image was what it was.
    """
    images = cache.index.images
    row_of = {images["path"][row]: row for row in rows.tolist()}
    entries = [ImageEntry(path, -1, "") for path in row_of]
    looked_at, found = 0, 0
    batches = image_batches(entries, originals, decode_rules_of(cache), batch_size=batch_size, failures={})
    with closing(batches):
        for batch in batches:
            looked_for = [row_of[entry.path] for entry in batch.entries]
            contents = zip(looked_for, batch.sha256, strict=True)
            same = [sha256.encode() == images["sha256"][row] for row, sha256 in contents]
            if any(same):
                found += sum(same)
                yield list(compress(looked_for, same)), batch.pixels[same]
            looked_at += len(same)
            progress(looked_at, len(entries))
    if not found:
        raise ManifestError(
            f"all {len(rows)} chosen images in {originals.name} are missing or have changed; give the folder that the "
            "paths are relative to with --images"
        )


def features_of(
    cache: FeatureCache,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Manifest,
    tap: str | None = None,
    *,
    batch_size: int = _BATCH_SIZE,
    workers: int | None = None,
    progress: Callable[[int, int], object] = lambda *_: None,
    **options: Any,
) -> tuple[FeatureSet, dict[str, Failure]]:
    """Return the features of any images, as a cache has them or as its network computes them.

    An image whose bytes the cache has needs no forward pass; without another one, the network is not looked for.

    Parameters
    ----------
    cache
        The cache.
    images
        Image files and folders of images, without labels; or a manifest, whose labels and splits are those of the
        result.
    tap
        A cached layer; optional if the cache has only one.
    batch_size
        Images per forward pass.
    workers
        Threads that read and decode images; one per processor if None.
    progress
        Called with the number of images that are done, and of all.
    options
        ``backbone``, ``weights``, ``device``, ``engine`` and ``notify`` of `featurecache.verify`.

    Returns
    -------
    rows, failures
        The images that can be used, in their order, and the failures of the others by path.

    Raises
    ------
    UnknownNameError, OptionError
        If there is no such tap, or an option is out of its range.
    RecipeError
        If the network or its weights differ from those of the cache.
    ManifestError, NoImagesError
        If a folder cannot be listed, or there are no images.

    Examples
    --------
    >>> from featurecache.backbones.fake import FakeBackbone
    >>> rows, failures = featurecache.features_of(cache, images / "valid", "features", backbone=FakeBackbone())
    >>> rows, failures
    (<FeatureSet: 16 rows of features (16), 0 classes>, {})
    """
    check_without_words(RunOptions, batch_size=batch_size, workers=workers)
    tap = cache.require_tap(tap)
    if isinstance(images, str | os.PathLike):
        images = [images]
    manifest = images if isinstance(images, Manifest) else from_files([Path(path) for path in images])

    def start() -> Backbone:
        return find_network(cache, **options).start(batch_size, batch_size)

    passes = _Passes(cache, tap, start)
    failures: dict[str, Failure] = {}
    parts: list[NDArray[np.float32]] = [np.empty((0, cache.taps[tap]), np.float32)]
    entries: list[ImageEntry] = []
    sha256: list[str] = []
    batches = image_batches(
        manifest.entries,
        manifest.source,
        decode_rules_of(cache),
        batch_size=batch_size,
        failures=failures,
        workers=workers,
    )
    with closing(batches):
        for batch in batches:
            parts.append(passes.features(batch))
            entries += batch.entries
            sha256 += batch.sha256
            progress(len(entries) + len(failures), len(manifest))
    names = shown_names([*(entry.path for entry in entries), *failures])
    rows = FeatureSet(
        X=np.concatenate(parts),
        y=np.array([entry.label for entry in entries], dtype=np.int64),
        paths=np.array(names[: len(entries)], dtype=object),
        splits=np.array([entry.split for entry in entries], dtype=object),
        sha256=np.array(images_of(names[: len(entries)], sha256)[1], dtype=object),
        classes=manifest.classes,
        split=None,
        tap=tap,
        recipe=cache.recipe,
    )
    return rows, dict(zip(names[len(entries) :], failures.values(), strict=True))


class _Passes:
    """The features of batches: rows of a cache, or forward passes of its network, which starts when it is needed."""

    def __init__(self, cache: FeatureCache, tap: str, start: Callable[[], Backbone]) -> None:
        self._cache, self._tap, self._start = cache, tap, start
        self._row_of = {sha256: row for row, sha256 in enumerate(cache.index.images["sha256"].tolist())}
        self._network: Backbone | None = None

    def features(self, batch: ImageBatch) -> NDArray[np.float32]:
        """Return the features of a batch, shape (n, d)."""
        cache, tap = self._cache, self._tap
        rows = [self._row_of.get(sha256.encode()) for sha256 in batch.sha256]
        features = np.empty((len(rows), cache.taps[tap]), np.float32)
        new = np.array([row is None for row in rows])
        if new.any():
            self._network = self._network or self._start()
            features[new] = as_stored(self._network.forward(batch.pixels[new]), tap, cache.recipe)
        for place, row in enumerate(rows):
            if row is not None:
                features[place] = cache.read(tap, row, 1)[0]
        return features
