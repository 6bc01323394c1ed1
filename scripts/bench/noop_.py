"""``featurecache extract`` again with nothing changed: 4,000 images in under a second, without TensorFlow."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.bench.images import write_images

IMAGES = 4_000
ROUNDS = 7
_WEIGHTS = "import sys, keras; keras.applications.MobileNetV2(weights=None).save_weights(sys.argv[1])"


def run() -> dict[str, Any]:
    """Return the median and the worst wall time of the whole command, in seconds.

    The timed command is ``featurecache extract IMAGES CACHE``: it takes its options from the cache. The cache was made
    with MobileNetV2 and weights from a file, so the command also has to identify that file.
    """
    with tempfile.TemporaryDirectory() as folder:
        images, path, weights = Path(folder) / "images", Path(folder) / "c.h5", Path(folder) / "random.weights.h5"
        write_images(images, IMAGES)
        _python("-c", _WEIGHTS, str(weights))
        command = ["-m", "featurecache.cli.app", "extract", str(images), str(path)]
        _python(*command, "--backbone", "mobilenet_v2", "--weights", str(weights))
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            _python(*command)
            times.append(time.perf_counter() - began)
        summary = json.loads(_python(*command, "--json"))
        if summary["forwarded"] or summary["rows"] != IMAGES:
            raise RuntimeError(f"the command found something to do: {summary}")
    return {
        "images": IMAGES,
        "median_s": round(statistics.median(times), 3),
        "worst_s": round(max(times), 3),
        "bar_s": 1.0,
    }


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout
