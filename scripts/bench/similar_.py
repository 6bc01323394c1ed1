"""The most similar images of a large cache: the first search, which measures all rows, and the next ones."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from featurecache import FeatureCache
from heads import SimilaritySearch
from scripts.bench.wide import write_cache

SIZES = {100_000: 0.1, 1_000_000: 1.0}  # rows, and the seconds in which they must be searched
WIDTH, CLASSES, NEIGHBOURS, ROUNDS = 1280, 10, 9, 9


def run() -> dict[str, Any]:
    """Return the seconds of searches for one image, once the file is in memory."""
    return {"searches": [_searched(rows, bar) for rows, bar in SIZES.items()]}


def _searched(rows: int, bar: float) -> dict[str, Any]:
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLASSES, WIDTH)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wide.h5"
        write_cache(path, centres, [0] * rows, ["train"] * rows)
        search = SimilaritySearch(FeatureCache.open(path))
        queries = np.maximum(random.standard_normal((ROUNDS + 1, 1, WIDTH)), 0).astype(np.float32)
        times = []
        for query in queries:
            began = time.perf_counter()
            search.nearest(query, NEIGHBOURS)
            times.append(time.perf_counter() - began)
    first, *others = times
    return {
        "rows": rows,
        "first_s": round(first, 3),
        "median_s": round(statistics.median(others), 4),
        "longest_s": round(max(others), 4),
        "bar_s": bar,
    }
