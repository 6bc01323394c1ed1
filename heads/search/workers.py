"""Processes that work for a sweep, and end with it."""

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any, Self, TypeVar

from heads.errors import HeadError

_Result = TypeVar("_Result")
_Key = TypeVar("_Key")

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
_WATCH_SECONDS = 1.0


class Workers:
    """So many processes that call functions for this one, at most ``most``; one a processor if no number is given.

    With a single one, this process calls the functions itself.

    Each may use its share of the processors for threads. What Ctrl-C on a terminal sends to all processes does not
    reach them: when the block is left by an exception they are killed, and if this process is they end by themselves.
    """

    def __init__(self, jobs: int | None, *, most: int | None = None) -> None:
        from joblib import cpu_count

        self._jobs = jobs or cpu_count()
        if most is not None:
            self._jobs = min(self._jobs, most)
        self._threads = max(1, cpu_count() // self._jobs)
        self._executor: Any = None

    def __enter__(self) -> Self:
        if self._jobs > 1:
            from joblib.externals.loky import ProcessPoolExecutor
            from joblib.externals.loky.backend import resource_tracker as loky_tracker

            for tracker in (resource_tracker, loky_tracker):
                tracker.ensure_running()  # each lets signals through when it starts, which must not be in `_submit`
            environment = dict.fromkeys(_THREADS, str(self._threads))
            self._executor = ProcessPoolExecutor(
                self._jobs, initializer=end_with, initargs=(os.getpid(),), env=environment
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # loky misses psutil or pgrep, which it does not need here
                self._executor.shutdown(wait=True, kill_workers=kind is not None)

    def each(
        self, function: Callable[..., _Result], calls: Mapping[_Key, tuple[Any, ...]]
    ) -> Iterator[tuple[_Key, _Result]]:
        """Call a function with every tuple of arguments; yield key and result of each call as soon as it is there.

        Raises
        ------
        HeadError
            If a process was killed, as the operating system does when memory runs out.
        """
        if self._executor is None:
            for key, arguments in calls.items():
                yield key, function(*arguments)
            return
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        waiting: dict[Future[_Result], _Key] = {}
        left = iter(calls.items())
        try:
            while True:
                # not all at once: what loky has taken and not passed on yet would trouble it when it is ended
                for key, arguments in islice(left, 2 * self._jobs - len(waiting)):
                    waiting[self._submit(function, arguments)] = key
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except TerminatedWorkerError as e:
            raise HeadError(
                "a worker process was killed, most likely because memory ran out; what was finished is kept: "
                "run the same command again with fewer --jobs"
            ) from e

    def _submit(self, function: Callable[..., _Result], arguments: tuple[Any, ...]) -> "Future[_Result]":
        """Pass a call on; processes that start with it inherit that Ctrl-C does not reach them."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future: Future[_Result] = self._executor.submit(function, *arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)  # what came meanwhile comes now
        return future

    def call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:  # noqa: ANN401 - the function's own
        """Call a function once."""
        ((_, result),) = self.each(function, {0: arguments})
        return result


def end_with(parent: int) -> None:
    """Let this process end when the one that started it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
