"""Decoded images in batches: in order, read ahead in threads within a bounded window, failures aside."""

import os
from collections.abc import Callable, Generator, Iterable, MutableMapping
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from featurecache.ahead import ahead
from featurecache.decode import DecodeRules, Failure, decode, read_file

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch(Generic[Item]):
    """Some images, decoded.

    Parameters
    ----------
    items
        What they were asked for by.
    sha256
        SHA-256 of each file's bytes, 64 hexadecimal digits.
    pixels
        RGB, shape (n, height, width, 3), uint8; n is at least 1.
    """

    items: tuple[Item, ...]
    sha256: tuple[str, ...]
    pixels: NDArray[np.uint8]


def image_batches(
    items: Iterable[Item],
    file_of: Callable[[Item], bytes],
    rules: DecodeRules,
    *,
    batch_size: int,
    failures: MutableMapping[Item, str],
    workers: int | None = None,
) -> Generator[ImageBatch[Item], None, None]:
    """Yield the images of all items that can be used, in order, ``batch_size`` at a time; the last may be fewer.

    A few batches exist at a time, so that memory does not depend on the number of images. Closing the iterator ends
    the reading ahead.

    Parameters
    ----------
    items
        What stands for an image each; hashable.
    file_of
        The file of an item, by the name that the operating system knows.
    rules
        How images are decoded.
    batch_size
        Images of a batch.
    failures
        Gets the reason of every item whose image cannot be used, before the next batch is yielded.
    workers
        Threads that read and decode; one for each processor if not given.
    """

    def look(item: Item) -> tuple[Item, str, NDArray[np.uint8] | Failure]:
        read = read_file(file_of(item), max_bytes=rules.max_bytes)
        if isinstance(read, Failure):
            return item, "", read
        return item, read.sha256, decode(read.data, rules)

    threads = workers or len(os.sched_getaffinity(0))
    batch: list[tuple[Item, str, NDArray[np.uint8]]] = []
    with closing(ahead(look, items, workers=threads, window=2 * batch_size)) as results:
        for item, sha256, pixels in results:
            if isinstance(pixels, Failure):
                failures[item] = pixels.reason
                continue
            batch.append((item, sha256, pixels))
            if len(batch) == batch_size:
                yield _joined(batch)
                batch.clear()
    if batch:
        yield _joined(batch)


def _joined(images: list[tuple[Item, str, NDArray[np.uint8]]]) -> ImageBatch[Item]:
    items, contents, pixels = zip(*images, strict=True)
    return ImageBatch(items, contents, np.stack(pixels))
