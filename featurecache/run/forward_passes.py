"""Forward passes of a run: in order, in threads, and with their results kept when the run is interrupted."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum, auto
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featurecache.backbones.protocol import Backbone
from featurecache.errors import ManifestError
from featurecache.format.file_records import FileRecord
from featurecache.run.committer import Committer, TapFeatures

PixelBatch = Mapping[str, NDArray[np.uint8]]
"""Hashes of contents to decoded pixels."""

_Pass = Future[TapFeatures | None]
_Submitted = tuple[PixelBatch, list[FileRecord]]


class _Event(Enum):
    """What the coordinator thread wakes up for, other than a batch."""

    PASS_ENDED = auto()
    TIME_LIMIT = auto()  # what was added must be committed


class _State(Enum):
    """What the coordinator thread does with batches and results."""

    RUNNING = auto()  # forward every batch, commit every result
    STOPPING = auto()  # begin no pass, commit the results of the passes under way
    DROPPING = auto()  # begin no pass, begin no commit


class ForwardPasses:
    """Forwards batches and commits the results, so that an interruption loses no finished pass.

    Python raises `KeyboardInterrupt` in the main thread only. The main thread therefore only submits batches. A
    coordinator thread starts their passes in order, adds each result to the committer exactly once, in order, and
    commits when a shard is full or old, even while no batch comes. The two threads share queues that are written in
    C: an interruption inside `threading.Semaphore` or `concurrent.futures.Future` can leave their locks taken.

    Use it as a context manager. If the block is left by `KeyboardInterrupt`, or by `ManifestError` since images are out
    of reach, passes that have not begun are dropped, passes under way are finished, and everything collected is
    committed before the exception is raised. A second `KeyboardInterrupt` ends the wait; call `close` then, and in
    every other case, after the block. If a pass
    fails, the results of the passes before it are committed, and then its error is raised. If the block is left by
    another error, what was collected since the last commit is dropped.

    Parameters
    ----------
    committer
        Takes features and file records; used by the coordinator thread only.
    clock
        Returns seconds.

    Attributes
    ----------
    forwarded
        Images whose features were added to the committer.
    waiting, computing
        Seconds that the network was idle and busy, as of the last result.
    """

    def __init__(self, committer: Committer, clock: Callable[[], float] = time.monotonic) -> None:
        self.forwarded = 0
        self.waiting = self.computing = 0.0
        self._committer = committer
        self._clock = clock
        self._queue: SimpleQueue[_Submitted | _Event | None] = SimpleQueue()
        self._slots: SimpleQueue[BaseException | None] = SimpleQueue()  # None: room for a batch; error: the end
        self._file_records: list[FileRecord] = []
        self._backbone: Backbone | None = None
        self._batch_size = 0
        self._state = _State.RUNNING
        self._has_dropped = False  # whether a batch was not forwarded
        self._coordinator = Thread(target=self._coordinate, name="coordinate", daemon=True)
        self._failure: BaseException | None = None
        self._commit_failure: BaseException | None = None
        self._slots.put(None)

    def __enter__(self) -> Self:
        self._coordinator.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            return
        is_sound = isinstance(error, KeyboardInterrupt | ManifestError)  # images that cannot be read harm no pass
        self._state = _State.STOPPING if is_sound else _State.DROPPING
        self._end_queue()
        self._coordinator.join()
        if is_sound and self._commit_failure:
            raise self._commit_failure

    def close(self) -> None:
        """Let the coordinator end without a further commit, and do not wait for it; call after the block.

        After an interrupted `__enter__` or `__exit__`, nothing else ends the coordinator.
        """
        self._state = _State.DROPPING
        self._queue.put(None)

    @property
    def is_started(self) -> bool:
        """Whether there is a network."""
        return self._backbone is not None

    def start(self, backbone: Backbone, batch_size: int) -> None:
        """Set the network, and the largest number of images in a batch; call once, before the first batch."""
        self._timer = BusyTimer(self._clock)
        self._pool = ThreadPoolExecutor(backbone.passes_at_once, "forward")
        self._batch_size, self._backbone = batch_size, backbone
        for _ in range(backbone.passes_at_once):
            self._slots.put(None)

    @property
    def holds_old_file_records(self) -> bool:
        """Whether file records wait for a batch, and the time limit of a shard has passed."""
        return bool(self._file_records) and self._committer.is_old()

    def add_file_record(self, file_record: FileRecord) -> None:
        """Add what was found at a path; it is committed with the next batch that is submitted."""
        self._file_records.append(file_record)

    def submit(self, batch: PixelBatch) -> None:
        """Hand over a batch, as soon as there is room; an empty batch hands over file records only.

        Raises
        ------
        Exception
            The error of an earlier pass or commit.
        """
        failure = self._slots.get()
        if failure:
            raise failure
        self._queue.put((batch, self._file_records))
        self._file_records = []

    def finish(self) -> None:
        """Return when every batch was forwarded and committed; raise the error of a pass or commit that failed."""
        self._end_queue()
        self._coordinator.join()
        if self._failure:
            raise self._failure

    def _end_queue(self) -> None:
        self._queue.put(({}, self._file_records))
        self._queue.put(None)

    def _coordinate(self) -> None:
        """Work until the queue ends or something fails, then commit what was collected."""
        try:
            self._work()
        except BaseException as e:  # noqa: BLE001 - raised in the main thread
            self._failure = e
        try:
            if self._backbone:
                self._pool.shutdown(cancel_futures=True)
            if self._state is not _State.DROPPING:
                self._committer.commit()
                self._committer.wait()
        except BaseException as e:  # noqa: BLE001 - as above; this error is also that of an earlier commit
            self._failure = self._commit_failure = e
        finally:
            self._committer.close()
            if self._failure:
                self._slots.put(self._failure)

    def _work(self) -> None:
        """Start passes and add their results, in the order of the queue; commit full and old shards."""
        passes: deque[tuple[_Submitted, _Pass | None]] = deque()
        has_ended = False
        while passes or not has_ended:
            event = self._next_event()
            if event is None:
                has_ended = True
            elif not isinstance(event, _Event):
                passes.append((event, self._begin(event[0])))
            while passes and (passes[0][1] is None or passes[0][1].done()):
                self._add(*passes.popleft())
            self._commit_if_due()

    def _next_event(self) -> _Submitted | _Event | None:
        """Wait for a batch, the end of a pass, the end of the queue (None), or the time limit of a shard."""
        seconds = None if self._state is _State.DROPPING else self._committer.seconds_left()
        try:
            return self._queue.get(timeout=seconds)
        except Empty:
            return _Event.TIME_LIMIT

    def _begin(self, batch: PixelBatch) -> _Pass | None:
        """Begin the pass of a batch; return None for an empty batch."""
        if not batch:
            return None
        forward_pass = self._pool.submit(self._forward, batch)
        forward_pass.add_done_callback(lambda _: self._queue.put(_Event.PASS_ENDED))
        return forward_pass

    def _add(self, submitted: _Submitted, forward_pass: _Pass | None) -> None:
        """Add the result of a pass that has ended to the committer, and commit if a shard is full or old."""
        batch, file_records = submitted
        features = forward_pass.result() if forward_pass else None
        self._has_dropped |= bool(batch) and features is None
        if features is not None and not self._has_dropped:  # what is kept has no gaps
            self._committer.add_features(list(batch), features)
            self.forwarded += len(batch)
            self.waiting, self.computing = self._timer.waiting, self._timer.computing
        self._committer.add_file_records(file_records)
        self._slots.put(None)
        self._commit_if_due()

    def _commit_if_due(self) -> None:
        if self._committer.is_due(self._batch_size) and self._state is not _State.DROPPING:
            self._committer.commit()

    def _forward(self, batch: PixelBatch) -> TapFeatures | None:
        """Forward a batch; return None if the run was interrupted before."""
        if self._state is not _State.RUNNING or self._backbone is None:
            return None
        self._timer.count(1)
        try:
            return self._backbone.forward(np.stack(list(batch.values())))
        finally:
            self._timer.count(-1)


class BusyTimer:
    """Measures how long a network is busy and idle; overlapping passes count once.

    Parameters
    ----------
    clock
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._running = 0
        self._since = clock()  # when `_running` last changed or was read
        self._seconds = {True: 0.0, False: 0.0}  # busy, idle

    @property
    def waiting(self) -> float:
        """Seconds without a pass, so far."""
        self.count(0)
        return self._seconds[False]

    @property
    def computing(self) -> float:
        """Seconds with at least one pass, so far."""
        self.count(0)
        return self._seconds[True]

    def count(self, change: int) -> None:
        """Add ``change`` to the number of passes under way."""
        with self._lock:
            now = self._clock()
            self._seconds[self._running > 0] += now - self._since
            self._since = now
            self._running += change
