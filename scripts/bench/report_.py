"""Evaluating a head on 25,000 x 4096 features of ten classes, and the report of it without thumbnails: under 20 s."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from scripts.bench.wide import WIDTH, write_cache

ROWS, TRAIN, CLASSES = 30_000, 5_000, 10
_REPORT = """
import json, resource, sys, time
from featurecache import FeatureCache
from heads import evaluate, select_rows, train
from heads.reporting import evaluation_report
cache = FeatureCache.open(sys.argv[1])
head = train(cache, "softmax", params={"epochs": 3})
seconds, last = {}, time.perf_counter()
def note(what):
    global last
    now = time.perf_counter()
    seconds[what], last = now - last, now
rows = select_rows(cache, head, "valid")
evaluation = evaluate(head, rows)
note("evaluate")
evaluation.intervals
note("intervals")
report = evaluation_report(evaluation, head=head, features=rows)
note("figures_and_galleries")
page = report.to_html()
note("html")
print(json.dumps({
    "rows": len(evaluation), "accuracy": evaluation.accuracy.value, "seconds": seconds, "bytes": len(page.encode()),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
"""


def run() -> dict[str, Any]:
    """Return seconds of each stage, the size of the page, and the peak memory in MB, including the mapped cache."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "wide.h5"
        centres = np.random.default_rng(0).normal(scale=1 / 16, size=(CLASSES, WIDTH)).astype(np.float32)
        labels = [n % CLASSES for n in range(ROWS)]
        write_cache(cache, centres, labels, ["train"] * TRAIN + ["valid"] * (ROWS - TRAIN))
        command = [sys.executable, "-c", _REPORT, str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    found = json.loads(done.stdout)
    return {
        "rows": found["rows"],
        "width": WIDTH,
        "accuracy": round(found["accuracy"], 4),
        **{f"{what}_s": round(seconds, 2) for what, seconds in found["seconds"].items()},
        "evaluate_and_report_s": round(sum(found["seconds"].values()), 1),
        "bar_evaluate_and_report_s": 20,
        "page_MB": round(found["bytes"] / 1e6, 2),
        "peak_MB": round(found["peak"] / 2**10),
    }
