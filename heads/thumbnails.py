"""Small pictures of original image files, or why there is none."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from featurecache.decode import MAX_BYTES, Failure, read_file, shrink
from featurecache.names import decode_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache

SIDE: Final = 256
"""The longest side of a thumbnail in pixels, if nothing else is said."""

_LARGEST: Final = 20_000  # bytes; 150 of them are 4 MB in a report
_QUALITIES: Final = (80, 60, 40, 20)
_CHANGED = "the file has changed since it was looked at"
_GONE = "the file is not there"
_OUTSIDE = "its path leads out of the folder of the images"
_UNKNOWN = "the cache knows no image of this name"
_UNKNOWN_ROOT = "the folder of the images is not known"


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
    root
        The folder that the paths are relative to; None if nobody knows.
    sha256
        Path (in the form of `featurecache.names.encode_name`) to the SHA-256 of the file's bytes, 64 hexadecimal
        digits.
    """

    root: Path | None
    sha256: Mapping[str, str]

    @classmethod
    def of(cls, cache: FeatureCache, root: str | os.PathLike[str] | None = None) -> Self:
        """Return the images of a cache, below ``root``, or else where they lay when the cache was made."""
        recorded = cache.provenance.get("images")
        if root is None and isinstance(recorded, str):
            root = recorded
        rows = cache.features(min(cache.taps, key=lambda tap: cache.taps[tap]))  # any tap has all images
        return cls(None if root is None else Path(root), dict(zip(rows.paths, rows.sha256, strict=True)))

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
        data = self._read(path)
        pixels = data if isinstance(data, Failure) else shrink(data, side)
        if isinstance(pixels, Failure):
            return Thumbnail(None, 0, 0, pixels.reason)
        height, width, _ = pixels.shape
        return Thumbnail(_jpeg(pixels), width, height)

    def _read(self, path: str) -> bytes | Failure:
        """Return the bytes that the cache was made from, or why there are none."""
        if path not in self.sha256:
            return Failure(_UNKNOWN)
        if self.root is None:
            return Failure(_UNKNOWN_ROOT)
        try:
            name = decode_name(path)
        except UnicodeEncodeError:  # no name that a cache gives
            return Failure(_UNKNOWN)
        if name.startswith(b"/") or b".." in name.split(b"/"):
            return Failure(_OUTSIDE)
        file = os.path.join(os.fsencode(self.root), name)  # noqa: PTH118 - pathlib takes no bytes
        read = read_file(file, max_bytes=MAX_BYTES)
        if isinstance(read, Failure):
            return read if os.path.lexists(file) else Failure(_GONE)
        return read.data if read.sha256 == self.sha256[path] else Failure(_CHANGED)


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
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
