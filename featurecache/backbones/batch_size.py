"""The batch size at which an engine is fastest here, by trying, within the memory that is free."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone

SIZES = (16, 32, 64, 128, 256)
_GAIN = 1.03  # by which a size must be faster than a smaller one to count
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_KIB = 1024


class Resizable(Backbone, Protocol):
    """A backbone whose batches can be made larger or smaller."""

    def resize(self, batch_size: int) -> None:
        """Take batches of another size from now on."""
        ...


def find_batch_size(backbone: Resizable, notify: Callable[[str], None] = lambda _: None) -> None:
    """Leave a backbone at the smallest batch size of `SIZES` at which it forwards nearly as many images as it can.

    Sizes are tried in ascending order, once to warm up and once for the measure, until one brings nothing more, the
    device's memory does not suffice, or this machine's would not suffice for the next.

    Parameters
    ----------
    backbone
        The backbone; one that makes its batches smaller when the device's memory does not suffice says so by its
        ``batch_size``.
    notify
        Is told in one line what was found.
    """
    rates: dict[int, float] = {}
    before = _peak_memory()
    for size in SIZES:
        # twice the images need at most once more what these needed
        if rates and _free_memory() < _peak_memory() - before:
            break
        backbone.resize(size)
        images = np.zeros((size, *backbone.spec.input_size, 3), np.uint8)
        backbone.forward(images)
        if backbone.batch_size < size:
            break
        best = max(rates.values(), default=0.0)
        rates[size] = _rate(backbone, images)
        if rates[size] < _GAIN * best:
            break
    fastest = max(rates.values(), default=0.0)
    chosen = min((size for size, rate in rates.items() if rate * _GAIN > fastest), default=backbone.batch_size)
    if backbone.batch_size != chosen:
        backbone.resize(chosen)
    tried = ", ".join(f"{rate:.1f} with {size}" for size, rate in rates.items())
    notify(f"batches of {chosen} images" + (f"; images/s were {tried}" if tried else ""))


def _rate(backbone: Backbone, images: NDArray[np.uint8]) -> float:
    began = time.perf_counter()
    backbone.forward(images)
    return len(images) / (time.perf_counter() - began)


def _peak_memory() -> int:
    """Return the bytes that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _free_memory() -> int:
    """Return the bytes that this process may still take: what the machine has, or its container allows."""
    lines = _MEMINFO.read_text("ascii").splitlines()
    free = next(int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:"))
    try:
        limit, used = ((_CGROUP / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:  # no container, or one of another kind
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))
