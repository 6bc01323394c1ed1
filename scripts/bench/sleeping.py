"""A network that sleeps and computes little, and the process of a run with it, which others start and kill.

``python -m scripts.bench.sleeping IMAGES CACHE`` is one extraction; it prints a line of JSON when something
has changed.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurecache import FeatureCacheError, Progress, extract
from featurecache.backbones.fake import FakeBackbone


class SleepingBackbone(FakeBackbone):
    """The fake backbone, as slow as is asked for; it writes down its passes.

    Parameters
    ----------
    seconds
        For an image.
    log
        A file that gets a line for each pass: begin, end, number of images, number of the process.
    slowness
        A factor for the first process that starts to work with this log.
    """

    def __init__(self, seconds: float, log: Path, *, slowness: float = 1.0) -> None:
        super().__init__()
        self.batch_size = 8
        self._seconds, self._log, self._slowness = seconds, log, slowness
        self._factor: float | None = None

    def forward(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return features after the time that they take."""
        if self._factor is None:
            self._factor = self._slowness if _is_first(self._log.with_suffix(".slow")) else 1.0
        began = time.time()
        features = super().forward(images)
        time.sleep(len(images) * self._seconds * self._factor)
        with self._log.open("a", encoding="ascii") as log:
            log.write(f"{began} {time.time()} {len(images)} {os.getpid()}\n")
        return features


def _is_first(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Pass(NamedTuple):
    """A forward pass: begin and end in seconds, number of images, number of the process."""

    began: float
    ended: float
    images: int
    process: int


def passes(log: Path) -> list[Pass]:
    """Return every pass that was written down."""
    if not log.exists():
        return []
    lines = (line.split() for line in log.read_text("ascii").splitlines())
    return [Pass(float(began), float(ended), int(images), int(process)) for began, ended, images, process in lines]


def main() -> int:
    """Run one extraction; exit with 1 and an error in JSON if it cannot be finished."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--slowness", type=float, default=1.0)
    parser.add_argument("--cluster")
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    said: Mapping[str, Any] = {}

    def say(**what: object) -> None:
        os.write(1, json.dumps(what).encode("utf-8") + b"\n")

    def report(progress: Progress) -> None:
        nonlocal said
        pids = [worker.process for worker in progress.workers if worker.process and not worker.end]
        state = {"forwarded": progress.forwarded, "workers": pids}
        if state != said:
            said = state
            say(**state)

    backbone = SleepingBackbone(options.seconds, options.cache.with_suffix(".log"), slowness=options.slowness)
    try:
        extract(
            options.images,
            options.cache,
            backbone=backbone,
            cluster=options.cluster,
            workers=options.workers,
            progress=report,
            notify=lambda text: say(notice=text),
        )
    except FeatureCacheError as e:
        say(error=str(e))
        return 1
    say(done=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
