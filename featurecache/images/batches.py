"""Reads and decodes images in threads and yields them in batches, in order, with bounded memory."""

from collections.abc import Callable, Generator, Iterable, MutableMapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featurecache.images.decode import DecodeRules, decode
from featurecache.images.failures import Failure
from featurecache.images.frames import read_image
from featurecache.images.image_source import ImageSource, threads_for
from featurecache.images.manifest import ImageEntry
from featurecache.prefetch import ahead


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """A batch of decoded images.

    Parameters
    ----------
    entries
        The manifest entries of the images.
    sha256
        SHA-256 of each image file's bytes, 64 hexadecimal digits.
    pixels
        RGB, shape (n, height, width, 3), uint8; n is at least 1.
    """

    entries: tuple[ImageEntry, ...]
    sha256: tuple[str, ...]
    pixels: NDArray[np.uint8]


def image_batches(
    entries: Iterable[ImageEntry],
    source: ImageSource,
    rules: DecodeRules,
    *,
    batch_size: int,
    failures: MutableMapping[str, Failure],
    on_dark: Callable[[str], object] = lambda _: None,
    workers: int | None = None,
) -> Generator[ImageBatch, None, None]:
    """Yield all usable images, in order, ``batch_size`` at a time; the last batch may be smaller.

    Only a few batches are in memory at a time. Closing the iterator stops the threads.

    Parameters
    ----------
    entries
        The images.
    source
        The source of their bytes.
    rules
        How images are decoded.
    batch_size
        Images per batch.
    failures
        Receives the failure of each unusable image, by path, before the next batch is yielded.
    on_dark
        Called with the path of each image that is nearly black; see `featurecache.images.decode.decode`.
    workers
        Threads that read and decode images; one per processor if None, and more for remote images.
    """

    def load(entry: ImageEntry) -> tuple[ImageEntry, str, NDArray[np.uint8] | Failure]:
        content = read_image(source, entry.path, max_bytes=rules.max_bytes)
        if isinstance(content, Failure):
            return entry, "", content
        return (
            entry,
            content.sha256,
            decode(content.data, rules, frame=content.frame, view=content.view, on_dark=lambda: on_dark(entry.path)),
        )

    threads = threads_for(source, workers)
    batch: list[tuple[ImageEntry, str, NDArray[np.uint8]]] = []
    with closing(ahead(load, entries, workers=threads, window=max(2 * batch_size, threads))) as results:
        for entry, sha256, pixels in results:
            if isinstance(pixels, Failure):
                failures[entry.path] = pixels
                continue
            batch.append((entry, sha256, pixels))
            if len(batch) == batch_size:
                yield _joined(batch)
                batch.clear()
    if batch:
        yield _joined(batch)


def _joined(images: list[tuple[ImageEntry, str, NDArray[np.uint8]]]) -> ImageBatch:
    entries, contents, pixels = zip(*images, strict=True)
    return ImageBatch(entries, contents, np.stack(pixels))
