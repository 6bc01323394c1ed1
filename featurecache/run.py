"""One extraction run: every image of a manifest into the store, and the store into a cache file.

::

    manifest ─> look: known by path, size and time? by content? ─> decode ─> forward ─> commit a shard ─> pack
                └──────────────── threads ───────────────────────────┘      └── in manifest order ──┘

Files are read and decoded by threads, ahead of the forward pass and within a bounded window; batches go through the
network in a thread, on a GPU two at once; everything happens in the order of the manifest. Batches are therefore the
same in every run, resumed or not, and so are the features.
"""

import json
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.ahead import ahead
from featurecache.backbones.batch_size import SIZES
from featurecache.cache import FeatureCache, pack
from featurecache.decode import DecodeRules, Failure, decode
from featurecache.errors import NoImagesError, OutputError
from featurecache.layout import CacheIndex
from featurecache.manifest import ImageEntry, Manifest
from featurecache.passes import Features, Passes, Pixels
from featurecache.publish import in_units, output_error
from featurecache.sightings import Sighting, failure_columns, image_columns
from featurecache.source import Source, as_stored
from featurecache.store import Batch, Store

SHARD_ROWS = 1024
SHARD_BYTES = 8_000_000
SHARD_SECONDS = 30.0
_EARLIER_RUNS = 100

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
        Seconds, since it was started, that the network had nothing to do, and that it worked.
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
        """Return the ledger of the run: images, rows, failures, forward passes spent and saved, and per second."""
        rows = self.done - self.failures
        return {
            "images": self.total,
            "rows": rows,
            "failures": self.failures,
            "forwarded": self.forwarded,
            "reused": rows - self.forwarded,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.forwarded / self.seconds, 2) if self.seconds else 0.0,
            "bound": self.bound,
        }


@dataclass(slots=True)
class _Pending:
    """What is not yet committed: whole batches of features, and what was seen."""

    batches: list[Batch] = field(default_factory=list)
    sightings: list[Sighting] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class Run:
    """One run: its state, and the steps that change it, in the order of the manifest."""

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        rules: DecodeRules,
        source: Source,
        *,
        batch_size: int | None,
        workers: int,
        rehash: bool,
        report: Callable[[Progress], None],
    ) -> None:
        self._manifest = manifest
        self._store = store
        self._rules = rules
        self._source = source
        self._batch_size = batch_size
        self._workers = workers
        self._rehash = rehash
        self._taken: set[str] = set()
        self._report = report
        self._progress = Progress(len(manifest))
        self._started = time.monotonic()
        self._passes: Passes | None = None
        self._kept: list[str] = []  # the last contents that came out of it
        self._committing: Future[None] | None = None
        self._pending = _Pending()
        self._seen: list[Sighting] = []

    def make(self, cache_path: Path) -> FeatureCache:
        """Bring every image into the store, pack the cache file, and remove the work directory."""
        with self._claimed():
            self._look_and_forward()
            self._pack(cache_path)
            self._store.discard()
        self._progress.seconds = time.monotonic() - self._started
        self._report(self._progress)
        return FeatureCache.open(cache_path)

    def _look_and_forward(self) -> None:
        """Bring every image of the manifest into the store, as features or as a failure."""
        window = 2 * ((self._batch_size or max(SIZES)) + self._workers)
        looked_at = ahead(self._look, self._manifest.entries, workers=self._workers, window=window)
        with ThreadPoolExecutor(1, "commit") as committer, closing(looked_at):
            try:
                batches = self._batches(looked_at, committer)
                first = list(islice(batches, 1))  # for which the network is started
                if self._passes:
                    self._forward(self._passes, chain(first, batches), committer)
            except KeyboardInterrupt:
                for contents, features in self._passes.ended() if self._passes else ():
                    self._keep(contents, features)
                self._commit(committer)
                self._wait_for_commit()
                raise
            self._commit(committer)
            self._wait_for_commit()

    def _forward(self, passes: Passes, batches: Iterable[Pixels], committer: ThreadPoolExecutor) -> None:
        """Send batches through the network, and keep what comes out of it."""
        with closing(passes.over(batches)) as results:
            for contents, features in results:
                self._keep(contents, features)
                self._progress.waiting, self._progress.computing = passes.waiting, passes.computing
                if self._is_due():
                    self._commit(committer)

    def _keep(self, contents: list[str], features: Features) -> None:
        """Add what came out of the network to what is to be committed, unless it has been."""
        if contents is self._kept:
            return
        stored = {tap: as_stored(features, tap, self._store.recipe) for tap in self._store.recipe.taps}
        self._pending.batches.append((contents, stored))
        self._kept = contents
        self._progress.forwarded += len(contents)

    def _batches(self, looked_at: Iterator[_Looked], committer: ThreadPoolExecutor) -> Iterator[Pixels]:
        """Count every image, and yield in batches, by content, the pixels that the network has to see."""
        batch: dict[str, NDArray[np.uint8]] = {}
        for sighting, pixels in looked_at:
            self._seen.append(sighting)
            if sighting != self._store.sightings.get(sighting.path):
                self._pending.sightings.append(sighting)
            if pixels is not None and sighting.sha256 not in self._taken:
                self._start()
                self._taken.add(sighting.sha256)
                batch[sighting.sha256] = pixels
            if len(batch) == self._batch_size:
                yield batch
                batch = {}
            self._progress.done += 1
            self._progress.failures += bool(sighting.reason)
            self._progress.seconds = time.monotonic() - self._started
            self._report(self._progress)
            if not batch and self._is_old():
                self._commit(committer)
        if batch:
            yield batch

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """Keep other runs out of the work directory."""
        try:
            self._store.claim()
            yield
        finally:
            self._store.release()

    def _pack(self, cache_path: Path) -> None:
        """Write the cache file, unless the one that is there holds the same."""
        self._store.refresh()
        good = [(e, s) for e, s in zip(self._manifest.entries, self._seen, strict=True) if not s.reason]
        failed = [s for s in self._seen if s.reason]
        if not good:
            if not self._store.places:  # else there is something to lose: the images may be back tomorrow
                self._store.discard()
            raise NoImagesError(_none_usable(failed))
        self._progress.seconds = time.monotonic() - self._started
        index = CacheIndex(
            recipe=self._store.recipe,
            provenance=json.dumps(self._provenance(), sort_keys=True),
            classes=self._manifest.classes,
            images=image_columns([s for _, s in good], [e.label for e, _ in good], [e.split for e, _ in good]),
            failures=failure_columns(failed),
        )
        old = self._store.cache
        if old is None or not old.index.holds_same_as(index):
            places = [self._store.places[s.sha256] for _, s in good if s.sha256 in self._store.places]
            if len(places) < len(good):
                raise OutputError(
                    f"{self._store.directory} was removed while this run was at work; run the same command again"
                )
            try:
                pack(cache_path, index, places, replace=self._store.replaces, scratch=self._store.scratch())
            except FileExistsError as e:
                raise OutputError(
                    f"{cache_path} was made by someone else while this run was at work; "
                    "run the same command again to join the two"
                ) from e

    def _look(self, entry: ImageEntry) -> _Looked:
        """Say what an image file is; return its pixels only if they have to go through the network."""
        sighting, data = self._store.look(
            entry.path, self._manifest.file(entry), max_bytes=self._rules.max_bytes, rehash=self._rehash
        )
        if data is None or sighting.sha256 in self._taken:
            return sighting, None
        decoded = decode(data, self._rules)
        if isinstance(decoded, Failure):
            # what failed for want of memory, or by a limit, is not remembered by its content: it may succeed next time
            return replace(sighting, reason=decoded.reason, sha256="" if decoded.may_pass else sighting.sha256), None
        return sighting, decoded

    def _start(self) -> None:
        """Start the network when the first image has to go through it."""
        if self._passes is None:
            self._require_space()
            backbone = self._source.start(self._batch_size, self._count_new())
            self._batch_size = self._batch_size or backbone.batch_size
            self._passes = Passes(backbone)
            self._store.scratch()  # now, so that another run at work shows before any image is forwarded

    def _is_due(self) -> bool:
        """Whether the shard should end before the next batch."""
        rows = sum(len(contents) for contents, _ in self._pending.batches) + (self._batch_size or 0)
        return rows > SHARD_ROWS or rows * self._store.recipe.row_bytes > SHARD_BYTES or self._is_old()

    def _is_old(self) -> bool:
        """Whether the oldest of what is pending has waited long enough."""
        return time.monotonic() - self._pending.since > SHARD_SECONDS

    def _commit(self, committer: ThreadPoolExecutor) -> None:
        """Hand what is pending to the committing thread, after what it is at."""
        self._wait_for_commit()
        pending, self._pending = self._pending, _Pending()
        if pending.batches or pending.sightings:
            self._committing = committer.submit(
                self._store.commit, pending.batches, pending.sightings, self._circumstances()
            )

    def _wait_for_commit(self) -> None:
        """Return when the last commit is durable, or raise what kept it from being so."""
        if self._committing:
            self._committing.result()

    def _count_new(self) -> int:
        """Return how many images may have to go through the network."""
        return sum(not self._store.is_known(entry.path) for entry in self._manifest.entries)

    def _require_space(self) -> None:
        """Raise `OutputError` before the first forward pass if the disk cannot take the features."""
        recipe, folder = self._store.recipe, self._store.directory.parent.absolute()
        needed = (self._count_new() + len(self._manifest)) * recipe.row_bytes
        try:
            free = shutil.disk_usage(folder).free
        except OSError as e:
            raise output_error(folder, e) from e
        if needed > free:
            raise OutputError(
                f"{folder} has {in_units(free)} free, and up to {in_units(needed)} are needed for the shards and the "
                "cache; make room, or choose a path on another disk"
            )

    def _circumstances(self) -> dict[str, Any]:
        """Return what features are computed with now, beyond what the recipe says."""
        packages = ("featurecache", "numpy", "pillow", "h5py")
        return {
            "engine": dict(self._passes.backbone.provenance) if self._passes else {},
            "runner": f"{self._workers} decoding threads",
            "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        }

    def _provenance(self) -> dict[str, Any]:
        """Return what made the cache: this run, and what came before it that rows were taken over from."""
        before = dict(self._store.cache.provenance) if self._store.cache else {}
        earlier = [*before.pop("earlier", []), *([before] if before else []), *self._store.circumstances]
        return self._circumstances() | {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "earlier": earlier[-_EARLIER_RUNS:],
            "images": str(self._manifest.root.absolute()),
            "run": self._progress.to_dict(),
            "weights_source": self._source.weights,
        }


def _none_usable(failed: list[Sighting]) -> str:
    reasons = Counter(sighting.reason for sighting in failed).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons)
    return f"none of the {len(failed)} images can be used ({listed}), so there is nothing to cache"
