"""Passes through a network: in threads, in order, and how long it worked and waited."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from featurecache.ahead import ahead
from featurecache.backbones.protocol import Backbone

Pixels = Mapping[str, NDArray[np.uint8]]  # what images are known by, to their pixels
Features = Mapping[str, NDArray[np.float32]]  # taps to activations


class Passes:
    """A network that was started just now.

    Parameters
    ----------
    backbone
        The network.
    clock
        Tells seconds.
    """

    def __init__(self, backbone: Backbone, clock: Callable[[], float] = time.monotonic) -> None:
        self.backbone = backbone
        self._clock = clock
        self._lock = Lock()
        self._running = 0
        self._since = clock()  # when the first of what is running began, or the last ended
        self._seconds = {True: 0.0, False: 0.0}  # at work, and not
        self._begun: deque[Future[tuple[list[str], Features]]] = deque()

    def over(self, batches: Iterable[Pixels]) -> Generator[tuple[list[str], Features], None, None]:
        """Yield what the images of each batch are known by, and their activations, in the order of the batches.

        While one is computed, the next is made ready; so many are under way as the network allows.
        """
        at_once = self.backbone.passes_at_once
        return ahead(self._forward, batches, workers=at_once, window=at_once + 1, begun=self._begun)

    def ended(self) -> Iterator[tuple[list[str], Features]]:
        """Yield what has ended since `over` was interrupted, in order, up to the first that failed.

        It begins with the last that was yielded, since what was done with it may have been interrupted as well.
        """
        while self._begun and not self._begun[0].cancelled() and self._begun[0].exception() is None:
            yield self._begun.popleft().result()

    def _forward(self, batch: Pixels) -> tuple[list[str], Features]:
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
            now = self._clock()
            self._seconds[self._running > 0] += now - self._since
            self._since = now
            self._running += more

    def _total(self, *, working: bool) -> float:
        self._count(0)
        return self._seconds[working]
