"""An extraction run in this process: every image of a manifest into the store, and the store into a cache file.

::

    manifest ─> inspect: known by path, size and time? by content? ─> decode ─> forward ─> commit a shard ─> pack
                └────────────────── threads ────────────────────────────┘      └── in manifest order ──┘

Threads read and decode files ahead of the forward passes, within a bounded window. Batches go through the network in
threads of their own: one, or two for each GPU. Batches depend on the manifest alone (`featurecache.run.units`), and
results are kept in its order, so a resumed run gives the same features as an uninterrupted one.
"""

import time
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.batch_size import SIZES
from featurecache.backbones.protocol import Backbone
from featurecache.errors import OptionError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import dark_images, decode
from featurecache.images.failures import Failure
from featurecache.images.manifest import ImageEntry
from featurecache.memory import free_memory
from featurecache.prefetch import ahead
from featurecache.provenance import Environment
from featurecache.run.forward_passes import ForwardPasses
from featurecache.run.manifest_run import ManifestRun
from featurecache.text import counted, in_units


class Run(ManifestRun[NDArray[np.uint8]]):
    """A run that decodes in threads of this process and forwards in one of them; see `ManifestRun`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._failed: set[str] = set()  # contents that this run could not decode
        self._passes = ForwardPasses(self._committer)
        self._backbone: Backbone | None = None

    def _forward_new_images(self) -> None:
        window = 2 * ((self._plan.size or max(SIZES)) + self._workers)
        inspected = ahead(self._inspect, self._manifest.entries, workers=self._workers, window=window)
        with closing(inspected), self._passes as passes:
            for batch in self._batches(inspected):
                passes.submit(batch)  # an empty one commits what was found at the paths of many known images
            passes.finish()
        self._progress.warnings = (*dark_images(self._dark), *self._known.warnings)
        self._measure()

    def _count(self, file_record: FileRecord, *, is_new: bool) -> None:
        del is_new  # batches are forwarded in order, at once
        self._progress.done += 1
        self._progress.failures += bool(file_record.reason)
        self._measure()

    def _measure(self) -> None:
        """Update the times and the number of forwarded images."""
        self._progress.seconds = time.monotonic() - self._started
        self._progress.forwarded = self._passes.forwarded
        self._progress.waiting, self._progress.computing = self._passes.waiting, self._passes.computing

    def _commit_later(self, file_record: FileRecord) -> None:
        self._passes.add_file_record(file_record)

    @property
    def _has_other_work(self) -> bool:
        return self._passes.holds_old_file_records

    def _end(self) -> None:
        self._passes.close()

    def _inspect(self, entry: ImageEntry) -> tuple[FileRecord, str, NDArray[np.uint8] | None]:
        """Return the file record of an image, its content, and its pixels if it has to go through the network."""
        file_record, read = self._known.inspect(
            entry.path, self._manifest.source, max_bytes=self._rules.max_bytes, rehash=self._rehash
        )
        content = file_record.sha256
        if read is None or (self._is_planned(content) and content not in self._failed):
            return file_record, content, None
        decoded = decode(
            read.data, self._rules, frame=read.frame, view=read.view, on_dark=lambda: self._dark.append(entry.path)
        )
        if isinstance(decoded, Failure):
            # without its hash, a failure that more memory or another limit may cure is tried again in the next run
            self._failed.add(content)
            sha256 = content if decoded.is_permanent else ""
            return replace(file_record, reason=decoded.reason, sha256=sha256), content, None
        return file_record, content, decoded

    def _start(self) -> None:
        """Start the network when the first image has to go through it."""
        if not self._passes.is_started:
            self._require_space()
            self._require_memory()
            if self._plan.size is None:
                self._store.scratch()  # shows the next run that this one was killed while it measured
            backbone = self._source.start(self._plan.size, self._count_new())
            self._backbone, size = backbone, self._plan.size or backbone.batch_size
            self._plan.size = size
            self._passes.start(backbone, size)
            self._store.scratch()  # locks the directory: a second run fails before it forwards anything

    def _require_memory(self) -> None:
        """Raise `OptionError` if the features of one batch are more than the memory can hold."""
        size = min(self._plan.size or 1, self._count_new())
        needed = size * sum(self._source.spec.taps.values()) * np.dtype(np.float32).itemsize
        free = free_memory()
        if needed > free:
            raise OptionError(
                f"a batch of {counted(size, 'image')} has {in_units(needed)} of features, and {in_units(free)} of "
                "memory are free; lower --batch-size, or choose narrower --taps"
            )

    def _environment(self) -> Environment:
        """Return what features are computed with in this run, beyond the recipe.

        The provenance of a backbone may change: the batch size becomes smaller if the memory does not suffice.
        """
        limit = max(self._rules.max_pixels, self._store.max_pixels)
        return self._environment_with(self._backbone, limit)
