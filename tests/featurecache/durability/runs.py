"""Checks of runs for the tests of durability: known rows, complete files, equal caches."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from featurecache import FeatureCache, extract
from featurecache.backbones.fake import FakeBackbone
from featurecache.run.store import Store

DRIVER = Path(__file__).with_name("driver.py")
BATCH_SIZE = 8
SAYINGS = ("pid", "committed", "packing", "ledger", "error", "status")


class StoppingBackbone(FakeBackbone):
    """The fake backbone, which runs out of memory when some images are through and a shard of them is committed."""

    def __init__(self, work, images=24):
        super().__init__()
        self._work, self._images, self._seen = work, images, 0

    def forward(self, images):
        self._seen += len(images)
        if self._seen <= self._images:
            return super().forward(images)
        while not list(self._work.glob("commits/*")):
            time.sleep(0.01)
        raise MemoryError


def make_images(folder, numbers):
    """Write small images, one a number; some contents are there twice, some are no images at all."""
    for number in numbers:
        split, label = ("train", "train", "valid", "test")[number % 4], ("cats", "dogs")[number // 4 % 2]
        path = folder / split / label / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 25 == 7:
            path.write_bytes(b"not an image" * number)
        else:
            write_image(path, number - 1 if number % 15 == 4 else number)
    return folder


def write_image(path, seed):
    """Write a small noise image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def contents(path, cache=None):
    """Return everything of a cache that an interruption must not change, bit for bit; ``cache`` is the opened one."""
    with h5py.File(path) as file:
        groups = [group for group in ("features", "images", "failures") if group in file]
        columns = {f"{group}/{name}": dataset[()] for group in groups for name, dataset in file[group].items()}
    if "features" not in groups:
        cache = cache or FeatureCache.open(path)
        columns |= {f"features/{tap}": np.asarray(cache.mapped(tap)) for tap in cache.taps}
    return {
        name: (values.shape, values.dtype.str, values.tolist() if values.dtype == object else values.tobytes())
        for name, values in columns.items()
    }


def rows_in(path):
    """Return the number of rows of a file, which `FeatureCache` has checked."""
    with h5py.File(path) as file:
        return len(file["images/path"])


def copy_cache(path, target):
    """Copy a cache, with its parts if it has some."""
    shutil.copy(path, target)
    if path.with_suffix(".parts").is_dir():
        shutil.copytree(path.with_suffix(".parts"), target.with_suffix(".parts"))


def rows_of(store, taps):
    """Return the bytes of every row that a store knows, by the hash of its content."""
    contents = list(store.known.places)
    places = store.known.places.of(contents)
    rows = zip(*(places.read(tap, width, store.recipe.stored_dtype(tap)) for tap, width in taps.items()), strict=True)
    return {content: b"".join(row.tobytes() for row in each) for content, each in zip(contents, rows, strict=True)}


@dataclass(frozen=True)
class Reference:
    """A folder of images, and the cache that an uninterrupted run made of it; ``part_rows`` is an option of runs."""

    images: Path
    path: Path
    part_rows: int | None = None

    @cached_property
    def cache(self):
        return FeatureCache.open(self.path)

    @cached_property
    def contents(self):
        return contents(self.path)

    @cached_property
    def rows(self):
        store = Store.beside(self.path, self.cache.recipe)
        return rows_of(store, self.cache.taps)

    def known(self, cache_path):
        """Return the rows that a new run would know; check that each is right."""
        store = Store.beside(cache_path, self.cache.recipe)
        rows = rows_of(store, self.cache.taps)
        wrong = [content for content in rows.keys() & self.rows.keys() if rows[content] != self.rows[content]]
        assert wrong == []
        return set(rows)

    def check_crash(self, cache_path, acknowledged, old=None):
        """Check what a crash left: no half cache, and every row that was acknowledged; return what `known` does."""
        if old is not None or cache_path.exists():
            cache = FeatureCache.open(cache_path)
            assert cache.problems() == []
            assert contents(cache_path, cache) in ([self.contents] if old is None else [old.contents, self.contents])
        known = self.known(cache_path)
        assert acknowledged <= known
        return known

    def finish(self, cache_path, backbone=None, known=None, **options):
        """Run to the end, in this process, and check what came out; return the ledger; ``known`` as it was found."""
        ledger = []
        known = self.known(cache_path) if known is None else known
        extract(
            self.images,
            cache_path,
            backbone=backbone or FakeBackbone(),
            batch_size=BATCH_SIZE,
            part_rows=self.part_rows,
            progress=lambda progress: ledger.append(progress.to_dict()),
            **options,
        )
        self.check_finished(cache_path)
        assert ledger[-1]["forwarded"] == len(self.rows.keys() - known)
        return ledger[-1]

    def check_finished(self, cache_path):
        """Check that a cache is what an uninterrupted run makes, and that nothing else lies in its folder."""
        cache = FeatureCache.open(cache_path)
        assert cache.problems() == []
        assert contents(cache_path, cache) == self.contents
        folder = cache_path.with_suffix(".parts")
        assert set(cache_path.parent.iterdir()) == ({cache_path, folder} if self.part_rows else {cache_path})
        assert set(cache.parts) == (set(folder.iterdir()) if self.part_rows else set())
        assert all(rows_in(path) <= (self.part_rows or 0) for path in cache.parts)


@dataclass
class Attempt:
    """An extraction in a separate process, with its output so far."""

    acknowledged: set = field(default_factory=set)
    pid: int | None = None
    ledger: dict | None = None
    error: str | None = None
    status: int | None = None
    said: dict = field(default_factory=lambda: {name: threading.Event() for name in SAYINGS})

    def wait_for(self, name):
        """Wait until the run has said this, or has ended."""
        assert self.said[name].wait(100)

    def kill(self):
        """Kill the process as the system would: without a word. It may have ended by itself."""
        self.wait_for("pid")
        if self.status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def end(self):
        """Wait for the end; return the exit status."""
        self.wait_for("status")
        return self.status

    def hear(self, name, value):
        if name == "committed":
            self.acknowledged |= set(value)
        elif name != "packing":
            setattr(self, name, value)
        for event in self.said.values() if name == "status" else [self.said[name]]:
            event.set()


class Driver:
    """A process that starts extractions in processes of their own, one after the other."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        self._attempt = None
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def start(self, images, cache_path, *options):
        """Start an extraction; the one before must have ended."""
        self._attempt = Attempt()
        self._process.stdin.write(json.dumps([str(images), str(cache_path), *map(str, options)]) + "\n")
        self._process.stdin.flush()
        return self._attempt

    def close(self):
        self._process.stdin.close()
        self._listener.join()
        self._process.stdout.close()
        assert self._process.wait() == 0

    def _listen(self):
        for line in self._process.stdout:
            for name, value in json.loads(line).items():
                self._attempt.hear(name, value)
