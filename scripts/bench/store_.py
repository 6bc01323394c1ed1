"""The cost of publishing: less than 2 % of a run at 1,000 images per second."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from featurecache.extraction import extract
from featurecache.run.store import Store
from scripts.bench.images import WideBackbone, write_images

IMAGES = 6_000
RATE = 1_000
ROUNDS = 5


class PacedBackbone(WideBackbone):
    """A network that waits like a GPU, and uses no processor time."""

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return features after the time that a network of `RATE` images per second needs."""
        ready = time.perf_counter() + len(images) / RATE
        features = super().forward(images)
        time.sleep(max(0.0, ready - time.perf_counter()))
        return features


def run() -> dict[str, Any]:
    """Return the time from the first image to the last commit, with commits and with commits that write nothing.

    Rounds alternate; packing, which comes after, is not part of it.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_images(images, IMAGES)
        for number in range(2 * ROUNDS):
            publishes = number % 2 == 0
            with _commits(publishes=publishes) as stop:
                began = time.perf_counter()
                try:
                    extract(images, Path(folder) / f"{number}.h5", backbone=PacedBackbone())
                except stop:
                    times[publishes].append(time.perf_counter() - began)
    on, off = statistics.median(times[True]), statistics.median(times[False])
    return {
        "images": IMAGES,
        "images_per_second": round(IMAGES / on, 1),
        "with_publishing_s": round(on, 3),
        "without_s": round(off, 3),
        "cost_percent": round((on / off - 1) * 100, 2),
        "bar_percent": 2,
    }


@contextmanager
def _commits(*, publishes: bool) -> Iterator[type[Exception]]:
    """End runs before they pack; without publishing, they commit nothing."""

    class Stopped(Exception):  # noqa: N818 - not an error
        """The last commit is done."""

    def stop(_: Store) -> None:
        raise Stopped

    with patch.object(Store, "refresh", stop), ExitStack() as stack:
        if not publishes:
            stack.enter_context(patch.object(Store, "commit", lambda *_: None))
        yield Stopped
