"""The features of one open cache file: rows are read at their byte offsets, without HDF5."""

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import CacheFormatError
from featurecache.format.checks import FeatureBlock
from featurecache.format.header import HEADER_BYTES
from featurecache.format.layout import BLOCK_ROWS, Part
from featurecache.format.mapped_file import MappedFile
from featurecache.storage.files import open_regular
from featurecache.storage.platform import read_ahead, read_at, read_into_at

_PIECE_BYTES = 4_000_000  # read and written at a time
_READ_BYTES = 1 << 30  # the most of one system call


class RowSource(Protocol):
    """Gives rows of features by position."""

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return ``count`` consecutive rows of a tap, shape (count, d)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RowPlaces:
    """Where rows lie, in columns: row ``i`` is row ``rows[i]`` of ``sources[numbers[i]]``.

    Parameters
    ----------
    sources
        What holds the rows.
    numbers, rows
        Shape (n,).
    """

    sources: tuple[RowSource, ...]
    numbers: NDArray[np.int32]
    rows: NDArray[np.int64]

    @classmethod
    def in_one(cls, source: RowSource, start: int, count: int) -> Self:
        """Return the places of consecutive rows of one source."""
        return cls((source,), np.zeros(count, np.int32), np.arange(start, start + count, dtype=np.int64))

    @classmethod
    def joined(cls, places: Sequence["RowPlaces"]) -> Self:
        """Return several places as one, in this order."""
        starts = np.cumsum([0, *(len(each.sources) for each in places)])
        numbers = [each.numbers + np.int32(start) for each, start in zip(places, starts, strict=False)]
        return cls(
            tuple(source for each in places for source in each.sources),
            np.concatenate([np.empty(0, np.int32), *numbers]),
            np.concatenate([np.empty(0, np.int64), *(each.rows for each in places)]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: slice | NDArray[Any]) -> "RowPlaces":
        """Return the places of some of the rows."""
        return RowPlaces(self.sources, self.numbers[chosen], self.rows[chosen])

    def read(self, tap: str, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the rows of a tap, shape (n, width); consecutive rows of one source are read together."""
        out = np.empty((len(self), width), dtype)
        goes_on = (np.diff(self.numbers) == 0) & (np.diff(self.rows) == 1)
        edges = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(self)]
        for start, end in pairwise(edges if len(self) else ()):
            out[start:end] = self.sources[self.numbers[start]].read(tap, int(self.rows[start]), end - start)
        return out


class FeatureFile:
    """An open cache file; it keeps its rows if its name is removed or replaced. Threads may share it.

    Parameters
    ----------
    path
        Its name, for messages.
    blocks
        The places of features and checksums in it.
    descriptor
        The open file; it is closed when nothing refers to this object.
    remedy
        The end of the message on damaged features.
    """

    def __init__(self, path: Path, blocks: Mapping[str, FeatureBlock], descriptor: int, remedy: str) -> None:
        self.path = path
        self.blocks = blocks
        self._descriptor = descriptor
        self._remedy = remedy
        self._sound: set[tuple[str, int]] = set()
        self._close = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open_part(cls, path: Path, part: Part, remedy: str) -> Self:
        """Open a part; raise `OSError` if it cannot be read, and `CacheFormatError` if it is another file."""
        with open_regular(path) as stream:
            file = cls(path, part.blocks, os.dup(stream.fileno()), remedy)
            size = os.fstat(stream.fileno()).st_size
        if size != part.size:
            raise CacheFormatError(f"it has {size:,} bytes, expected {part.size:,}")
        if file.digest() != part.sha256:
            raise CacheFormatError("its header or its checksums are others")
        return file

    @property
    def taps(self) -> list[str]:
        """The names of the taps."""
        return [name for name in self.blocks if f"checksums/{name}" in self.blocks]

    @cached_property
    def map(self) -> MappedFile:
        """The file, mapped into memory."""
        return MappedFile.from_descriptor(self._descriptor, self.path)

    def close(self) -> None:
        """Close the file; a map of it that arrays are views of stays until they are gone."""
        self._close()
        self._descriptor = -1  # its number may become that of another file
        if "map" in vars(self):
            with suppress(BufferError):
                self.map.close()

    def view(self, tap: str, rows: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return consecutive rows of a tap, memory-mapped; a copy if they are stored in another type."""
        return self.blocks[tap].mapped(self.map)[rows].astype(dtype, copy=False)

    def digest(self) -> str:
        """Return the SHA-256 of header and checksums, by the names of the taps: they determine every byte."""
        digest = hashlib.sha256(read_at(self._descriptor, HEADER_BYTES, 0))
        for tap in sorted(self.taps):
            sums = self.blocks[f"checksums/{tap}"]
            digest.update(read_at(self._descriptor, sums.size, sums.offset))
        return digest.hexdigest()

    def as_part(self, file: str) -> Part:
        """Describe this file as a part with the given file name."""
        rows = self.blocks[self.taps[0]].rows
        return Part(file, rows, os.fstat(self._descriptor).st_size, self.digest(), self.blocks)

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return a copy of ``count`` rows from row ``start`` on, as stored, shape (count, d).

        The first read of a block compares it with its checksum.

        Raises
        ------
        CacheFormatError
            If a block is damaged.
        """
        for number in range(start // BLOCK_ROWS, -(-(start + count) // BLOCK_ROWS)):
            if (tap, number) not in self._sound:
                if not self._is_sound(tap, number):
                    raise CacheFormatError(f"{self.path} is damaged: {self._damage(tap, number)}")
                self._sound.add((tap, number))
        return self.blocks[tap].read(self._descriptor, start, count)

    def places(self, start: int, count: int) -> RowPlaces:
        """Return the places of consecutive rows: in this file."""
        return RowPlaces.in_one(self, start, count)

    def read_into(self, tap: str, start: int, out: memoryview) -> None:
        """Fill ``out`` with the bytes of rows from row ``start`` on; checksums are not compared.

        Raises
        ------
        CacheFormatError
            If the file cannot be read.
        """
        block = self.blocks[tap]
        offset = block.offset + start * block.row_bytes
        while out:
            try:
                count = read_into_at(self._descriptor, out[:_READ_BYTES], offset)
            except OSError as e:
                raise CacheFormatError(f"{self.path} cannot be read: {(e.strerror or str(e)).lower()}") from e
            if not count:
                raise CacheFormatError(f"{self.path} ends within its features; {self._remedy}")
            out, offset = out[count:], offset + count

    def read_ahead(self, tap: str, start: int, count: int) -> None:
        """Ask the system to read rows into memory in the background."""
        block = self.blocks[tap]
        read_ahead(self._descriptor, block.offset + start * block.row_bytes, count * block.row_bytes)

    def problems(self, progress: Callable[[int, int], object] = lambda *_: None) -> list[str]:
        """Return one line for each block that does not match its checksum; reads every feature once.

        ``progress`` is called after every block with the number of blocks that are done, and of all.
        """
        blocks = [(tap, number) for tap in self.taps for number in range(self.blocks[f"checksums/{tap}"].rows)]
        found = []
        for done, (tap, number) in enumerate(blocks, 1):
            if not self._is_sound(tap, number):
                found.append(self._damage(tap, number))
            progress(done, len(blocks))
        return found

    def _is_sound(self, tap: str, number: int) -> bool:
        """Return whether a block of rows matches its checksum."""
        block, sums = self.blocks[tap], self.blocks[f"checksums/{tap}"]
        digest = hashlib.sha256()
        for first, count in pieces(number * BLOCK_ROWS, min((number + 1) * BLOCK_ROWS, block.rows), block):
            digest.update(block.read(self._descriptor, first, count).data)
        recorded: bytes = sums.read(self._descriptor, number, 1)[0, 0]
        return digest.hexdigest().encode("ascii") == recorded

    def _damage(self, tap: str, number: int) -> str:
        last = min((number + 1) * BLOCK_ROWS, self.blocks[tap].rows) - 1
        return f"features/{tap}: rows {number * BLOCK_ROWS} to {last} are damaged; {self._remedy}"


def pieces(start: int, end: int, block: FeatureBlock) -> Iterator[tuple[int, int]]:
    """Split rows into parts that fit in memory; yield the first row and the number of rows of each part."""
    rows = max(1, _PIECE_BYTES // block.row_bytes)
    for first in range(start, end, rows):
        yield first, min(rows, end - first)
