"""An audit of 25,000 x 4096 features of ten classes: under 90 s on 2 cores, in bounded memory."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import RowPlace, pack
from featurecache.decode import DECODE_VERSION
from featurecache.layout import CacheIndex
from featurecache.recipe import Recipe
from featurecache.sightings import Sighting, failure_columns, image_columns

ROWS, WIDTH, CLASSES = 25_000, 4_096, 10
FLIPPED = 250
_SAMPLE_SECONDS = 0.05
_AUDIT = """
import json, resource, sys, time
from featurecache import FeatureCache
from heads.auditing import audit
seconds, last = {}, time.perf_counter()
def note(done, total, what):
    global last
    now = time.perf_counter()
    seconds[what] = seconds.get(what, 0.0) + now - last
    last = now
began = last
found = audit(FeatureCache.open(sys.argv[1]), progress=note)
total = time.perf_counter() - began
print(json.dumps({
    "seconds": seconds, "total": total, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "worst": [each.path for each in found.label_errors[: int(sys.argv[2])]], "duplicates": len(found.duplicates),
}))
"""


def run() -> dict[str, Any]:
    """Return seconds of the audit and its stages, and peaks of memory in MB, with and without the mapped cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "wide.h5"
        flipped = write_cache(cache)
        found, own_memory = _watched(cache)
    among = sum(path in flipped for path in found["worst"])
    return {
        "rows": ROWS,
        "width": WIDTH,
        "X_MB": round(ROWS * WIDTH * 4 / 2**20),
        **{f"{what.replace(' ', '_')}_s": round(seconds, 1) for what, seconds in found["seconds"].items()},
        "audit_s": round(found["total"], 1),
        "bar_audit_s": 90,
        "peak_MB": round(found["peak"] / 2**10),
        "peak_without_mapped_files_MB": round(own_memory / 2**10),
        "duplicates": found["duplicates"],
        f"flipped_labels_among_the_first_{FLIPPED}": among,
    }


class _Features:
    """A source of rows that look like the output of a ReLU, of ten classes that overlap."""

    def __init__(self) -> None:
        self._centres = np.random.default_rng(0).standard_normal((CLASSES, WIDTH), np.float32) / 4

    def read(self, tap: str, start: int, count: int) -> NDArray[np.float32]:
        """Return rows (count, d); each is drawn from its own number."""
        del tap
        rows = np.empty((count, WIDTH), np.float32)
        for number in range(count):
            np.random.default_rng(start + number).standard_normal(out=rows[number], dtype=np.float32)
            rows[number] += self._centres[(start + number) % CLASSES]
        return np.maximum(rows, 0, out=rows)


def write_cache(path: Path) -> set[str]:
    """Write a cache of one tap and one split; return the paths of the rows whose labels are wrong."""
    names = [f"{n:05d}.jpg" for n in range(ROWS)]
    flipped = set(range(0, ROWS, ROWS // FLIPPED))
    labels = [(n + (n in flipped)) % CLASSES for n in range(ROWS)]
    recipe = Recipe(
        decode_version=DECODE_VERSION,
        resize="squash",
        filter="bilinear",
        backbone="vgg16",
        weights="random:0",
        input_size=(224, 224),
        preprocessing="caffe",
        taps={"fc2": WIDTH},
        precision="float32",
        dtype="float32",
    )
    index = CacheIndex(
        recipe=recipe,
        provenance="{}",
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        images=image_columns(
            [Sighting(name, 1, n, f"{n:064x}") for n, name in enumerate(names)], labels, ["train"] * ROWS
        ),
        failures=failure_columns([]),
    )
    source = _Features()
    pack(path, index, [RowPlace(source, n) for n in range(ROWS)], replace=False, scratch=path.parent)
    return {names[n] for n in flipped}


def _watched(cache: Path) -> tuple[dict[str, Any], int]:
    """Audit in a process of its own; return what it says, and the peak of its memory but for mapped files, in kB."""
    peak = 0
    command = [sys.executable, "-c", _AUDIT, str(cache), str(FLIPPED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(_SAMPLE_SECONDS)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"the audit ended with {process.returncode}")
    found: dict[str, Any] = json.loads(said)
    return found, peak


def _anonymous(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    except OSError:  # the process has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
