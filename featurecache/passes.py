"""Passes through a network: how many at once, and how long it worked and waited."""

import time
from collections.abc import Mapping
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone

Pixels = Mapping[str, NDArray[np.uint8]]  # what images are known by, to their pixels
Features = Mapping[str, NDArray[np.float32]]  # taps to activations


class Passes:
    """A network that was started just now.

    Parameters
    ----------
    backbone
        The network.

    Attributes
    ----------
    at_once : int
        Passes that should be under way at once: on a GPU two, so that images of one are copied to it, and activations
        back, while it computes the other; else one, which takes all processors.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.at_once = 2 if backbone.provenance.get("device") == "gpu" else 1
        self._lock = Lock()
        self._running = 0
        self._since = time.monotonic()  # when the first of what is running began, or the last ended
        self._seconds = {True: 0.0, False: 0.0}  # at work, and not

    def forward(self, batch: Pixels) -> tuple[list[str], Features]:
        """Return what the images of a batch are known by, and their activations, in the same order."""
        self._count(1)
        try:
            return list(batch), self.backbone.forward(np.stack(list(batch.values())))
        finally:
            self._count(-1)

    @property
    def waiting(self) -> float:
        """Seconds that it had nothing to do."""
        return self._total(working=False)

    @property
    def computing(self) -> float:
        """Seconds that it had something to do."""
        return self._total(working=True)

    def _count(self, more: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._seconds[self._running > 0] += now - self._since
            self._since = now
            self._running += more

    def _total(self, *, working: bool) -> float:
        self._count(0)
        return self._seconds[working]
