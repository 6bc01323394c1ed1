"""A worker: a started network that computes units and publishes them below the work directory.

It knows no engine that distributes work: a thread, a process or an actor holds it. Features never leave it but through
the work directory.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.cluster.dealing import Probe
from featurecache.errors import ClusterError, FeatureCacheError
from featurecache.format.file_records import UNKNOWN, FileRecord
from featurecache.images.decode import DecodeRules, decode
from featurecache.images.failures import Failure
from featurecache.images.frames import read_image
from featurecache.images.image_source import ImageSource
from featurecache.images.names import shown_name
from featurecache.named_backbone import as_stored, recipe_of, source_of
from featurecache.prefetch import ahead
from featurecache.provenance import Environment
from featurecache.recipe import Recipe
from featurecache.run.commit_records import FeatureBatch, publish_commit
from featurecache.run.forward_passes import BusyTimer, PixelBatch
from featurecache.run.manifest_run import environment_of
from featurecache.run.units import Unit

_Loaded = tuple[str, FileRecord, NDArray[np.uint8] | None]
"""The hash of a content, what was found at its path, and its pixels if it can be decoded."""


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker of a run needs to know.

    Parameters
    ----------
    recipe
        The recipe of the run.
    network
        The arguments of `featurecache.named_backbone.source_of` that give its network.
    images
        The source of the images.
    example
        The path of an image, which a worker must see.
    rules
        How images are decoded.
    batch_size
        Images in a batch.
    directory
        The work directory.
    token
        The name of a file in the work directory: a worker that does not see it works elsewhere, or too late.
    part
        The part of the images, such as ``"2/4"``; None for all.
    views
        The views of images, such as ``"5:crop,flip"``; None if there are none.
    frames
        ``"all"`` if further frames of files are images; else None.
    """

    recipe: Recipe
    network: Mapping[str, Any]
    images: ImageSource
    example: str
    rules: DecodeRules
    batch_size: int
    directory: Path
    token: str
    part: str | None
    views: str | None
    frames: str | None


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who a worker is: its machine, its process, and what it computes with."""

    host: str
    process: int
    environment: Environment


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker did with a unit.

    Parameters
    ----------
    record
        The file name of the commit record; empty if nothing was published.
    rows
        Contents with features.
    failures
        Contents without: hash to what was found at the path.
    dark
        Paths of images that became nearly black.
    waiting, computing
        Seconds that the network was idle and busy, from the unit's first pass to its last one.
    environment
        What the features were computed with.
    """

    record: str
    rows: int
    failures: Mapping[str, FileRecord]
    dark: tuple[str, ...]
    waiting: float
    computing: float
    environment: Environment


class Worker:
    """A network that computes units; up to `featurecache.cluster.dealing.HELD` threads call it at the same time.

    Parameters
    ----------
    order
        What to do.
    threads
        Threads that read and decode images.
    """

    def __init__(self, order: Order, threads: int) -> None:
        self._order = order
        self._threads = max(threads, order.images.at_once)
        self._network = threading.Lock()  # held during the passes of a unit, so that units end one after another
        self._is_stopping = False
        self._backbone: Backbone | None = None
        self._weights = ""

    def start(self) -> Introduction:
        """Start the network; find before what would stop the work.

        Raises
        ------
        ClusterError
            If the work directory or the images are not here, or the network is another one.
        FeatureCacheError
            If the network cannot be started here.
        """
        host = socket.gethostname()
        try:
            self._require_run()
            self._require_images()
            self._start_network()
        except MemoryError as e:
            raise ClusterError(f"{host}: not enough memory to start the network; use machines with more") from e
        except FeatureCacheError as e:
            raise ClusterError(f"{host}: {e}") from e
        return Introduction(host, os.getpid(), self._environment())

    def do(self, unit: Unit) -> Report:
        """Compute a unit and publish it; after `stop`, only as much of it as is finished.

        Raises
        ------
        FeatureCacheError
            If the run has ended, the features do not fit the recipe, or they cannot be written.
        """
        dark: list[str] = []
        records: dict[str, FileRecord] = {}
        results: list[FeatureBatch] = []
        order = self._order
        items = [item for batch in unit.batches for item in batch.items()]
        window = 2 * (order.batch_size + self._threads)
        with closing(ahead(partial(self._load, dark), items, workers=self._threads, window=window)) as loaded:
            batches = self._pixel_batches(unit, loaded, records)
            first = next(batches, None)  # decoded while another unit is in the network
            with self._network:
                timer = BusyTimer(time.perf_counter)
                at_once = self._started.passes_at_once
                passes = ahead(
                    partial(self._forward, timer),
                    chain([first] if first else [], batches),
                    workers=at_once,
                    window=at_once + 1,
                )
                with closing(passes):
                    results.extend(passes)
                waiting, computing = timer.waiting, timer.computing
        environment, name = self._environment(), ""
        if records:
            self._require_run()
            name = publish_commit(
                order.directory,
                order.recipe,
                number=unit.number,
                batches=results,
                file_records=records.values(),
                environment=environment,
            )
        return Report(
            record=name,
            rows=sum(len(contents) for contents, _ in results),
            failures={content: record for content, record in records.items() if record.reason},
            dark=tuple(dark),
            waiting=waiting,
            computing=computing,
            environment=environment,
        )

    def probe(self, probe: Probe) -> None:
        """Read and decode one image, and forget it: an image that ends the process is found so."""
        self._load([], (probe.content, probe.path))

    def stop(self) -> None:
        """Let units end after the batch that is being computed."""
        self._is_stopping = True

    def _pixel_batches(
        self, unit: Unit, loaded: Iterator[_Loaded], records: dict[str, FileRecord]
    ) -> Iterator[PixelBatch]:
        """Yield the batches of a unit without the images that fail; record what was found at the paths."""
        for batch in unit.batches:
            if self._is_stopping:
                return
            pixels = {}
            for content, record, decoded in islice(loaded, len(batch)):
                records[content] = record
                if decoded is not None:
                    pixels[content] = decoded
            if pixels:
                yield pixels

    def _load(self, dark: list[str], item: tuple[str, str]) -> _Loaded:
        """Read and decode the image of a content."""
        content, path = item
        rules = self._order.rules
        read = read_image(self._order.images, path, max_bytes=rules.max_bytes)
        if isinstance(read, Failure):
            return content, FileRecord(path, UNKNOWN, UNKNOWN, "", read.reason), None
        record = FileRecord(path, read.size, read.mtime_ns, content, "")
        if read.sha256 != content:
            return content, replace(record, sha256="", reason="it has changed since the run began"), None
        decoded = decode(read.data, rules, frame=read.frame, view=read.view, on_dark=lambda: dark.append(path))
        if isinstance(decoded, Failure):
            sha256 = content if decoded.is_permanent else ""
            return content, replace(record, sha256=sha256, reason=decoded.reason), None
        return content, record, decoded

    def _forward(self, timer: BusyTimer, batch: PixelBatch) -> FeatureBatch:
        timer.count(1)
        try:
            features = self._started.forward(np.stack(list(batch.values())))
        finally:
            timer.count(-1)
        return list(batch), {tap: as_stored(features, tap, self._order.recipe) for tap in self._order.recipe.taps}

    @property
    def _started(self) -> Backbone:
        """The network; `start` must have been called."""
        if self._backbone is None:
            raise RuntimeError("the worker was not started")
        return self._backbone

    def _require_run(self) -> None:
        """Raise `ClusterError` unless the run's work directory is here, and the run has not ended."""
        token = self._order.directory / self._order.token
        if not token.exists():
            raise ClusterError(
                f"{self._order.directory} is not here, or its run has ended: the cache must lie on a file system that "
                "all nodes have at the same path"
            )

    def _require_images(self) -> None:
        """Raise `ClusterError` unless the images are here."""
        found = read_image(self._order.images, self._order.example, max_bytes=self._order.rules.max_bytes)
        if isinstance(found, Failure) and found.code in {"not_found", "no_permission"}:
            raise ClusterError(
                f"cannot read {shown_name(self._order.example)} in {self._order.images.name} ({found.reason}): the "
                "images must lie on a file system that all nodes have at the same path, or where all can read them"
            )

    def _start_network(self) -> None:
        order = self._order
        source = source_of(**order.network)
        different = order.recipe.differences(recipe_of(source.spec, order.rules, order.recipe.dtype))
        if different:
            listed = "; ".join(f"{d.field} is {d.theirs!r}, the driver has {d.ours!r}" for d in different)
            raise ClusterError(f"the network is another one here: {listed}; install the same weights and packages")
        self._weights = source.weights
        self._backbone = source.start(order.batch_size, sys.maxsize)  # any number, on all its GPUs

    def _environment(self) -> Environment:
        return environment_of(
            self._backbone,
            self._threads,
            self._weights,
            self._order.rules.max_pixels,
            part=self._order.part,
            views=self._order.views,
            frames=self._order.frames,
        )
