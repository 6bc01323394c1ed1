"""Time per image in folders of 250 and of 4,000 images: reading, decoding, storing and packing, without a network."""

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featurecache.extraction import extract
from scripts.bench.images import WideBackbone, write_photographs

COUNTS = (250, 500, 1_000, 2_000, 4_000)
ROUNDS = 3


def run(counts: Sequence[int] = COUNTS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the median milliseconds per image over rounds, for each count.

    A turn takes as many extractions as make up the largest count, each to a cache of its own, so that all turns are
    equally long and a load that comes and goes weighs on all of them. The backbone costs almost nothing. The time is
    that of the whole call, what it costs to begin and to end included.
    """
    costs: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for count in counts:
            write_photographs(folder / str(count), count)
        extract(folder / str(counts[0]), folder / "first.h5", backbone=WideBackbone())  # imports
        for _, count in itertools.product(range(rounds), counts):
            costs[count].append(_cost(folder / str(count), count, max(counts) // count, folder / "caches"))
    medians = {count: statistics.median(each) for count, each in costs.items()}
    rows = [
        {"images": count, "ms_an_image": round(medians[count], 3), "lowest": min(each), "highest": max(each)}
        for count, each in costs.items()
    ]
    last_over_first = [each[-1] / each[0] for each in zip(*costs.values(), strict=True)]
    return {
        "rounds": rounds,
        "counts": rows,
        f"{counts[-1]}_over_{counts[0]}": round(statistics.median(last_over_first), 3),
        f"bar_{counts[-1]}_over_{counts[0]}": 1.05,
    }


def _cost(images: Path, count: int, times: int, caches: Path) -> float:
    """Extract several times to new caches; return the milliseconds per image."""
    caches.mkdir()
    began = time.perf_counter()
    for number in range(times):
        extract(images, caches / f"{number}.h5", backbone=WideBackbone())
    cost = (time.perf_counter() - began) * 1e3 / (count * times)
    shutil.rmtree(caches)
    return round(cost, 3)
