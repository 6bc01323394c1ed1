"""An audit of 25,000 x 4096 features of ten classes: under 90 s on 2 cores, in bounded memory."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.wide import WIDTH, write_cache

ROWS, CLASSES = 25_000, 10
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
        centres = np.random.default_rng(0).normal(scale=1 / 4, size=(CLASSES, WIDTH)).astype(np.float32)
        wrong = range(0, ROWS, ROWS // FLIPPED)
        labels = [(n + (n in wrong)) % CLASSES for n in range(ROWS)]
        write_cache(cache, centres, labels, ["train"] * ROWS)
        found, own_memory = _watched(cache)
    among = sum(int(path.partition(".")[0]) in wrong for path in found["worst"])
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


def _watched(cache: Path) -> tuple[dict[str, Any], int]:
    """Audit in a separate process; return its output, and its peak memory without mapped files, in kB."""
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
