"""Opening a cache of 25,000 x 4096 and having X ready: under 50 ms."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from featurecache.cache import FeatureCache
from featurecache.format.feature_file import RowPlaces
from featurecache.format.file_records import FileRecord, FileRecordColumns, failure_columns, image_columns
from featurecache.format.layout import CacheIndex
from featurecache.images.decode import DecodeRules
from featurecache.images.manifest import ImageEntry
from featurecache.named_backbone import recipe_of
from featurecache.packing import pack
from scripts.bench.images import Rows, WideBackbone

ROWS = 25_000
ROUNDS = 9


def run() -> dict[str, Any]:
    """Return the median and the worst time in milliseconds."""
    spec = WideBackbone().spec
    entries = [ImageEntry(f"train/cats/cat.{n:05d}.jpg", n % 2, "train") for n in range(ROWS)]
    found = FileRecordColumns(FileRecord(e.path, 20_000 + n, n, f"{n:064x}") for n, e in enumerate(entries))
    index = CacheIndex(
        recipe=recipe_of(spec, DecodeRules(spec.input_size), "float32"),
        provenance="{}",
        classes=("cats", "dogs"),
        images=image_columns(entries, found, np.arange(ROWS)),
        failures=failure_columns(entries, found, np.arange(0)),
    )
    places = RowPlaces.in_one(Rows(), 0, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wide.h5"
        began = time.perf_counter()
        pack(path, index, places, replace=False, scratch=path.parent)
        packing = time.perf_counter() - began
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            FeatureCache.open(path).features("fc2", "train")
            times.append((time.perf_counter() - began) * 1e3)
    return {
        "rows": ROWS,
        "median_ms": round(statistics.median(times), 1),
        "worst_ms": round(max(times), 1),
        "packing_s": round(packing, 2),
        "bar_ms": 50,
    }
