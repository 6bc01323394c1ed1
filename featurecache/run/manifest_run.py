"""What every extraction run does with its manifest, whoever computes: find what is new, form batches, pack."""

import hashlib
import json
import platform
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.cache import FeatureCache
from featurecache.errors import NoImagesError, OutputError
from featurecache.format.feature_file import RowPlaces
from featurecache.format.file_records import FileRecord, FileRecordColumns, failure_columns, image_columns
from featurecache.format.layout import CacheIndex
from featurecache.images.decode import DecodeRules
from featurecache.images.manifest import Manifest
from featurecache.images.sources import example_of
from featurecache.named_backbone import NamedBackbone
from featurecache.packing import pack, pack_in_parts
from featurecache.processors import processor_class
from featurecache.provenance import Environment, Provenance
from featurecache.run.committer import Committer
from featurecache.run.content_set import ContentSet
from featurecache.run.progress import Progress
from featurecache.run.store import Store
from featurecache.run.units import BatchPlan, Item
from featurecache.storage.output_errors import require_space


class ManifestRun(ABC, Generic[Item]):
    """One extraction run, made once by `make`; subclasses say who computes.

    Parameters
    ----------
    manifest
        The images.
    store
        What is known already; takes the results.
    rules
        How images are decoded.
    source
        The network, not started.
    batch_size
        Images in a batch; the network's own number if None.
    workers
        Threads that read files.
    part_rows
        The largest number of rows of a part, for a cache in parts; None for one file.
    rehash
        Read every file, even if its size and modification time are known.
    report
        Called after every image and at the end.
    """

    def __init__(
        self,
        manifest: Manifest,
        store: Store,
        rules: DecodeRules,
        source: NamedBackbone,
        *,
        batch_size: int | None,
        workers: int,
        part_rows: int | None = None,
        rehash: bool,
        report: Callable[[Progress], None],
    ) -> None:
        self._manifest = manifest
        self._store = store
        self._known = store.known
        self._rules = rules
        self._source = source
        self._plan: BatchPlan[Item] = BatchPlan(batch_size)
        self._workers = workers
        self._part_rows = part_rows
        self._rehash = rehash
        self._planned = ContentSet()
        self._dark: list[str] = []
        self._report = report
        self._progress = Progress(len(manifest))
        self._started = time.monotonic()
        self._committer = Committer(store, self._environment)
        self._found = FileRecordColumns()  # at the path of each entry, in order

    def make(self, cache_path: Path) -> FeatureCache:
        """Bring every image into the store, pack the cache file, and remove the work directory."""
        with self._locked():
            self._forward_new_images()
            self._store.discard(self._pack(cache_path))
        self._progress.seconds = time.monotonic() - self._started
        self._report(self._progress)
        return FeatureCache.open(cache_path)

    @abstractmethod
    def _forward_new_images(self) -> None:
        """Bring every image of the manifest into the store, as features or as a failure."""

    @abstractmethod
    def _start(self) -> None:
        """Prepare for the first image that has to go through the network; called again for later ones."""

    @abstractmethod
    def _commit_later(self, file_record: FileRecord) -> None:
        """Take what was found at a path, and is not known yet, for a later commit."""

    @abstractmethod
    def _count(self, file_record: FileRecord, *, is_new: bool) -> None:
        """Count an image of the manifest in the progress.

        Parameters
        ----------
        is_new
            Whether it is the first one with its content, which has to go through the network.
        """

    @property
    @abstractmethod
    def _has_other_work(self) -> bool:
        """Whether there is something to do between two batches."""

    @property
    def _part(self) -> str | None:
        """The part of the images, such as ``"2/4"``; None for all."""
        return str(self._known.part) if self._known.part else None

    @abstractmethod
    def _environment(self) -> Environment:
        """Return what features are computed with in this run, beyond the recipe."""

    def _environment_with(self, backbone: Backbone | None, max_pixels: int) -> Environment:
        """Return the environment of this run's manifest with a started network, or with none; see `environment_of`."""
        return environment_of(
            backbone,
            self._workers,
            self._source.weights,
            max_pixels,
            part=self._part,
            views=self._manifest.views,
            frames=self._manifest.frames,
        )

    @abstractmethod
    def _end(self) -> None:
        """Let everything end that computes; called whatever happened."""

    def _batches(self, inspected: Iterator[tuple[FileRecord, str, Item | None]]) -> Iterator[Mapping[str, Item]]:
        """Count every image, and yield batches of the new ones, hash of the content to item.

        Empty batches come between them when there is other work.

        Parameters
        ----------
        inspected
            For every image what was found at its path, the hash of its content, and its item if it has to go through
            the network.
        """
        for file_record, content, item in inspected:
            self._found.append(file_record)
            if file_record != self._known.file_records.get(file_record.path):
                self._commit_later(file_record)
            is_new = False
            if self._known.is_elsewhere(content):
                self._progress.elsewhere += 1
            elif content and not self._is_planned(content) and not self._known.is_cached(content):
                self._planned.add(content)
                is_done = self._known.is_committed(content)
                is_new = item is not None and not is_done
                if item is not None:
                    self._start()
                yield from self._plan.add(content, item, is_done=is_done)
            self._count(file_record, is_new=is_new)
            self._report(self._progress)
            if self._has_other_work:
                yield {}
        yield from self._plan.rest()

    def _is_planned(self, content: str) -> bool:
        """Whether this run brings a content into the store, or has found it there."""
        return content in self._planned

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other runs out of the work directory; let the threads end and unlock it, whatever happens."""
        try:
            self._store.lock()
            yield
        finally:
            self._end()
            self._store.close()

    def _pack(self, cache_path: Path) -> NDArray[np.bytes_]:
        """Write the cache file, unless the existing one has the same content; return the hashes of its contents.

        What is not needed any more is dropped on the way: for many images this is where most memory is needed.
        """
        self._planned.clear()
        self._store.refresh()
        handled, failed = np.ones(len(self._found), bool), np.zeros(len(self._found), bool)
        if self._known.part:
            handled[:] = [not self._known.is_elsewhere(self._found.sha256(number)) for number in range(len(handled))]
        failed[list(self._found.reasons)] = True
        entries, good = self._manifest.entries, np.flatnonzero(handled & ~failed)
        failures = sorted(np.flatnonzero(handled & failed).tolist(), key=lambda number: entries[number].path)
        if not len(good) and not self._known.part:  # a part may be empty
            if not self._known.places:  # keep committed features: the images may come back
                self._store.discard()
            reasons = [self._found.reasons[number] for number in failures]
            raise NoImagesError(_none_usable(self._manifest, entries[failures[0]].path, reasons))
        self._progress.seconds = time.monotonic() - self._started
        old = self._comparable()
        places = self._places(good) if old is None else None
        index = CacheIndex(
            recipe=self._store.recipe,
            provenance=json.dumps(self._provenance(), sort_keys=True),
            classes=self._manifest.classes,
            images=image_columns(entries, self._found, good),
            failures=failure_columns(entries, self._found, np.array(failures, dtype=np.intp)),
            columns={
                name: np.array(texts, dtype=object)[good] for name, texts in sorted(self._manifest.columns.items())
            },
        )
        if old is not None and ((self._part_rows and old.places is None) or not old.holds_same_as(index)):
            places = self._places(good)
        self._found = FileRecordColumns()
        del handled, failed, good  # 10 bytes for each image
        if places is not None:
            try:
                self._write(cache_path, index, places)
            except FileExistsError as e:
                raise OutputError(
                    f"{cache_path} was made by someone else while this run was at work; "
                    "run the same command again to join the two"
                ) from e
        hashes: NDArray[np.bytes_] = index.images["sha256"]
        return hashes

    def _places(self, numbers: NDArray[np.intp]) -> RowPlaces:
        """Return the places of the contents that were found at entries; the store forgets all places."""
        try:
            places = self._known.places.of(self._found.sha256(number) for number in numbers)
        except KeyError as e:
            raise OutputError(
                f"{self._store.directory} was removed while this run was at work; run the same command again"
            ) from e
        self._known.places.clear()
        return places

    def _comparable(self) -> CacheIndex | None:
        """Return the index of the existing cache, unless it must be written in any case: of a part of another list."""
        old = self._store.cache
        if old is None or (self._known.part and old.made_by.manifest != _identity(self._manifest)):
            return None
        return old.index

    def _write(self, cache_path: Path, index: CacheIndex, places: RowPlaces) -> None:
        """Write the cache, as one file or in parts."""
        replaces, scratch = self._store.replaces, self._store.scratch()
        if self._part_rows:
            self._store.parts_in_use = pack_in_parts(
                cache_path,
                index,
                places,
                part_rows=self._part_rows,
                in_use=self._store.parts_in_use,
                replace=replaces,
                scratch=scratch,
                release=self._store.release,
            )
        else:
            pack(cache_path, index, places, replace=replaces, scratch=scratch, release=self._store.release)

    def _count_new(self) -> int:
        """Return the largest number of images that may have to go through the network."""
        return sum(not self._known.has_path(entry.path) for entry in self._manifest.entries)

    def _require_space(self) -> None:
        """Raise `OutputError` if the disk has too little space for the features."""
        new = self._count_new()
        rows = new + (new if self._part_rows and self._store.parts_in_use else len(self._manifest))
        rows //= self._known.part.of if self._known.part else 1
        require_space(self._store.directory.parent, rows * self._store.recipe.row_bytes, "for the shards and the cache")

    def _provenance(self) -> dict[str, Any]:
        """Return the provenance of the cache: this run, and the earlier runs that its rows come from."""
        environment = self._environment()
        now = Provenance(
            engine=environment.engine,
            runner=environment.runner,
            versions=environment.versions,
            weights_source=environment.weights_source,
            max_pixels=environment.max_pixels,
            processor=environment.processor,
            part=environment.part,
            views=self._manifest.views,
            frames=self._manifest.frames,
            manifest=_identity(self._manifest) if environment.part else None,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            images=self._manifest.source.name,
            run=self._progress.to_dict(),
            part_rows=self._part_rows,
        )
        before = None if self._store.cache is None else self._store.cache.provenance
        return now.with_earlier(before, [part.to_dict() for part in self._store.environments])


def _identity(manifest: Manifest) -> dict[str, Any]:
    """Return what tells a list of images from others."""
    digest = hashlib.sha256()
    for entry in manifest.entries:
        label = manifest.classes[entry.label] if entry.label >= 0 else None
        digest.update(json.dumps([entry.split, label, entry.path]).encode("ascii"))
    for name, texts in sorted(manifest.columns.items()):
        for text in (name, *texts):
            digest.update(json.dumps(text).encode("ascii"))
    return {"images": len(manifest), "sha256": digest.hexdigest()}


def _none_usable(manifest: Manifest, path: str, reasons: list[str]) -> str:
    listed = "; ".join(f"{count} x {reason}" for reason, count in Counter(reasons).most_common(3))
    example = example_of(manifest.source, path)
    return f"none of the {len(reasons)} images can be used ({listed}), so there is nothing to cache; {example}"


def environment_of(
    backbone: Backbone | None,
    threads: int,
    weights: str,
    max_pixels: int,
    *,
    part: str | None,
    views: str | None,
    frames: str | None,
) -> Environment:
    """Return what features are computed with in this process, beyond the recipe.

    Parameters
    ----------
    backbone
        The started network; None if none was started.
    threads
        Threads that decode.
    weights
        The value of the option ``weights``.
    max_pixels
        The limit for images.
    part
        The part of the images, such as ``"2/4"``; None for all.
    views
        The views of images, such as ``"5:crop,flip"``; None if there are none.
    frames
        ``"all"`` if further frames of files are images; else None.
    """
    packages = ("featurecache", "numpy", "pillow", "h5py", "pillow-heif")
    return Environment(
        engine=dict(backbone.provenance) if backbone else {},
        runner=f"{threads} decoding threads",
        versions={"python": platform.python_version()} | dict(filter(None, map(_version, packages))),
        weights_source=weights,
        max_pixels=max_pixels,
        processor=processor_class(),
        part=part,
        views=views,
        frames=frames,
    )


@cache
def _version(package: str) -> tuple[str, str] | None:
    """Return the name and the version of a package; None if it is not installed."""
    try:
        return package, version(package)
    except PackageNotFoundError:
        return None
