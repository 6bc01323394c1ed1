"""A file in memory that HDF5 writes to; its pages are then written to a draft."""

import io
import os
from collections.abc import Iterator
from typing import Any

from featurecache.storage.publish import Draft

_PAGE = 1 << 16


class MemoryFile(io.RawIOBase):
    """A sparse file in memory: only pages that HDF5 writes exist.

    A write error inside HDF5 can end the process. HDF5 therefore writes to memory, and the disk is written afterwards.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self.size = 0

    def write_to(self, draft: Draft) -> None:
        """Write every page into a draft, at its place."""
        for number, page in sorted(self._pages.items()):
            draft.write(memoryview(page)[: self.size - number * _PAGE], number * _PAGE)

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - the buffer protocol has no type before Python 3.12
        """Read into a buffer at the position; bytes that were never written are zero."""
        view = memoryview(buffer).cast("B")
        for page, within, part in self._parts(len(view)):
            view[part] = page[within]
        return len(view)

    def write(self, data: Any) -> int:  # noqa: ANN401 - as above
        """Write at the position, and advance it."""
        view = memoryview(data).cast("B")
        for page, within, part in self._parts(len(view)):
            page[within] = view[part]
        self.size = max(self.size, self._position)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position, in bytes from the start, or from the end with ``os.SEEK_END``."""
        self._position = offset if whence == os.SEEK_SET else self.size + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        self.size = self._position if size is None else size
        return self.size

    def _parts(self, count: int) -> Iterator[tuple[bytearray, slice, slice]]:
        """Yield, for the next ``count`` bytes: page, slice of the page, slice of the bytes; advance the position."""
        done = 0
        while done < count:
            number, start = divmod(self._position, _PAGE)
            length = min(_PAGE - start, count - done)
            page = self._pages.setdefault(number, bytearray(_PAGE))
            yield page, slice(start, start + length), slice(done, done + length)
            done += length
            self._position += length
