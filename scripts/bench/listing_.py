"""Listing the images of a large folder: seconds and peak memory, measured with 300,000 empty files."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILES, CLASSES = 300_000, 1_000
_LIST = """
import json, resource, sys, time
from featurecache.images.manifest import read_manifest
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, began, used = peak(), time.perf_counter(), time.process_time()
manifest = read_manifest(sys.argv[1])
print(json.dumps({
    "files": len(manifest),
    "seconds": round(time.perf_counter() - began, 4),
    "processor_seconds": round(time.process_time() - used, 2),
    "peak_MB": round(peak() - before, 1),
}))
"""


def run(files: int = FILES, classes: int = CLASSES) -> dict[str, Any]:
    """Return what listing costs in a fresh process, and that of 3,000,000 files at the same rate."""
    with tempfile.TemporaryDirectory() as text:
        for number in range(classes):
            folder = Path(text) / ("valid" if number % 5 == 0 else "train") / f"n{number:08}"
            folder.mkdir(parents=True)
            for image in range(files // classes):
                (folder / f"{folder.name}_{image:05}_photo.JPEG").touch()
        done = subprocess.run([sys.executable, "-c", _LIST, text], check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout)
    times = 3_000_000 / found["files"]
    return found | {
        "seconds_3_000_000": round(found["seconds"] * times, 1),
        "bar_seconds": 300,
        "peak_MB_3_000_000": round(found["peak_MB"] * times),
        "bar_MB": 1500,
    }
