"""Finds the fastest batch size of an engine on this machine by measuring, within the free memory."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

import numpy as np

from featurecache.backbones.protocol import Backbone
from featurecache.memory import free_memory, resident_memory
from featurecache.prefetch import ahead

SIZES = (16, 32, 64, 128, 256)
_GAIN = 1.03  # a larger size must be faster by this factor
_TRIED, _ROUNDS = 64, 2  # smallest number of images of a measurement, and measurements of a size
_SHARE = 0.1  # sizes above this share of all images are not measured: that would cost more than it gains


class Resizable(Backbone, Protocol):
    """A backbone whose batch size can be changed."""

    def resize(self, batch_size: int) -> None:
        """Set the batch size."""
        ...


def find_batch_size(backbone: Resizable, images: int, notify: Callable[[str], None] = lambda _: None) -> None:
    """Set a backbone to the smallest batch size of `SIZES` that is nearly as fast as the fastest.

    Sizes are measured in ascending order, with as many passes at once as in a run. Measuring stops when two sizes in a
    row are not faster, when the device runs out of memory, or when the next size would not fit into the main memory.

    Parameters
    ----------
    backbone
        The backbone. If it halves its batches for want of device memory, its ``batch_size`` must show that.
    images
        Number of images of the run. Sizes above a tenth of it are not measured; for few images nothing changes.
    notify
        Called with one-line status messages for the user.
    """
    sizes = [size for size in SIZES if size <= _SHARE * images]
    if not sizes:
        return
    notify("looking for the fastest batch size")
    own, rates = backbone.batch_size, dict[int, float]()
    needed = 0
    for size in sizes:
        if free_memory() < needed:
            break
        before = resident_memory()
        backbone.resize(size)
        _seconds(backbone, size * backbone.passes_at_once)  # compiles and allocates memory
        if backbone.batch_size < size:
            break
        count = max(size * backbone.passes_at_once, _TRIED)
        rates[size] = count / min(_seconds(backbone, count) for _ in range(_ROUNDS))
        needed = max(2 * needed, 2 * (resident_memory() - before))  # twice the images, twice the memory
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
    """Return the seconds that passes over ``count`` blank images take, with as many at once as in a run."""
    images = np.zeros((backbone.batch_size, *backbone.spec.input_size, 3), np.uint8)
    batches = (images[: count - start] for start in range(0, count, len(images)))
    at_once = backbone.passes_at_once
    began = time.perf_counter()
    with closing(ahead(backbone.forward, batches, workers=at_once, window=at_once + 1)) as done:
        deque(done, maxlen=0)
    return time.perf_counter() - began
