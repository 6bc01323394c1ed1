"""Computes results in threads ahead of their use, in order and within a bounded window."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_thread = threading.local()


def pause(seconds: float) -> bool:
    """Wait, in a thread of `ahead` only while its results are wanted; return whether they are not wanted any more.

    Examples
    --------
    >>> pause(0.001)
    False
    """
    ended: threading.Event | None = getattr(_thread, "ended", None)
    if ended is not None:
        return ended.wait(seconds)
    time.sleep(seconds)
    return False


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    window: int,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for every item, in order, while ``workers`` threads compute the next results.

    At most ``window`` results exist at a time, which bounds memory. If the iterator is closed or a call raises an
    error, calls that have not begun are dropped and calls under way are waited for; `pause` ends in them.

    Examples
    --------
    >>> list(ahead(str.upper, ["a", "b", "c"], workers=2, window=2))
    ['A', 'B', 'C']
    """
    ended = threading.Event()
    with ThreadPoolExecutor(workers, "ahead", partial(setattr, _thread, "ended", ended)) as pool:
        futures: deque[Future[Result]] = deque()
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
            ended.set()
            pool.shutdown(wait=False, cancel_futures=True)
