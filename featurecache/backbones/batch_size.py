"""The batch size at which an engine is fastest here, by trying, within the memory that is free."""

import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

import numpy as np

from featurecache.ahead import ahead
from featurecache.backbones.protocol import Backbone

SIZES = (16, 32, 64, 128, 256)
_GAIN = 1.03  # by which a size must be faster than smaller ones to count
_TRIED, _ROUNDS = 64, 2  # images at least of a measure, and how often it is made
_SHARE = 0.1  # a size larger than this part of all images is not tried: it would cost more than it brings
_ROOT = Path("/")
_KIB = 1024
# where a container's limit stands, what is used of it, and what of that would be given back (cgroups 2 and 1)
_CONTAINERS = (
    ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat", "inactive_file"),
    (
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
        "sys/fs/cgroup/memory/memory.usage_in_bytes",
        "sys/fs/cgroup/memory/memory.stat",
        "total_inactive_file",
    ),
)


class Resizable(Backbone, Protocol):
    """A backbone whose batches can be made larger or smaller."""

    def resize(self, batch_size: int) -> None:
        """Take batches of another size from now on."""
        ...


def find_batch_size(backbone: Resizable, images: int, notify: Callable[[str], None] = lambda _: None) -> None:
    """Leave a backbone at the smallest batch size of `SIZES` at which it is nearly as fast as it can be.

    Sizes are tried in ascending order, with as many passes at once as the backbone allows, until two in a row bring
    nothing more, the device's memory does not suffice, or this machine's would not suffice for the next.

    Parameters
    ----------
    backbone
        The backbone. One that makes its batches smaller when the device's memory does not suffice shows that by its
        ``batch_size``.
    images
        How many it is going to see. Of a tenth of them at most a batch is made, and for few images the backbone stays
        as it is.
    notify
        Is told in one line each that sizes are tried, and what was found.
    """
    sizes = [size for size in SIZES if size <= _SHARE * images]
    if not sizes:
        return
    notify("looking for the fastest batch size")
    own, rates = backbone.batch_size, dict[int, float]()
    needed = 0
    for size in sizes:
        if _free_memory() < needed:
            break
        before = _resident_memory()
        backbone.resize(size)
        _seconds(backbone, size * backbone.passes_at_once)  # compiles, and takes what memory it needs
        if backbone.batch_size < size:
            break
        count = max(size * backbone.passes_at_once, _TRIED)
        rates[size] = count / min(_seconds(backbone, count) for _ in range(_ROUNDS))
        needed = max(2 * needed, 2 * (_resident_memory() - before))  # twice the images, twice the memory
        if max(list(rates.values())[-2:]) < _GAIN * max(list(rates.values())[:-2], default=0.0):
            break
    fastest = max(rates.values(), default=0.0)
    chosen = min(
        (size for size, rate in rates.items() if rate * _GAIN > fastest), default=min(own, backbone.batch_size)
    )
    if backbone.batch_size != chosen:
        backbone.resize(chosen)
    tried = ", ".join(f"{rate:.1f} with {size}" for size, rate in rates.items())
    notify(f"batches of {chosen} images" + (f"; images/s were {tried}" if tried else ""))


def _seconds(backbone: Backbone, count: int) -> float:
    """Return how long passes over so many blank images take, as many passes at once as in a run."""
    images = np.zeros((backbone.batch_size, *backbone.spec.input_size, 3), np.uint8)
    batches = (images[: count - start] for start in range(0, count, len(images)))
    at_once = backbone.passes_at_once
    began = time.perf_counter()
    with closing(ahead(backbone.forward, batches, workers=at_once, window=at_once + 1)) as done:
        deque(done, maxlen=0)
    return time.perf_counter() - began


def _resident_memory() -> int:
    """Return the bytes that this process has in memory."""
    return int((_ROOT / "proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _free_memory() -> int:
    """Return the bytes that this process may still take: what the machine has, or its container allows."""
    lines = (_ROOT / "proc/meminfo").read_text("ascii").splitlines()
    free = next(int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:"))
    for limit_file, used_file, parts_file, given_back in _CONTAINERS:
        try:
            limit, used, parts = ((_ROOT / name).read_text("ascii") for name in (limit_file, used_file, parts_file))
        except OSError:  # no container, or one of the other kind
            continue
        cached = next((int(line.split()[1]) for line in parts.splitlines() if line.split()[:1] == [given_back]), 0)
        if limit.strip() != "max":
            free = min(free, int(limit) - int(used) + cached)
    return free
