"""Features of images that were seen before, by the SHA-256 of their bytes: in memory, in a cache, in an SQLite file."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from featurecache.errors import CacheFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol

    from numpy.typing import NDArray

    from featurecache.cache import FeatureCache

    class FeatureFile(Protocol):
        """Features by content in a file that survives a restart."""

        def get(self, sha256: str) -> Rows | None:
            """Return the features of a content; None if the file lacks it."""

        def put(self, sha256: str, rows: Rows) -> None:
            """Keep the features of a content; returns at once."""

        def close(self) -> None:
            """Write what is not written yet, and close the file."""


Rows: TypeAlias = "Mapping[str, NDArray[Any]]"
"""Maps taps to the features of one image, shape (d,), in the data type of the cache."""

Found = Literal["memory", "cache", "file"]

_ENTRY_BYTES = 600  # of a digest, a mapping and an array, in addition to the features
_ARRAY_BYTES = 150


def size_of(rows: Rows) -> int:
    """Return the memory in bytes that the features of an image take in a `MemoryCache`."""
    return _ENTRY_BYTES + sum(values.nbytes + _ARRAY_BYTES for values in rows.values())


class MemoryCache:
    """Features by content in memory, of bounded size: the least recently used go first.

    Parameters
    ----------
    max_bytes
        The bound; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Rows] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """The size of all entries in bytes."""
        return self._bytes

    def get(self, sha256: str) -> Rows | None:
        """Return the features of a content; None if they are not kept."""
        with self._lock:
            rows = self._entries.get(sha256)
            if rows is not None:
                self._entries.move_to_end(sha256)
            return rows

    def put(self, sha256: str, rows: Rows) -> None:
        """Keep the features of a content; arrays must not be views of larger ones, which they would keep alive."""
        size = size_of(rows)
        if size > self._max_bytes:
            return
        with self._lock:
            replaced = self._entries.pop(sha256, None)
            if replaced is not None:
                self._bytes -= size_of(replaced)
            self._entries[sha256] = rows
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= size_of(dropped)


class CachedRows:
    """The rows of a cache by content.

    Parameters
    ----------
    cache
        The cache.
    taps
        The taps that a service needs. A cache that lacks one of them knows no content.
    """

    def __init__(self, cache: FeatureCache, taps: Mapping[str, int]) -> None:
        self._cache = cache
        self._taps = tuple(taps) if set(taps) <= set(cache.taps) else ()
        self._digests: NDArray[np.bytes_] = cache.index.images["sha256"]
        self._order = np.argsort(self._digests, kind="stable")

    def row_of(self, sha256: str) -> int | None:
        """Return the first row with a content; None if there is none."""
        key = np.bytes_(sha256.encode("ascii"))
        place = int(np.searchsorted(self._digests, key, sorter=self._order))
        if place == len(self._order) or self._digests[self._order[place]] != key:
            return None
        return int(self._order[place])

    def get(self, sha256: str) -> Rows | None:
        """Return the features of a content; None if the cache lacks it, or if its block is damaged."""
        row = self.row_of(sha256) if self._taps else None
        if row is None:
            return None
        try:
            return {tap: self._cache.read(tap, row, 1)[0] for tap in self._taps}
        except CacheFormatError:
            return None


@dataclass(frozen=True, slots=True)
class ContentCache:
    """All places where the features of an image may be known.

    Parameters
    ----------
    memory
        What this process has computed.
    cached
        The rows of the cache that is served; None without a cache.
    file
        What this and earlier processes have computed; None without a file.
    """

    memory: MemoryCache
    cached: CachedRows | None = None
    file: FeatureFile | None = None

    def get(self, sha256: str) -> tuple[Rows, Found] | None:
        """Return the features of a content and the place where they were found; None if no place has them."""
        rows = self.memory.get(sha256)
        return self.stored(sha256) if rows is None else (rows, "memory")

    @property
    def is_stored(self) -> bool:
        """Whether there is another place than memory."""
        return self.cached is not None or self.file is not None

    def stored(self, sha256: str) -> tuple[Rows, Found] | None:
        """Return the features of a content from places other than memory."""
        rows = self.cached.get(sha256) if self.cached is not None else None
        if rows is not None:
            return rows, "cache"
        rows = self.file.get(sha256) if self.file is not None else None
        if rows is not None:
            self.memory.put(sha256, rows)
            return rows, "file"
        return None

    def put(self, sha256: str, rows: Rows) -> None:
        """Keep the features of a content."""
        self.memory.put(sha256, rows)
        if self.file is not None:
            self.file.put(sha256, rows)

    def close(self) -> None:
        """Write what the file still lacks, and close it."""
        if self.file is not None:
            self.file.close()
