"""Worker processes of a sweep. They end with the process that started them."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from featurecache.processors import processor_count
from featurecache.storage.platform import MOST_PROCESSES, ignore_interrupts, is_orphan, signals_blocked
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
_SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # a new interpreter does not put the current folder before all others
_WATCH_SECONDS = 1.0


class TimeOverError(HeadError):
    """The time that the workers had is over."""


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let linear algebra in this process compute with one thread for the duration of a block.

    Threads of a product wait for each other. On a busy machine they wait for a processor as well, most of the time.
    """
    import scipy.linalg  # noqa: F401 - it has linear algebra of its own, and only libraries that are loaded are limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        yield


class Workers:
    """A pool of processes that call functions for this process; a context manager.

    A pool of one process is this process itself.

    The processors are divided among the workers: each limits the threads of its linear algebra libraries to its share.
    Ctrl-C and other signals that end a command do not reach the workers. They are killed when an exception leaves the
    ``with`` block, and they end by themselves when this process is killed. They do not look for modules in the current
    folder, which may be one of untrusted data.

    Parameters
    ----------
    jobs
        Number of processes; None for one per processor.
    most
        Upper limit of that number; None for no limit.
    until
        The time of `time.monotonic` at which calls are given up; None for never. A pool of one process is a process of
        its own then, with one thread.
    """

    def __init__(self, jobs: int | None, *, most: int | None = None, until: float | None = None) -> None:
        self._jobs = min(jobs or processor_count(), MOST_PROCESSES)
        if most is not None:
            self._jobs = min(self._jobs, most)
        self._until = until
        self._context = _WorkerContext(threads=max(1, processor_count() // self._jobs) if self._jobs > 1 else 1)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self._jobs > 1 or self._until is not None:
            # Starting the tracker unblocks signals. It must run before `_WorkerProcess.start` blocks them.
            with signals_blocked(), _environment(_SAFE_PATH):
                resource_tracker.ensure_running()
            self._executor = ProcessPoolExecutor(
                self._jobs, mp_context=self._context, initializer=end_with, initargs=(os.getpid(),)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor is not None:
            if kind is not None:
                self._context.kill()
            self._executor.shutdown(wait=True)

    def each(
        self, function: Callable[..., _Result], calls: Mapping[_Key, tuple[Any, ...]]
    ) -> Iterator[tuple[_Key, _Result]]:
        """Call a function once per tuple of arguments; yield key and result of each call as soon as it has finished.

        Raises
        ------
        HeadError
            If a worker was killed, as the operating system does when memory runs out.
        TimeOverError
            If the time is over and no call has finished; the workers have been killed.
        """
        if self._executor is None:
            for key, arguments in calls.items():
                yield key, function(*arguments)
            return
        pending: dict[Future[_Result], _Key] = {}
        remaining = iter(calls.items())
        try:
            while True:
                # Submit few calls at a time: the pool keeps the pickled arguments of every submitted call.
                for key, arguments in islice(remaining, 2 * self._jobs - len(pending)):
                    pending[self._executor.submit(function, *arguments)] = key
                if not pending:
                    return
                left = None if self._until is None else max(0.0, self._until - time.monotonic())
                done = wait(pending, left, return_when=FIRST_COMPLETED).done
                if not done:
                    self._context.kill()
                    raise TimeOverError("the time is over")
                for future in done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as e:
            raise HeadError(
                "a worker process was killed, most likely because memory ran out; what was finished is kept: "
                "run the same command again with fewer --jobs"
            ) from e

    def call(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Call a function once."""
        ((_, result),) = self.each(function, {0: arguments})
        return result


class _WorkerProcess(SpawnProcess):
    """A new Python interpreter that ignores signals, uses few threads, and does not import ``__main__``.

    ``threads`` must be set before `start`.
    """

    threads: int

    def start(self) -> None:
        """Start the process; it inherits the signal mask, the environment and the module path of this moment."""
        variables = dict.fromkeys(_THREADS, str(self.threads)) | _SAFE_PATH
        with signals_blocked(), _environment(variables), _main_hidden(), _current_folder_hidden():
            super().start()


class _WorkerContext(SpawnContext):
    """The start method of the pool. It remembers the processes, so that they can be killed."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._threads = threads
        self._processes: list[_WorkerProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> _WorkerProcess:  # type: ignore[override]  # noqa: N802
        process = _WorkerProcess(*args, **kwargs)
        process.threads = self._threads
        self._processes.append(process)
        return process

    def kill(self) -> None:
        """Kill every process that is still running."""
        for process in self._processes:
            if process.is_alive():
                process.kill()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the duration of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the main module, so that a new process does not run it again.

    Without this, every script that calls `heads.sweep` would need an ``if __name__ == "__main__"`` guard.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _current_folder_hidden() -> Iterator[None]:
    """Hide the current folder from the module path, which a new process takes over, unless this project lies there."""
    before = sys.path
    if not Path(__file__).parents[2].samefile(os.curdir):
        sys.path = [entry for entry in before if entry]  # an empty one stands for the current folder
    try:
        yield
    finally:
        sys.path = before


def end_with(parent: int) -> None:
    """Start a thread that ends this process when its parent process has ended."""

    def watch() -> None:
        while not is_orphan(parent):
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    ignore_interrupts()
    threading.Thread(target=watch, daemon=True).start()
