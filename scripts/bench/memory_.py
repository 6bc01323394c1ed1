"""Peak memory of an extraction: 10,000 images take less than 50 MB more than 1,000."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from scripts.bench.images import write_images

COUNTS = (1_000, 10_000)
_EXTRACT = """
import resource, sys
from featurecache.extraction import extract
from scripts.bench.images import WideBackbone
extract(sys.argv[1], sys.argv[2], backbone=WideBackbone())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run() -> dict[str, Any]:
    """Return the peak resident memory of a fresh process for each count, in MB."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in COUNTS:
            images = Path(folder) / str(count)
            write_images(images, count)
            command = [sys.executable, "-c", _EXTRACT, str(images), str(Path(folder) / f"{count}.h5")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            peaks[count] = int(done.stdout) / 1024
    return {f"peak_MB_{count}": round(peak, 1) for count, peak in peaks.items()} | {
        "growth_MB": round(peaks[COUNTS[1]] - peaks[COUNTS[0]], 1),
        "bar_MB": 50,
    }
