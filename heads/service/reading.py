"""From an HTTP request to the features of its images: waits without blocking, and leaves when the client does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from heads.service.access import Exchange, Rules, Traffic, read_body
from heads.service.answering import ImageFeatures, ImageFile, PendingImages, UnusableImage
from heads.service.errors import RequestError
from heads.service.uploads import images_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from heads.service.assembly import Service
    from heads.service.batching import Work

Result = TypeVar("Result")

_THREADS = 2  # that read bodies and compute answers of heads
_SEARCHES = 1  # at once: each uses all processors
_AT_ONCE = 1 << 18  # bytes that are worked on at once: a thread would take longer to begin


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """Reads requests for all routes.

    Parameters
    ----------
    service
        What answers.
    rules
        Who may ask, and how much.
    traffic
        All requests in progress.
    """

    service: Service
    rules: Rules
    traffic: Traffic
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "answer"))
    _searching: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_SEARCHES, "search"))

    def close(self) -> None:
        """End the threads; a search that has begun ends by itself."""
        self._threads.shutdown()
        self._searching.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, request: Request, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that computes, away from the event loop.

        Raises
        ------
        TimeoutError
            If the deadline of the request passes; the function is not called any more if it has not begun.
        """
        return await _called(self._threads, request, function, *arguments)

    async def searched(self, request: Request, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that searches the cache, as `in_thread` does: nobody but other searches waits for it."""
        return await _called(self._searching, request, function, *arguments)

    async def computed(self, request: Request, size: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function that works on ``size`` bytes: at once if they are few, otherwise as `in_thread` does."""
        return function(*arguments) if size <= _AT_ONCE else await self.in_thread(request, function, *arguments)

    async def body(self, request: Request) -> bytes:
        """Return the body of a request, within its bounds."""
        return await read_body(request.scope, request.receive, self.rules, self.traffic)

    async def features(self, request: Request) -> list[ImageFeatures | UnusableImage]:
        """Return the features of all images in the body of a request, in order."""
        content_type = request.headers.get("content-type", "")
        body = await self.body(request)
        pending = await self.computed(request, len(body), self._read, body, content_type)
        del body  # it is not kept while the network computes
        return await self._features(request, pending)

    async def features_of(self, request: Request, images: Sequence[ImageFile]) -> list[ImageFeatures | UnusableImage]:
        """Return the features of images, in order."""
        size = sum(len(image.data) for image in images)
        return await self._features(request, await self.computed(request, size, self._looked_up, images))

    def _read(self, body: bytes, content_type: str) -> PendingImages:
        """Read the images in a body, and ask which of them are in memory."""
        return self._looked_up(images_of(body, content_type))

    def _looked_up(self, images: Sequence[ImageFile]) -> PendingImages:
        """Ask which images are in memory."""
        return PendingImages(images, self.service.content, self.service.batcher)

    async def _features(self, request: Request, pending: PendingImages) -> list[ImageFeatures | UnusableImage]:
        """Compute the features that are not known, and return those of all images.

        Raises
        ------
        OverloadedError, NotServingError
            As `Batcher.submit`.
        TimeoutError
            If the deadline of the request passes.
        RequestError
            With 499 if the client leaves.
        """
        exchange: Exchange = request.scope["exchange"]
        exchange.images = len(pending)
        service = self.service
        if not pending.is_known and service.content.is_stored:
            await self.in_thread(request, pending.look_further)
        largest = service.batcher.room.largest
        if pending.unknown > largest:
            raise RequestError(
                413,
                "too_many_images",
                f"the request has {pending.unknown} new images, and {largest} fit into the queue; send fewer at a time",
            )
        work = [] if pending.is_known else pending.submit()
        for found, count in pending.hits.items():
            service.metrics.hit(found, count)
        try:
            await _finished(work, request, exchange.deadline)
        finally:
            pending.leave()
        return pending.results()


async def _called(
    threads: ThreadPoolExecutor, request: Request, function: Callable[..., Result], *arguments: Any
) -> Result:
    """Call a function in a thread, within the deadline of a request."""
    async with asyncio.timeout_at(request.scope["exchange"].deadline):
        return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


async def _finished(work: Sequence[Work], request: Request, deadline: float) -> None:
    """Wait until all work is finished, the deadline passes, or the client leaves."""
    if not work:
        return
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[None] = loop.create_future()
    unfinished = len(work)

    def count_down() -> None:
        nonlocal unfinished
        unfinished -= 1
        if not unfinished and not finished.done():
            finished.set_result(None)

    def called_in_a_thread(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(count_down)

    for item in work:
        item.future.add_done_callback(called_in_a_thread)
    leaving = asyncio.ensure_future(_left(request))
    try:
        left = deadline - loop.time()
        done, _ = await asyncio.wait((finished, leaving), timeout=left, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    if finished in done:
        return
    if leaving in done:
        raise RequestError(499, "client_left", "the client left before the answer")
    raise TimeoutError


async def _left(request: Request) -> None:
    """Return when the client leaves; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
