"""Reading a cache in parts beside one file: 100,000 x 4096 in 1 and in 20 parts; joining and updating it."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.cache import FeatureCache, work_directory
from featurecache.merging import merge
from featurecache.packing import pack_in_parts
from heads.rows import Features, by_blocks, row_blocks
from scripts.bench.wide import WIDTH, write_cache

ROWS, PARTS, CLASSES = 100_000, 20, 10
ROUNDS = 5
BATCH, BATCHES = 256, 64


def run() -> dict[str, Any]:
    """Measure, alternating between the caches; a rate is the median of the rounds."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        whole, parted = Path(folder) / "whole.h5", Path(folder) / "parts.h5"
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((CLASSES, WIDTH)).astype(np.float32)
        write_cache(whole, centres, [row % CLASSES for row in range(ROWS)], ["train"] * ROWS)
        _write_parts(whole, parted)
        weights = generator.standard_normal((WIDTH, CLASSES))
        order = generator.permutation(ROWS)[: BATCHES * BATCH]

        def predict(X: Features) -> int:
            by_blocks(X, WIDTH, CLASSES, lambda block: np.exp(np.minimum(block @ weights, 0)))
            return len(X)

        def read(X: Features) -> int:
            for rows in row_blocks(X):
                X[rows].max()
            return len(X)

        def read_batches(X: Features) -> int:
            for start in range(0, len(order), BATCH):
                X[order[start : start + BATCH]].max()
            return len(order)

        rates = [
            {"what": f"{name}, from {source}"} | _rates((whole, parted), work, cold=source == "the disk")
            for name, work in (("reading", read), ("predicting", predict), (f"random batches of {BATCH}", read_batches))
            for source in ("memory", "the disk")
        ]
        seconds = {
            "opening, s": _seconds(lambda: FeatureCache.open(parted)),
            "joining by links, s": _seconds(lambda: merge(Path(folder) / "linked.h5", [parted, whole], parts=True)),
        }
        return {"rows": f"{ROWS:,} x {WIDTH:,} float32", "parts": PARTS} | seconds | {"rows per second": rates}


def _write_parts(whole: Path, parted: Path) -> None:
    """Write the rows of a cache as a cache in parts."""
    cache, scratch = FeatureCache.open(whole), work_directory(parted)
    scratch.mkdir()
    options: dict[str, Any] = {"in_use": (), "replace": False, "scratch": scratch}
    pack_in_parts(parted, cache.index, cache.places(), part_rows=ROWS // PARTS, **options)


def _rates(paths: Sequence[Path], work: Callable[[Features], int], *, cold: bool) -> dict[str, Any]:
    """Return the rates of one file and of parts, in rows a second, and the second over the first."""
    found: list[list[float]] = [[] for _ in paths]
    for _ in range(ROUNDS):
        for path, rates in zip(paths, found, strict=True):
            if cold:
                for file in FeatureCache.open(path).parts or (path,):
                    _forget(file)
            X = FeatureCache.open(path).features("fc2").X
            began = time.perf_counter()
            count = work(X)
            rates.append(count / (time.perf_counter() - began))
            del X  # a file that is mapped keeps its pages
    one, parts = map(statistics.median, found)
    return {"one file": round(one), "parts": round(parts), "ratio": round(parts / one, 2)}


def _forget(path: Path) -> None:
    """Drop a file's pages from memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)
