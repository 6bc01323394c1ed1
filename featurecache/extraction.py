"""The use case: images in, one cache file out; every image ends in it as a row or as a failure with a reason.

::

    manifest ─> look: known by path, size and time? by content? ─> decode ─> forward ─> commit a shard ─> pack
                └──────────────── threads ───────────────────────────┘      └── in manifest order ──┘

Files are read and decoded by threads, ahead of the forward pass and within a bounded window; everything else happens
in the order of the manifest. Batches are therefore the same in every run, resumed or not, and so are the features.
"""

import json
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.ahead import ahead
from featurecache.backbones.catalog import application
from featurecache.backbones.protocol import Backbone, BackboneSpec
from featurecache.backbones.weights import resolve_weights
from featurecache.cache import FeatureCache, pack
from featurecache.decode import DECODE_VERSION, DecodeRules, Failure, decode, read_file
from featurecache.errors import NoImagesError, OptionError, OutputError, RecipeError, UnknownNameError
from featurecache.layout import FAILURE_COLUMNS, IMAGE_COLUMNS, TEXT, CacheIndex, feature_dtype
from featurecache.manifest import ImageEntry, Manifest, read_manifest
from featurecache.publish import require_place
from featurecache.recipe import Recipe
from featurecache.store import Sighting, Store

SHARD_ROWS = 1024
SHARD_SECONDS = 30.0
DTYPES = ("float32", "float16")

_Looked = tuple[Sighting, NDArray[np.uint8] | None]  # what an image is; its pixels if the network has to see them


@dataclass(slots=True)
class Progress:
    """How far a run is, and when it has ended, what it did.

    Parameters
    ----------
    total, done
        Images to handle, and handled so far.
    failures
        Images, of those done, that give no row.
    forwarded
        Images that went through the network in this run.
    seconds
        Wall time since the run began, the start of the network included.
    waiting, computing
        Seconds that the network waited for decoded images, and that it worked.
    """

    total: int
    done: int = 0
    failures: int = 0
    forwarded: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    computing: float = 0.0

    @property
    def bound(self) -> str:
        """``"decode"`` if the network waited more than it worked, else ``"compute"``."""
        return "decode" if self.waiting >= self.computing else "compute"

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger of the run: images, rows, failures, forward passes spent and saved, speed."""
        rows = self.done - self.failures
        return {
            "images": self.total,
            "rows": rows,
            "failures": self.failures,
            "forwarded": self.forwarded,
            "reused": rows - self.forwarded,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.done / self.seconds, 2) if self.seconds else 0.0,
            "bound": self.bound,
        }


@dataclass(frozen=True, slots=True)
class Source:
    """Where features come from: what identifies the backbone, and how to get it when it is needed.

    Parameters
    ----------
    spec
        The backbone's identity; known without a framework.
    weights
        What to ask for to get the same weights again.
    start
        Makes the backbone; called once, and only if an image has to go through it.
    """

    spec: BackboneSpec
    weights: str
    start: Callable[[], Backbone]


def extract(
    images: str | os.PathLike[str],
    cache_path: str | os.PathLike[str],
    *,
    backbone: str | Backbone = "vgg16",
    weights: str = "imagenet",
    taps: Iterable[str] | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    dtype: str = "float32",
    resize: str = "squash",
    filter: str = "bilinear",
    max_pixels: int = 50_000_000,
    root: str | os.PathLike[str] | None = None,
    label_from_name: bool = False,
    rehash: bool = False,
    retry_failures: bool = False,
    replace: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
) -> FeatureCache:
    """Pass every image through a network once and write its activations to a cache file.

    An interrupted run goes on where it was when it is called again; a cache of the same recipe is brought up to date,
    and only content that it does not know goes through the network.

    Parameters
    ----------
    images
        A folder of images, or a CSV or TSV table; see `featurecache.manifest.read_manifest`.
    cache_path
        The cache file to make or to bring up to date.
    backbone
        A name of the catalogue, or a `Backbone` (then weights, taps, device and precision are its own).
    weights
        ``"imagenet"``, the path of a Keras weight file, or ``"random:SEED"``.
    taps
        Layers to keep; the network's default ones if not given.
    batch_size
        Images in a forward pass.
    workers
        Threads that read and decode; one for each processor if not given.
    device
        ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"gpu"``.
    precision
        ``"float32"``, or ``"mixed"`` for half precision inside the network.
    dtype
        What features are stored in: ``"float32"`` or ``"float16"`` (probabilities always in float32).
    resize, filter, max_pixels
        See `featurecache.decode.DecodeRules`.
    root, label_from_name
        See `featurecache.manifest.read_manifest`.
    rehash
        Read every file, even where path, size and modification time are those of a known one.
    retry_failures
        Decode images again that failed before with the same bytes.
    replace
        Replace a cache of another recipe instead of refusing it.
    progress
        Is told how far the run is after every image, and at the end what it did.
    notify
        Is told in one line what a person might want to know.

    Returns
    -------
    FeatureCache
        The finished cache, open.

    Raises
    ------
    ManifestError, NoImagesError
        If there is no image to extract, or none that can be used.
    UnknownNameError, OptionError, WeightsError, DeviceError
        If the network cannot be had as asked for, or an option is out of its range.
    RecipeError
        If the cache or an unfinished run has another recipe, or the features do not fit the recipe's dtype.
    OutputError
        If the cache cannot be written. Whatever was committed is kept, and the same call goes on from there.
    """
    cache_path = Path(cache_path)
    for option, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise OptionError(f"{option} is {value}; expected a whole number from 1 on")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    require_place(cache_path)
    manifest = read_manifest(Path(images), root=None if root is None else Path(root), label_from_name=label_from_name)
    for line in _left_out(manifest):
        notify(line)
    if isinstance(backbone, str):
        source = catalogued(
            backbone, weights, taps=taps, batch_size=batch_size, device=device, precision=precision, notify=notify
        )
    else:
        source = Source(backbone.spec, backbone.spec.weights, lambda: backbone)
    rules = DecodeRules(source.spec.input_size, resize, filter, max_pixels)
    store = Store.beside(cache_path, recipe_of(source.spec, rules, dtype), replace=replace)
    if store.places:
        notify(f"{len(store.places)} images are known from before and are kept")
    run = _Run(
        manifest,
        store,
        rules,
        source,
        batch_size=batch_size,
        rehash=rehash,
        retry_failures=retry_failures,
        report=progress,
    )
    run.look_and_forward(workers or len(os.sched_getaffinity(0)))
    return run.finish(cache_path)


def catalogued(
    name: str,
    weights: str,
    *,
    taps: Iterable[str] | None = None,
    batch_size: int = 32,
    device: str = "auto",
    precision: str = "float32",
    notify: Callable[[str], None] = lambda _: None,
) -> Source:
    """Return a network of the catalogue as a source of features; Keras is imported when it is started."""
    row = application(name)
    row.spec("", taps, precision)  # names are checked before weights are looked for
    found = resolve_weights(weights, row, notify=notify)
    spec = row.spec(found.identity, taps, precision)

    def start() -> Backbone:
        from featurecache.backbones.engine import KerasBackbone

        notify(f"starting {name} with {found.source} weights")
        return KerasBackbone(
            row, found, taps=tuple(spec.taps), batch_size=batch_size, precision=precision, device=device
        )

    return Source(spec, found.source, start)


def recipe_of(spec: BackboneSpec, rules: DecodeRules, dtype: str) -> Recipe:
    """Return the recipe of features that this backbone makes of images decoded by these rules."""
    return Recipe(
        decode_version=DECODE_VERSION,
        resize=rules.resize,
        filter=rules.filter,
        backbone=spec.name,
        weights=spec.weights,
        input_size=spec.input_size,
        preprocessing=spec.preprocessing,
        taps=spec.taps,
        precision=spec.precision,
        dtype=dtype,
    )


@dataclass(slots=True)
class _Pending:
    """What is not yet committed: whole batches of features, and what was seen."""

    contents: list[str] = field(default_factory=list)
    batches: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class _Run:
    """One run: its state, and the steps that change it, in the order of the manifest."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        rules: DecodeRules,
        source: Source,
        *,
        batch_size: int,
        rehash: bool,
        retry_failures: bool,
        report: Callable[[Progress], None],
    ) -> None:
        self._manifest = manifest
        self._store = store
        self._rules = rules
        self._source = source
        self._batch_size = batch_size
        self._rehash = rehash
        self._reasons = {} if retry_failures else dict(store.reasons)
        self._known = set(store.places)
        self._report = report
        self._progress = Progress(len(manifest))
        self._started = time.monotonic()
        self._backbone: Backbone | None = None
        self._committing: Future[None] | None = None
        self._batch: dict[str, NDArray[np.uint8]] = {}
        self._pending = _Pending()
        self._seen: list[Sighting] = []

    def look_and_forward(self, workers: int) -> None:
        """Bring every image of the manifest into the store, as features or as a failure."""
        window = 2 * (self._batch_size + workers)
        looked_at = ahead(self._look, self._manifest.entries, workers=workers, window=window)
        with ThreadPoolExecutor(1, "commit") as committer, closing(looked_at):
            try:
                for sighting, pixels in self._waiting_for(looked_at):
                    self._take(sighting, pixels)
                    if not self._batch and self._is_due():
                        self._commit(committer)
                self._forward()
            except KeyboardInterrupt:
                self._commit(committer)
                raise
            self._commit(committer)
            if self._committing:
                self._committing.result()

    def finish(self, cache_path: Path) -> FeatureCache:
        """Pack what the store holds into the cache file, and remove the work directory."""
        self._store.refresh()
        good = [(e, s) for e, s in zip(self._manifest.entries, self._seen, strict=True) if not s.reason]
        failed = [s for s in self._seen if s.reason]
        if not good:
            self._store.discard()
            raise NoImagesError(_none_usable(failed))
        index = CacheIndex(
            recipe=self._store.recipe,
            provenance=json.dumps(self._provenance(), sort_keys=True),
            classes=self._manifest.classes,
            images=_image_columns(good),
            failures=_columns(failed, FAILURE_COLUMNS),
        )
        old = self._store.cache
        if old is None or not _same(old.index, index):
            places = [self._store.places[sighting.sha256] for _, sighting in good]
            try:
                pack(cache_path, index, places, replace=self._store.replaces, scratch=self._store.scratch())
            except FileExistsError as e:
                raise OutputError(
                    f"{cache_path} was made by someone else while this run was at work; "
                    "run the same command again to join the two"
                ) from e
        self._store.discard()
        self._progress.seconds = time.monotonic() - self._started
        self._report(self._progress)
        return FeatureCache.open(cache_path)

    def _waiting_for(self, results: Iterator[_Looked]) -> Iterator[_Looked]:
        """Yield results, and count the seconds that each was waited for."""
        while True:
            start = time.monotonic()
            result = next(results, None)
            self._progress.waiting += time.monotonic() - start
            if result is None:
                return
            yield result

    def _look(self, entry: ImageEntry) -> _Looked:
        """Say what an image file is; return its pixels only if they have to go through the network."""
        file = self._manifest.file(entry)
        before = self._store.sightings.get(entry.path)
        if before and not self._rehash and self._is_settled(before) and _is_unchanged(file, before):
            return before, None
        read = read_file(file, max_bytes=self._rules.max_bytes)
        if isinstance(read, Failure):
            return Sighting(entry.path, -1, -1, "", read.reason), None
        reason, pixels = self._reasons.get(read.sha256, ""), None
        if not reason and read.sha256 not in self._known:
            decoded = decode(read.data, self._rules)
            if isinstance(decoded, Failure):
                reason = decoded.reason
            else:
                pixels = decoded
        return Sighting(entry.path, read.size, read.mtime_ns, read.sha256, reason), pixels

    def _is_settled(self, sighting: Sighting) -> bool:
        """Whether nothing has to be done for the content that was seen."""
        return sighting.sha256 in (self._reasons if sighting.reason else self._known)

    def _take(self, sighting: Sighting, pixels: NDArray[np.uint8] | None) -> None:
        """Count an image, and send its pixels through the network when a batch is full."""
        self._seen.append(sighting)
        if sighting != self._store.sightings.get(sighting.path):
            self._pending.sightings.append(sighting)
        if pixels is not None and sighting.sha256 not in self._known:
            self._known.add(sighting.sha256)
            self._batch[sighting.sha256] = pixels
            if len(self._batch) == self._batch_size:
                self._forward()
        self._progress.done += 1
        self._progress.failures += bool(sighting.reason)
        self._progress.seconds = time.monotonic() - self._started
        self._report(self._progress)

    def _forward(self) -> None:
        """Send the batch through the network."""
        if not self._batch:
            return
        if self._backbone is None:
            self._require_space()
            self._backbone = self._source.start()
        start = time.monotonic()
        features = self._backbone.forward(np.stack(list(self._batch.values())))
        self._progress.computing += time.monotonic() - start
        self._pending.contents += self._batch
        recipe = self._store.recipe
        self._pending.batches.append({tap: as_stored(features, tap, recipe) for tap in recipe.taps})
        self._progress.forwarded += len(self._batch)
        self._batch = {}

    def _is_due(self) -> bool:
        full = len(self._pending.contents) + self._batch_size > SHARD_ROWS
        return full or time.monotonic() - self._pending.since > SHARD_SECONDS

    def _commit(self, committer: ThreadPoolExecutor) -> None:
        """Hand what is pending to the committing thread, after what it is at."""
        pending, self._pending = self._pending, _Pending()
        if self._committing:
            self._committing.result()
        if pending.contents or pending.sightings:
            self._committing = committer.submit(self._write, pending)

    def _write(self, pending: _Pending) -> None:
        features = {
            tap: np.concatenate([batch[tap] for batch in pending.batches])
            for tap in self._store.recipe.taps
            if pending.batches
        }
        self._store.commit(pending.contents, features, pending.sightings)

    def _require_space(self) -> None:
        """Raise `OutputError` before the first forward pass if the disk cannot take the features."""
        recipe, folder = self._store.recipe, self._store.directory.parent
        row = sum(width * feature_dtype(recipe, tap).itemsize for tap, width in recipe.taps.items())
        new = len(self._manifest) - len(self._store.places)
        needed, free = (max(new, 0) + len(self._manifest)) * row, shutil.disk_usage(folder).free
        if needed > free:
            raise OutputError(
                f"{folder} has {free / 1e9:.2f} GB free, and up to {needed / 1e9:.2f} GB are needed for the shards and "
                "the cache; make room, or choose a path on another disk"
            )

    def _provenance(self) -> dict[str, Any]:
        packages = ("featurecache", "numpy", "pillow", "h5py")
        return {
            "weights_source": self._source.weights,
            "images": str(self._manifest.root.absolute()),
            "engine": dict(self._backbone.provenance) if self._backbone else {},
            "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": self._progress.to_dict(),
        }


def _is_unchanged(file: bytes, sighting: Sighting) -> bool:
    try:
        status = os.stat(file)  # noqa: PTH116 - pathlib takes no bytes
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (sighting.size, sighting.mtime_ns)


def as_stored(features: Mapping[str, NDArray[np.float32]], tap: str, recipe: Recipe) -> NDArray[Any]:
    """Return the features of a tap, shape (n, d), in the type that they are stored in.

    Raises
    ------
    RecipeError
        If that type cannot hold them.
    """
    dtype = feature_dtype(recipe, tap)
    with np.errstate(over="ignore"):
        values: NDArray[Any] = features[tap].astype(dtype, copy=False)
    if not np.isfinite(values).all():
        largest = float(np.nanmax(np.abs(features[tap])))
        raise RecipeError(
            f"the tap {tap} reaches {largest:g}, which {recipe.precision} precision and {dtype} features cannot hold; "
            "use --precision float32 --dtype float32"
        )
    return values


def _columns(sightings: list[Sighting], types: Mapping[str, np.dtype[Any]]) -> dict[str, NDArray[Any]]:
    """Return the fields of sightings as columns of these names and types."""
    return {
        name: np.array([getattr(s, name) for s in sightings], dtype=object if dtype is TEXT else dtype)
        for name, dtype in types.items()
    }


def _image_columns(good: list[tuple[ImageEntry, Sighting]]) -> dict[str, NDArray[Any]]:
    seen = {name: dtype for name, dtype in IMAGE_COLUMNS.items() if name not in {"label", "split"}}
    columns = _columns([sighting for _, sighting in good], seen)
    for name in ("label", "split"):
        columns[name] = np.array([getattr(entry, name) for entry, _ in good], dtype=IMAGE_COLUMNS[name])
    return columns


def _same(old: CacheIndex, new: CacheIndex) -> bool:
    """Whether two caches of one recipe hold the same, whatever made them."""
    return old.classes == new.classes and all(
        np.array_equal(theirs[name], column)
        for theirs, ours in ((old.images, new.images), (old.failures, new.failures))
        for name, column in ours.items()
    )


def _left_out(manifest: Manifest) -> Iterator[str]:
    """Say what was found beside the images: one line for each reason, with a count and one path."""
    first = {item.reason: item.path for item in reversed(manifest.ignored)}
    for reason, count in Counter(item.reason for item in manifest.ignored).items():
        yield f"left out: {reason}: {first[reason]}" + (f" and {count - 1} more" if count > 1 else "")


def _none_usable(failed: list[Sighting]) -> str:
    reasons = Counter(sighting.reason for sighting in failed).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"none of the {len(failed)} images can be used ({listed}), so there is nothing to cache"
