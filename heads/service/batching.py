"""Collects images of many callers into batches for one network, behind a bounded queue."""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from featurecache.backbones.protocol import SmallBatches
from featurecache.errors import RecipeError
from featurecache.images.failures import Failure
from featurecache.storage.platform import lower_priority
from heads.errors import HeadError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from featurecache.backbones.protocol import Backbone
    from heads.service.content_cache import Rows
    from heads.service.waiting_room import WaitingRoom


_NICE = 5  # added for the network's threads: a pass never keeps requests waiting that need no pass
_FILLED = 0.75  # of a pass; with fewer images, a smaller pass comes first


class OverloadedError(HeadError):
    """The queue is full.

    Parameters
    ----------
    message
        What is full.
    retry_after
        Seconds until there is room, estimated from the measured rate; at least 1.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotServingError(HeadError):
    """The network has not started, has failed, or is closed."""


class UnusableFeaturesError(HeadError):
    """The network gives values for an image that the features' data type cannot hold."""


class Watcher(Protocol):
    """Is told what happens; called from several threads, and must return at once."""

    def passed(self, images: int, seconds: float) -> None:
        """A pass over some images has ended."""

    def failed_to_decode(self, failure: Failure) -> None:
        """An image could not be decoded."""

    def abandoned(self) -> None:
        """All callers of an image left before its pass began."""


@dataclass(eq=False, slots=True)
class Work:
    """One content on its way to its features, for one caller or several.

    Parameters
    ----------
    sha256
        The digest of the content.
    data
        The content; None as soon as it is decoded or abandoned.
    future
        Receives the features or the failure of decoding.
    callers
        How many wait for it.
    """

    sha256: str
    data: bytes | None
    future: Future[Rows | Failure] = field(default_factory=Future)
    callers: int = 0
    pixels: NDArray[np.uint8] | None = None
    ready_at: float = 0.0
    is_queued: bool = True  # until its pass begins, it fails, or it is abandoned


class Batcher:
    """One started network behind a bounded queue.

    Callers submit contents and receive futures. A content that several callers ask for at the same time is computed
    once. A content is dropped as soon as its last caller leaves. A lone image waits for company only while other
    images are being decoded, at most ``max_delay``.

    Parameters
    ----------
    start
        Starts the network; called once, in a thread of this object.
    decode
        Returns the pixels of a content, or a failure.
    known
        Returns the features of a content that was computed before, or None.
    keep
        Called with the features of every content that passed through the network, before its callers receive them.
    as_stored
        Turns the activations of a tap into the features that a cache would store.
    batch_size
        Images per pass.
    room
        Bound of the queue: images whose pass has not begun.
    max_delay
        Seconds.
    workers
        Threads that decode.
    watcher
        Is told what happens.
    """

    def __init__(
        self,
        start: Callable[[], Backbone],
        *,
        decode: Callable[[bytes], NDArray[np.uint8] | Failure],
        known: Callable[[str], Rows | None],
        keep: Callable[[str, Rows], None],
        as_stored: Callable[[Mapping[str, NDArray[np.float32]], str], NDArray[Any]],
        batch_size: int,
        room: WaitingRoom,
        max_delay: float,
        workers: int,
        watcher: Watcher,
    ) -> None:
        self._start, self._decode, self._known, self._keep = start, decode, known, keep
        self._as_stored, self._watcher = as_stored, watcher
        self.batch_size, self.room, self._max_delay = batch_size, room, max_delay
        self._changed = Condition()
        self._pending: dict[str, Work] = {}  # not finished, by content
        self._ready: deque[Work] = deque()  # decoded
        self._queued = 0  # not in a pass yet, decoded or not
        self._seconds_per_image = 0.0
        self._pass_began: dict[int, float] = {}
        self._closing = False
        self._failure: BaseException | None = None
        self._has_started = False
        self._sizes: tuple[int, ...] = ()  # of batches that the network computes without padding
        self._decoders = ThreadPoolExecutor(workers, "decode")
        self._threads = [Thread(target=self._run_first, name="network", daemon=True)]

    def start(self) -> None:
        """Begin to start the network, in the background."""
        self._threads[0].start()

    @property
    def failure(self) -> BaseException | None:
        """Why the network did not start; None if it did, or still does."""
        return self._failure

    @property
    def queued(self) -> int:
        """Images whose pass has not begun."""
        return self._queued

    def refuses_more(self) -> bool:
        """Return whether no image can be accepted now; a request is then refused."""
        with self._changed:
            now = time.monotonic()
            if self._queued < self.room.size(self._seconds_per_image, now):
                return False
            self.room.refused(now)
            return True

    def fault(self, patience: float) -> str:
        """Return why no image can be answered now, empty if it can.

        Parameters
        ----------
        patience
            Seconds after which a pass stands still.
        """
        with self._changed:
            if self._closing:
                return "the service is ending"
            if self._failure is not None:
                return f"the network has failed: {self._failure}"
            if not self._has_started:
                return "the network is starting"
            oldest = min(self._pass_began.values(), default=math.inf)
        stands = time.monotonic() - oldest
        return f"a pass has been standing still for {stands:.0f} s" if stands > patience else ""

    def submit(self, contents: Mapping[str, bytes]) -> dict[str, Work | Rows]:
        """Queue the contents that are not known, all or none; return their work, or the features of those known.

        The caller must `leave` each work, whether it has waited for it or not.

        Parameters
        ----------
        contents
            Contents by their digests.

        Raises
        ------
        OverloadedError
            If there is no room in the queue.
        NotServingError
            If the network has failed or is closed.
        """
        with self._changed:
            if self._closing:
                raise NotServingError("the service is ending; ask another one, or again later")
            if self._failure is not None:
                raise NotServingError(f"the network has failed: {self._failure}")
            taken = {sha256: self._taken(sha256, data) for sha256, data in contents.items()}
            new = [work for work in taken.values() if isinstance(work, Work) and work.sha256 not in self._pending]
            now, pace = time.monotonic(), self._seconds_per_image
            if not self.room.admit(len(new), self._queued, pace, now):
                raise OverloadedError(
                    f"{self._queued} images are waiting, {self.room.size(pace, now)} may; ask again later",
                    max(1, math.ceil(self._queued * pace)),
                )
            for work in taken.values():
                if isinstance(work, Work):
                    work.callers += 1
            self._queued += len(new)
            self._pending.update((work.sha256, work) for work in new)
        for work in new:
            self._decoders.submit(self._prepare, work)
        return taken

    def _taken(self, sha256: str, data: bytes) -> Work | Rows:
        """Return what there is of a content, or new work without callers; the caller holds the lock."""
        work = self._pending.get(sha256)
        return work or self._known(sha256) or Work(sha256, data)

    def leave(self, work: Work) -> None:
        """Take back a submission; without callers, a pass that has not begun will not include it."""
        with self._changed:
            work.callers -= 1
            if work.callers or not work.is_queued:
                return
            self._unqueue(work)
            self._changed.notify_all()
        work.future.cancel()
        self._watcher.abandoned()

    def close(self, patience: float | None = None) -> None:
        """Compute what is queued, then end the threads.

        Parameters
        ----------
        patience
            Seconds to wait; then what is queued is refused, and a pass under way is left to end by itself.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        end = None if patience is None else time.monotonic() + patience
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        self._refuse_all(NotServingError("the service has ended"))
        self._decoders.shutdown()
        gc.unfreeze()

    def _unqueue(self, work: Work) -> None:
        """Drop a work that is queued; the caller holds the lock."""
        work.is_queued, work.data = False, None
        self._queued -= 1
        if self._pending.get(work.sha256) is work:
            del self._pending[work.sha256]
        if work.pixels is not None:
            work.pixels = None
            self._ready.remove(work)

    def _prepare(self, work: Work) -> None:
        """Decode a content, in a thread."""
        data = work.data
        if data is None:
            return
        try:
            pixels = self._decode(data)
        except Exception as e:  # noqa: BLE001 - whatever it is, the callers must hear of it
            pixels = Failure("damaged", f"cannot be decoded: {type(e).__name__}")
        with self._changed:
            if not work.is_queued:
                return
            if isinstance(pixels, Failure):
                self._unqueue(work)
            else:
                work.data, work.pixels, work.ready_at = None, pixels, time.monotonic()
                self._ready.append(work)
            self._changed.notify_all()
        if isinstance(pixels, Failure):
            self._watcher.failed_to_decode(pixels)
            _finish(work, pixels)

    def _run_first(self) -> None:
        """Start the network, and compute batches; further threads help if the network allows it."""
        try:
            lower_priority(_NICE)
            network = self._start()
            if isinstance(network, SmallBatches):
                network.prepare_small_batches()
                self._sizes = network.batch_sizes
            helpers = [
                Thread(target=self._run, args=(network,), name="network", daemon=True)
                for _ in range(1, network.passes_at_once)
            ]
        except BaseException as e:  # noqa: BLE001 - every waiting caller must hear of it
            with self._changed:
                self._failure = e
            self._refuse_all(NotServingError(f"the network has failed: {e}"))
            return
        gc.freeze()  # a collection of garbage that visits the network's objects would stop all requests for long
        with self._changed:
            self._has_started = True
            self._threads += helpers
        for thread in helpers:
            thread.start()
        self._run(network)

    def _refuse_all(self, error: NotServingError) -> None:
        """Refuse all work that is queued."""
        with self._changed:
            queued = [work for work in self._pending.values() if work.is_queued]
            for work in queued:
                self._unqueue(work)
        for work in queued:
            _refuse(work, error)

    def _run(self, network: Backbone) -> None:
        """Compute batches until the end."""
        while batch := self._next_batch():
            try:
                self._compute(network, batch)
            except Exception as e:  # noqa: BLE001 - the callers of this batch hear of it; the next batch may succeed
                for work in batch:
                    _refuse(work, NotServingError(f"the pass has failed: {e}"))

    def _next_batch(self) -> list[Work]:
        """Wait for decoded images and take a batch of them; return none when everything is done."""
        with self._changed:
            while len(self._ready) < self.batch_size:
                if self._closing and not self._queued:
                    return []
                if self._ready:
                    left = self._ready[0].ready_at + self._max_delay - time.monotonic()
                    if left <= 0 or self._queued == len(self._ready):
                        break
                    self._changed.wait(left)
                else:
                    self._changed.wait()
            batch = [self._ready.popleft() for _ in range(self._count())]
            for work in batch:
                work.is_queued = False
            self._queued -= len(batch)
            self._pass_began[id(batch)] = time.monotonic()
            self._changed.notify_all()
        return batch

    def _count(self) -> int:
        """Return how many of the images that are ready the next pass takes: few rows of a pass should be padding."""
        most = self.room.at_once(self.batch_size, self._seconds_per_image, time.monotonic())
        ready = min(most, len(self._ready))
        padded = min((size for size in self._sizes if size >= ready), default=ready)
        if ready >= _FILLED * padded:
            return ready
        return max((size for size in self._sizes if size <= ready), default=ready)

    def _compute(self, network: Backbone, batch: Sequence[Work]) -> None:
        """Pass a batch through the network, and give every caller its features."""
        began = self._pass_began[id(batch)]
        results: list[Rows | Exception] = []
        try:
            pixels = np.stack([work.pixels for work in batch if work.pixels is not None])
            results = self._stored(network.forward(pixels), len(batch))
        finally:
            seconds = time.monotonic() - began
            kept = [(work, rows) for work, rows in zip(batch, results, strict=False) if not isinstance(rows, Exception)]
            for work, rows in kept:
                self._keep(work.sha256, rows)
            with self._changed:
                del self._pass_began[id(batch)]
                for work in batch:
                    work.pixels = None
                    if self._pending.get(work.sha256) is work:
                        del self._pending[work.sha256]
                if results:
                    measured = seconds / len(batch)
                    known = self._seconds_per_image or measured
                    self._seconds_per_image = 0.8 * known + 0.2 * measured
        self._watcher.passed(len(batch), seconds)
        for work, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _refuse(work, result)
            else:
                _finish(work, result)

    def _stored(self, activations: Mapping[str, NDArray[np.float32]], count: int) -> list[Rows | Exception]:
        """Return the features of each image of a batch, or why there are none."""
        try:
            stored = {tap: self._as_stored(activations, tap) for tap in activations}
            return [{tap: values[row].copy() for tap, values in stored.items()} for row in range(count)]
        except RecipeError as e:
            if count == 1:
                return [UnusableFeaturesError(str(e))]
        return [
            self._stored({tap: values[row : row + 1] for tap, values in activations.items()}, 1)[0]
            for row in range(count)
        ]


def _finish(work: Work, result: Rows | Failure) -> None:
    if work.future.set_running_or_notify_cancel():
        work.future.set_result(result)


def _refuse(work: Work, error: Exception) -> None:
    if not work.future.done() and work.future.set_running_or_notify_cancel():
        work.future.set_exception(error)
