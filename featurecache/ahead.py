"""Ordered work in threads: results in the order of the items, computed ahead within a bounded window."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    window: int,
    begun: deque[Future[Result]] | None = None,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for every item, in order, while ``workers`` threads work at the next ones.

    At most ``window`` results exist at a time, so that memory is bounded. Closing the iterator, or an error in it,
    drops what has not begun and waits for what has; who gives a deque for ``begun`` finds there, in order, the last
    that was yielded and all after it.
    """
    with ThreadPoolExecutor(workers, "ahead") as pool:
        futures: deque[Future[Result]] = deque() if begun is None else begun
        try:
            for item in items:
                futures.append(pool.submit(function, item))
                if len(futures) >= window:
                    yield futures[0].result()
                    futures.popleft()
            while futures:
                yield futures[0].result()
                futures.popleft()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
