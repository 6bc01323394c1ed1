"""Kills at random: workers, the driver and the head of a cluster, while a run is at work; checks what is left."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from featurecache import FeatureCache, extract
from featurecache.run.store import Store
from scripts.bench.images import write_images
from scripts.bench.sleeping import SleepingBackbone, passes

IMAGES, SECONDS, WORKERS = 600, 0.02, 2
_ROOT = Path(__file__).parents[2]
_VICTIMS = (*["worker"] * 8, "driver", "head")  # of every ten; a new cluster takes six times as long as a new worker
_PATIENCE = 120.0  # seconds until a run must have said or done something


class Driver:
    """The process of a run with a cluster of its own, and what it has said."""

    def __init__(self, images: Path, cache: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        arguments = ("--seconds", str(SECONDS), "--cluster", "local", "--workers", str(WORKERS))
        self.process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "scripts.bench.sleeping", images, cache, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.forwarded = 0
        self.workers: list[int] = []
        self.error = ""
        self.is_done = False
        self._heard = threading.Condition()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def wait_for_rows(self, rows: int) -> bool:
        """Wait until so many images were reported as published, or the run has ended; return whether it is at work."""
        with self._heard:
            self._heard.wait_for(lambda: self.forwarded >= rows or self.process.poll() is not None, _PATIENCE)
        return self.process.poll() is None and self.forwarded >= rows

    def end(self) -> None:
        """Wait for the end of the run."""
        self.process.wait(_PATIENCE)
        self._listener.join()
        if self.process.stdout:
            self.process.stdout.close()

    def cluster(self, *names: str) -> list[int]:
        """Return the process numbers of the cluster's own programs; of those with these names, if there are any."""
        return [pid for pid in _children(self.process.pid) if not names or _name(pid) in names]

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            said = json.loads(line)
            with self._heard:
                self.forwarded = said.get("forwarded", self.forwarded)
                self.workers = said.get("workers", self.workers)
                self.error = said.get("error", self.error)
                self.is_done |= "done" in said
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


def run_with_kills(folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill until enough was killed and the last run has ended; check the caches.

    Returns
    -------
    dict
        Numbers of ``kills`` by victim, of finished ``caches``, of contents ``computed`` and of ``needed`` ones, of rows
        ``lost`` that had been reported (0), of caches that are ``wrong`` (0), and of processes ``left`` running (0).
    """
    draw = random.Random(seed)  # noqa: S311 - nothing is secret
    images = folder / "images"
    write_images(images, IMAGES)
    plain = extract(images, folder / "plain.h5", backbone=SleepingBackbone(0.0, folder / "plain.log"))
    killed: Counter[str] = Counter()
    victims: list[str] = []
    lost = wrong = left = caches = computed = 0
    while killed.total() < kills or not caches:
        cache = folder / f"{caches}.h5"
        while True:
            known, before = _rows(cache, plain), killed.total()
            driver = Driver(images, cache)
            while killed.total() < kills and driver.wait_for_rows(driver.forwarded + 1):
                time.sleep(draw.random())
                victims = victims or draw.sample(_VICTIMS, len(_VICTIMS))
                victim = victims[-1]
                pids = {
                    "worker": driver.workers,
                    "driver": [driver.process.pid],
                    "head": driver.cluster("gcs_server", "raylet"),
                }[victim]
                if driver.process.poll() is not None:
                    break
                if not pids:  # those that follow are not there yet
                    continue
                killed[victims.pop()] += 1
                with suppress(ProcessLookupError):
                    os.kill(draw.choice(pids), signal.SIGKILL)
                if victim != "worker":
                    break
            everything = {*driver.workers, *driver.cluster()}
            driver.end()
            if driver.error and killed.total() == before:
                raise RuntimeError(driver.error)
            left += still_running(everything)
            lost += max(0, known + driver.forwarded - _rows(cache, plain))
            if driver.is_done:
                break
        computed += sum(done.images for done in passes(cache.with_suffix(".log")))
        wrong += _digest(cache) != _digest(plain.path)
        caches += 1
    return {
        "kills": dict(killed),
        "caches": caches,
        "computed": computed,
        "needed": caches * len(plain),
        "lost": lost,
        "wrong": wrong,
        "left": left,
    }


def _rows(cache: Path, plain: FeatureCache) -> int:
    """Return how many contents are known at a path."""
    return len(Store.beside(cache, plain.recipe).known.places)


def _digest(path: Path) -> str:
    """Return the SHA-256 of features, images and failures of a cache."""
    cache = FeatureCache.open(path)
    digest = hashlib.sha256()
    for tap in cache.taps:
        features = cache.features(tap)
        digest.update(np.asarray(features.X[:]).tobytes())
        digest.update("\0".join(features.paths).encode())
    digest.update(json.dumps(dict(cache.failures), sort_keys=True).encode())
    return digest.hexdigest()


def _children(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = status.read_text("ascii", "replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text("utf-8", "replace").strip()
    return ""


def still_running(pids: set[int]) -> int:
    """Return how many of these processes run after a grace of some seconds."""
    deadline = time.monotonic() + 30.0
    while True:
        running = [pid for pid in pids if _runs(pid)]
        if not running or time.monotonic() > deadline:
            return len(running)
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] != "Z"
    return False
