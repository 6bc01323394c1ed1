"""Puts a service together: heads, network, known features, queue and counters; knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.cache import FeatureCache
from featurecache.errors import FeatureCacheError
from featurecache.images.decode import DecodeRules, decode
from featurecache.named_backbone import as_stored, network_of, recipe_of, source_of
from featurecache.options import MAX_PIXELS, ServiceOptions
from featurecache.processors import processor_count
from heads.errors import HeadError, MismatchError
from heads.evaluation import imagenet
from heads.service.batching import Batcher
from heads.service.content_cache import CachedRows, ContentCache, MemoryCache
from heads.service.feature_file import SqliteFeatures
from heads.service.metrics import Metrics
from heads.service.models import HeadDirectories, ServedHead, ServedHeads
from heads.service.waiting_room import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from featurecache.backbones.protocol import Backbone
    from featurecache.recipe import Recipe

MEGABYTE = 10**6


@dataclass(frozen=True, slots=True, eq=False)
class Service:
    """Everything that answers requests.

    Parameters
    ----------
    options
        Bounds and times.
    heads
        The heads that are served.
    recipe, fingerprint
        The recipe of the features, with all taps that are served, and its fingerprint.
    content
        The features that are known.
    batcher
        What computes the others.
    metrics
        What is counted.
    cache, cached
        The cache and its rows by content; None without a cache.
    head_folder
        Where trained heads are published; None if the service has no place for them.
    notify
        Called with one-line messages for the user.
    closing
        Called before the end.
    """

    options: ServiceOptions
    heads: ServedHeads
    recipe: Recipe
    fingerprint: str
    content: ContentCache
    batcher: Batcher
    metrics: Metrics
    cache: FeatureCache | None
    head_folder: Path | None
    notify: Callable[[str], None]
    closing: list[Callable[[], None]] = field(default_factory=list)

    @property
    def cached(self) -> CachedRows | None:
        """The rows of the cache by content."""
        return self.content.cached

    def faults(self) -> list[str]:
        """Return why the service is not ready; none if it is."""
        faults = [f"the head {name} failed to load: {reason}" for name, reason in self.heads.failures().items()]
        if not self.heads.snapshot():
            faults.append("no head is served")
        fault = self.batcher.fault(self.options.timeout)
        return [*faults, fault] if fault else faults

    def close(self, patience: float | None = None) -> None:
        """Finish what is queued, within ``patience`` seconds if given, and release everything."""
        for close in self.closing:
            close()
        self.batcher.close(patience)
        self.content.close()


def assemble(
    directories: Iterable[Path],
    options: ServiceOptions,
    *,
    cache: Path | None = None,
    content_cache_file: Path | None = None,
    weights: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    max_pixels: int | None = None,
    backbone: Backbone | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Service:
    """Load heads, check that they belong together, and return a service whose network has not started.

    Parameters
    ----------
    directories
        Directories of heads, and directories whose subdirectories are heads.
    options
        Bounds and times.
    cache
        A cache of the same recipe: its images need no pass, and heads can be trained on it.
    content_cache_file
        Where features of images that were seen are kept across restarts.
    weights
        The network's weights, if they have moved since the extraction.
    device, engine
        As in `featurecache.extract`.
    max_pixels
        A larger image is a failure; the limit of the heads and of the cache if None.
    backbone
        The backbone itself, if it is not in the catalogue.
    notify
        Called with one-line messages for the user.

    Raises
    ------
    HeadError
        If there is neither a head nor a cache.
    ArtifactError
        If a directory that was named holds no head, or a damaged one.
    MismatchError
        If heads and cache have different recipes; the message names the field.
    """
    opened = None if cache is None else FeatureCache.open(cache)
    trained = None if cache is None else Path(f"{cache}.heads")
    found = HeadDirectories.of(directories, [] if trained is None else [trained])
    where = found.find()
    loaded, failed = _load(where, found)
    first = next(iter(loaded.values()), None)
    base, weights_source = _base(first, opened, found.folders)
    source = source_of(
        backbone or network_of(base),
        weights or weights_source,
        taps=sorted(_taps(loaded, opened)),
        device=device,
        precision=base.precision,
        engine=engine,
        notify=notify,
    )
    limits = [served.head.max_pixels for served in loaded.values()]
    if opened is not None:
        limits.append(opened.made_by.max_pixels or MAX_PIXELS)
    rules = DecodeRules(base.input_size, base.resize, base.filter, max(limits) if max_pixels is None else max_pixels)
    recipe = recipe_of(source.spec, rules, base.dtype)
    if opened is not None:
        _require_same(opened, recipe)
    heads = ServedHeads(found, recipe)
    for served in loaded.values():
        try:
            heads.put(served)
        except MismatchError as e:
            if where[served.name] == found.single.get(served.name):
                raise MismatchError(f"{where[served.name]}: {e}") from e
            failed[served.name] = str(e)
    for name, reason in failed.items():
        notify(f"the head {name} is not served: {reason}")
        heads.note(name, reason)
    content = ContentCache(
        MemoryCache(options.content_cache_mb * MEGABYTE),
        CachedRows(opened, recipe.taps) if opened is not None else None,
        SqliteFeatures(content_cache_file, recipe, options.content_cache_file_mb * MEGABYTE, notify=notify)
        if content_cache_file is not None
        else None,
    )
    metrics = Metrics()
    batch_size = options.batch_size or source.batch_size
    full = max(batch_size, source.batch_size)  # a full batch as predict has it, for the same bits
    batcher = Batcher(
        lambda: source.start(full, full),
        decode=lambda data: decode(data, rules),
        known=content.memory.get,
        keep=content.put,
        as_stored=lambda activations, tap: as_stored(activations, tap, recipe),
        batch_size=batch_size,
        room=WaitingRoom(options.queue_images),
        max_delay=options.max_delay_ms / 1000,
        workers=processor_count(),
        watcher=metrics,
    )
    metrics.show("queue_images", "Images whose pass has not begun", lambda: batcher.queued)
    metrics.show("heads", "Heads that are served", lambda: len(heads.snapshot()))
    metrics.show("content_cache_bytes", "Memory of known features in bytes", lambda: content.memory.bytes)
    folder = found.folders[0] if found.folders else None
    return Service(options, heads, recipe, recipe.fingerprint, content, batcher, metrics, opened, folder, notify)


def _load(where: Mapping[str, Path], named: HeadDirectories) -> tuple[dict[str, ServedHead], dict[str, str]]:
    """Load all heads; a damaged one is an error if it was named, and a failure if it lies in a folder of heads."""
    loaded: dict[str, ServedHead] = {}
    failed: dict[str, str] = {}
    for name, directory in where.items():
        try:
            loaded[name] = ServedHead.load(name, directory)
        except FeatureCacheError as e:
            if directory == named.single.get(name):
                raise
            failed[name] = str(e)
    return loaded, failed


def _base(first: ServedHead | None, cache: FeatureCache | None, folders: Iterable[Path]) -> tuple[Recipe, str]:
    """Return the recipe that the first head prescribes, or else the cache, and the weights of its extraction."""
    if first is not None:
        return first.head.recipe, first.head.weights_source
    if cache is not None:
        return cache.recipe, cache.made_by.weights_source or cache.recipe.weights
    searched = ", ".join(map(str, folders))
    where = f": no head in {searched}" if searched else ""
    raise HeadError(f"there is neither a head nor a cache to serve{where}; give a HEAD_DIR, or --cache CACHE.h5")


def _taps(heads: Mapping[str, ServedHead], cache: FeatureCache | None) -> set[str]:
    """Return the taps to serve: those of the heads and of the cache, and what the network itself predicts."""
    taps = {served.head.tap for served in heads.values()} | set(cache.taps if cache is not None else ())
    if any(imagenet.TAP in served.head.recipe.taps for served in heads.values()):
        taps.add(imagenet.TAP)
    return taps


def _require_same(cache: FeatureCache, recipe: Recipe) -> None:
    """Raise `MismatchError` unless a cache has features of this recipe; its taps may be fewer."""
    ours = replace(recipe, taps=dict(cache.taps))
    differences: list[Any] = [*cache.recipe.differences(ours)]
    if differences:
        listed = "; ".join(
            f"{item.field}: the cache has {item.ours!r}, the heads {item.theirs!r}" for item in differences
        )
        raise MismatchError(
            f"{cache.path} was made with another recipe than the heads: {listed}; serve them separately"
        )
