"""Threads of our own in the place of those of libraries, which wait for each other where processors are busy."""

from collections.abc import Iterator
from contextlib import contextmanager

_FEW_VALUES = 2**22


@contextmanager
def own_threads() -> Iterator[int]:
    """Let linear algebra compute with one thread in a block, and yield the number of threads that it had."""
    from threadpoolctl import threadpool_info, threadpool_limits

    allowed = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    with threadpool_limits(1, user_api="blas"):
        yield max(allowed, default=1)


@contextmanager
def one_openmp_thread(values: int) -> Iterator[None]:
    """Let OpenMP compute with one thread in a block that works on few values.

    Its threads wait for each other after every small step. On busy processors they wait most of the time.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1 if values < _FEW_VALUES else None, user_api="openmp"):
        yield
