"""Threads of our own in the place of those of a BLAS library, which wait for each other where processors are busy."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_threads() -> Iterator[int]:
    """Let linear algebra compute with one thread in a block, and yield the number of threads that it had."""
    from threadpoolctl import threadpool_info, threadpool_limits

    allowed = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    with threadpool_limits(1, user_api="blas"):
        yield max(allowed, default=1)
