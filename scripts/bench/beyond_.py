"""Training heads on 16 GiB of features with 2 GB of memory: rows a second, beside the disk's own speed."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.limited import run_limited
from scripts.bench.wide import WIDTH, write_cache

ROWS, CLASSES, VALID = 2**20, 4, 2**14
LIMIT = 2_000_000_000
_SEQUENTIAL = 4_000_000_000  # bytes that are read to measure the disk
_PIECE = 4_000_000
HEADS = {
    "centroid": (),
    "naive_bayes": (),
    "lda": (),
    "ridge": (),
    "logreg": ("max_iter=3",),
    "sgd": ("max_iter=2",),
    "softmax": ("epochs=1",),
    "mlp": ("epochs=1", "hidden=32"),
}


def run(rows: int = ROWS, heads: str = ",".join(HEADS)) -> dict[str, Any]:
    """Return the speed of the disk, and for each head seconds, rows a second from the disk, and memory.

    The file of the features needs 17 GB in the folder for temporary files (``TMPDIR``), and is removed at the end.

    Parameters
    ----------
    rows
        Rows, of 16 KiB each.
    heads
        Names of heads, separated by commas.
    """
    names = heads.split(",")
    if unknown := set(names) - HEADS.keys():
        raise SystemExit(f"{min(unknown)} is not measured here; give some of {', '.join(HEADS)}")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "wide.h5"
        centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32) * np.float32(0.125)
        valid = min(VALID, rows // 4)
        labels = [row % CLASSES for row in range(rows)]
        write_cache(cache, centres, labels, ["train"] * (rows - valid) + ["valid"] * valid)
        row_bytes = WIDTH * np.dtype(np.float32).itemsize
        rate = _sequential_rate(cache)
        trained = [_trained(cache, Path(folder) / name, name, row_bytes, rate) for name in names]
    return {
        "features_GB": round(rows * row_bytes / 1e9, 1),
        "limit_GB": LIMIT / 1e9,
        "disk_MB_a_second": round(rate / 1e6),
        "disk_rows_a_second": round(rate / row_bytes),
        "heads": trained,
    }


def _sequential_rate(path: Path) -> float:
    """Return the bytes a second that one thread reads in order from a file that is not in memory."""
    with path.open("rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began, count = time.perf_counter(), 0
        while count < _SEQUENTIAL and (read := len(stream.read(_PIECE))):
            count += read
        return count / (time.perf_counter() - began)


def _trained(cache: Path, directory: Path, head: str, row_bytes: int, rate: float) -> dict[str, Any]:
    with cache.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    options = [option for param in HEADS[head] for option in ("-p", param)]
    command = [sys.executable, "-m", "featurecache", "train", str(cache), str(directory), "--head", head, *options]
    measured = run_limited([*command, "--json"], LIMIT)
    reading = measured.read_bytes / measured.seconds
    return {
        "head": " ".join((head, *HEADS[head])),
        "seconds": round(measured.seconds, 1),
        "processor_seconds": round(measured.processor_seconds, 1),
        "read_GB": round(measured.read_bytes / 1e9, 1),
        "rows_a_second": round(reading / row_bytes),
        "of_the_disk": round(reading / rate, 2),
        "allocated_MB": round(measured.anonymous_bytes / 1e6),
        "valid_accuracy": round(json.loads(measured.output)["valid_accuracy"], 4),
        "limited_by": measured.limited_by,
    }
