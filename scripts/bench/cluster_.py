"""Runs with workers: beside a plain run, eight beside one, with a slow one, with many rows, and under random kills."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from featurecache import extract, from_source
from featurecache.backbones.fake import FakeBackbone
from featurecache.images.failures import Ignored
from featurecache.images.files import FileContent, Stat, content_of
from featurecache.images.image_source import ImageSource
from scripts.bench.images import write_images
from scripts.bench.kills import run_with_kills
from scripts.bench.sleeping import passes

_ROOT = Path(__file__).parents[2]
IMAGES, SECONDS, ROUNDS = 1_600, 0.02, 3
LONG_SECONDS = 0.2  # of an image, with many workers: starting eight on two cores takes as long as 1,600 short passes
WORKERS, SLOWNESS = 8, 10.0
ROWS = (100_000, 1_000_000)


class NumberedImages(ImageSource):
    """Small images that are made when they are read, all different."""

    def __init__(self, count: int) -> None:
        self._count = count

    @property
    def name(self) -> str:
        """The name of the source."""
        return f"{self._count} numbered images"

    def stat(self, path: str) -> Stat:
        """Return a size and a time that never change."""
        return Stat(len(_image(0)), 1)

    def read(self, path: str, *, max_bytes: int) -> FileContent:
        """Return an image whose pixels are its number."""
        found = content_of(_image(int(path[:-4])), max_bytes=max_bytes)
        assert isinstance(found, FileContent)  # noqa: S101 - it is not too large
        return found

    def list_images(self) -> tuple[list[str], list[Ignored]]:
        """Return the names of all images."""
        return [f"{number:010d}.ppm" for number in range(self._count)], []


def _image(number: int) -> bytes:
    return b"P6 8 8 255\n" + number.to_bytes(8, "big") * 24


def run(kills: int = 0, rows: int = 0) -> dict[str, Any]:
    """Return what was measured; with ``kills`` or ``rows`` these alone.

    Parameters
    ----------
    kills
        Processes to kill at random, instead of the measurements.
    rows
        Rows of the run whose driver's memory is measured, instead of the measurements.
    """
    with tempfile.TemporaryDirectory() as folder:
        if kills:
            return run_with_kills(Path(folder), kills)
        if rows:
            return {"memory": [_memory(rows)]}
        images = Path(folder) / "images"
        write_images(images, IMAGES)
        pairs = [
            (_seconds(images, Path(folder) / f"a{i}.h5"), _seconds(images, Path(folder) / f"b{i}.h5", workers=1))
            for i in range(ROUNDS)
        ]
        plain, one = (sorted(times)[ROUNDS // 2] for times in zip(*pairs, strict=True))
        eight = _rate(images, Path(folder) / "eight.h5", workers=WORKERS)
        slow = _rate(images, Path(folder) / "slow.h5", workers=WORKERS, slowness=SLOWNESS)
    return {
        "images": IMAGES,
        "plain_s": round(plain, 2),
        "one_worker_s": round(one, 2),
        "slower_percent": round((one / plain - 1) * 100, 2),
        "slower_bar_percent": 3,
        "eight_workers_times_one": round(eight * LONG_SECONDS, 2),
        "eight_workers_bar": 7.6,
        "seven_workers_and_a_slow_one_times_one": round(slow * LONG_SECONDS, 2),
        "seven_workers_and_a_slow_one_at_most": round(WORKERS - 1 + 1 / SLOWNESS, 2),
        "memory": [_memory(count) for count in ROWS],
    }


def _seconds(images: Path, cache: Path, *, workers: int | None = None) -> float:
    """Return the seconds of a run, from its first forward pass until the cache is there."""
    options = [] if workers is None else ["--cluster", "local", "--workers", str(workers)]
    _python("scripts.bench.sleeping", images, cache, "--seconds", SECONDS, *options)
    return cache.stat().st_mtime - min(each.began for each in passes(cache.with_suffix(".log")))


def _rate(images: Path, cache: Path, *, workers: int, slowness: float = 1.0) -> float:
    """Return the images per second of a run, from the time when all workers are at work until the cache is there."""
    options = ["--cluster", "local", "--workers", str(workers), "--slowness", str(slowness)]
    _python("scripts.bench.sleeping", images, cache, "--seconds", LONG_SECONDS, *options)
    done = passes(cache.with_suffix(".log"))
    first = {each.process: each.began for each in reversed(done)}
    since = max(first.values())
    return sum(each.images for each in done if each.began >= since) / (cache.stat().st_mtime - since)


def _memory(rows: int) -> dict[str, Any]:
    """Return the driver's peak memory in a run over so many rows."""
    found: dict[str, Any] = json.loads(_python("scripts.bench.cluster_", rows).splitlines()[-1])
    return found


def _python(module: str, *arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True).stdout  # noqa: S603


def main(rows: int) -> None:
    """Extract numbered images with two workers, and print what the driver needed."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = NumberedImages(rows)
        manifest = from_source(source, ((path, None, "train") for path in source.list_images()[0]))
        backbone = FakeBackbone({"features": 4}, input_size=(8, 8))
        cache = extract(manifest, Path(folder) / "c.h5", backbone=backbone, batch_size=256, cluster="local", workers=2)
        made = len(cache)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {
        "rows": made,
        "driver_peak_mb": round(peak / 1e6),
        "peak_over_rows": round(peak / made),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(int(sys.argv[1]))
