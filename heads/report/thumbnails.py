"""Thumbnails of original image files, or the reason why there is none."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from featurecache.errors import ManifestError
from featurecache.images.decode import byte_limit, shrink
from featurecache.images.failures import Failure
from featurecache.images.files import FileContent
from featurecache.images.frames import read_image
from featurecache.images.names import encode_name
from featurecache.images.sources import open_source, recorded_source
from featurecache.options import MAX_PIXELS

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache
    from featurecache.images.image_source import ImageSource

SIDE: Final = 256
"""The longest side of a thumbnail in pixels, if nothing else is said."""

_LARGEST: Final = 20_000  # bytes; 150 of them are 4 MB in a report
_QUALITIES: Final = (80, 60, 40, 20)
_CHANGED = "the file has changed since it was looked at"
_GONE = "the file is not there"
_UNKNOWN = "the cache knows no image of this name"
_UNKNOWN_SOURCE = "the folder of the images is not known, or is an address, which is asked if it is given"


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image made small, or the reason why there is none.

    Parameters
    ----------
    jpeg
        A JPEG file; None if there is none.
    width, height
        Its sides in pixels; 0 if there is none.
    missing
        Why there is none; empty if there is one.
    """

    jpeg: bytes | None
    width: int
    height: int
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Originals:
    """The image files that a cache was made from, if they are still what they were.

    Parameters
    ----------
    source
        What the images are read from; None if that is not known.
    sha256
        Path (the file's name, or its form of `featurecache.encode_name`) to the SHA-256 of the file's bytes, 64
        hexadecimal digits; of a frame or a view to its own.
    max_pixels
        A larger image has no thumbnail; that of a cache is the limit of its extraction.

    Examples
    --------
    >>> originals = heads.Originals.from_cache(cache)
    >>> originals.thumbnail("valid/dark/02.png").jpeg is None
    False
    """

    source: ImageSource | None
    sha256: Mapping[str, str]
    max_pixels: int = MAX_PIXELS

    @classmethod
    def from_cache(cls, cache: FeatureCache, images: str | os.PathLike[str] | ImageSource | None = None) -> Self:
        """Return the images of a cache: in the folder or source ``images``, or where they lay when it was made.

        An address is asked only if it is given: a cache of somebody else may record any.
        """
        source = recorded_source(cache.made_by.images) if images is None else open_source(images)
        contents = cache.index.images["sha256"].astype(str).tolist()
        return cls(source, dict(zip(cache.paths.tolist(), contents, strict=True)), cache.made_by.pixel_limit)

    def thumbnail(self, path: str, side: int = SIDE) -> Thumbnail:
        """Return an image made small, or the reason why there is none; no file makes it raise.

        Parameters
        ----------
        path
            The image's path in the cache.
        side
            The longest side of the thumbnail in pixels; a smaller image is not enlarged.

        Raises
        ------
        OptionError
            If ``side`` is not a whole number above 0.
        """
        content = self._read(path)
        pixels = (
            content
            if isinstance(content, Failure)
            else shrink(content.data, side, max_pixels=self.max_pixels, frame=content.frame, view=content.view)
        )
        if isinstance(pixels, Failure):
            return Thumbnail(None, 0, 0, pixels.reason)
        height, width, _ = pixels.shape
        return Thumbnail(jpeg_of(pixels), width, height)

    def _read(self, path: str) -> FileContent | Failure:
        """Return the content that the cache was made from, or why there are none."""
        if path not in self.sha256:
            return Failure("unknown", _UNKNOWN)
        if self.source is None:
            return Failure("unknown", _UNKNOWN_SOURCE)
        limit = byte_limit(self.max_pixels)
        encoded = encode_name(path.encode("utf-8", "surrogatepass"))
        try:
            content = read_image(self.source, encoded, max_bytes=limit)
            if isinstance(content, Failure) and encoded != path:
                content = read_image(self.source, path, max_bytes=limit)
        except ManifestError as e:  # a bucket is out of reach
            return Failure("unreadable", str(e))
        if isinstance(content, Failure):
            return Failure(content.code, _GONE) if content.code == "not_found" else content
        return content if content.sha256 == self.sha256[path] else Failure("changed", _CHANGED)


def jpeg_of(pixels: NDArray[np.uint8]) -> bytes:
    """Return a JPEG file of pixels (height, width, 3): at most 20 kB if a lower quality can do it, without metadata."""
    from PIL import Image

    image, data = Image.fromarray(pixels), b""
    for quality in _QUALITIES:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        data = file.getvalue()
        if len(data) <= _LARGEST:
            break
    return data
