"""Memory-mapped cache files: reading ahead in them, and arrays that are pickled as places in them."""

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featurecache.errors import CacheFormatError
from featurecache.format.header import HEADER_BYTES
from featurecache.storage.files import open_regular
from featurecache.storage.platform import read_map_ahead


class MappedFile(mmap.mmap):
    """The bytes of a cache file, read-only.

    Attributes
    ----------
    path : Path
        The absolute path under which the file was opened.
    identity : str
        The SHA-256 of the file's header, which holds that of its structure and index.
    """

    path: Path
    identity: str

    @classmethod
    def from_descriptor(cls, descriptor: int, path: Path) -> Self:
        """Map an open cache file."""
        mapped = cls(descriptor, 0, access=mmap.ACCESS_READ)
        mapped.path = path.absolute()
        mapped.identity = hashlib.sha256(mapped[:HEADER_BYTES]).hexdigest()
        return mapped

    @classmethod
    def reopen(cls, path: Path, identity: str) -> Self:
        """Map the file at a path; raise `CacheFormatError` if it cannot be opened or has another identity."""
        try:
            with open_regular(path) as stream:
                mapped = cls.from_descriptor(stream.fileno(), path)
        except (OSError, ValueError) as e:  # an empty file cannot be mapped
            reason = (getattr(e, "strerror", None) or str(e)).lower()
            raise CacheFormatError(f"the features in {path} cannot be mapped again: {reason}; put the file back") from e
        return mapped.require(identity)

    def require(self, identity: str) -> Self:
        """Return this file; raise `CacheFormatError` if its identity is another."""
        if self.identity != identity:
            raise CacheFormatError(f"{self.path} was replaced after it was pickled; open the cache and pickle it again")
        return self


def mapping_of(array: NDArray[Any]) -> mmap.mmap | None:
    """Return the mapped file that an array is a view of; None if it is not one."""
    base: Any = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def read_pages_ahead(array: NDArray[Any]) -> None:
    """Ask the system to read the pages of a mapped array in the background; an array in memory is left alone."""
    mapped = mapping_of(array)
    if mapped is None or not array.size:
        return
    first, last = (bound - _address(mapped) for bound in np.lib.array_utils.byte_bounds(array))
    start = first - first % mmap.PAGESIZE
    read_map_ahead(mapped, start, last - start)


def _address(mapped: mmap.mmap) -> int:
    """Return where a mapped file lies in memory."""
    return int(np.frombuffer(mapped, np.uint8).__array_interface__["data"][0])


@dataclass(frozen=True, slots=True)
class ArrayPlace:
    """The place of an array in a cache file; it is pickled instead of the values.

    Parameters
    ----------
    path, identity
        The file; see `MappedFile`.
    dtype, shape, offset, strides
        The array; the offset is that of its first value, in bytes.
    """

    path: Path
    identity: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...]

    @classmethod
    def find(cls, array: NDArray[Any]) -> Self | None:
        """Return the place of an array; None if it is no view of a mapped file, or its file was replaced."""
        mapped = mapping_of(array)
        if not isinstance(mapped, MappedFile) or not array.size:
            return None
        try:
            MappedFile.reopen(mapped.path, mapped.identity)
        except CacheFormatError:
            return None
        offset = array.__array_interface__["data"][0] - _address(mapped)
        return cls(mapped.path, mapped.identity, array.dtype, array.shape, offset, array.strides)

    def array(self) -> NDArray[Any]:
        """Map the array again, read-only.

        Raises
        ------
        CacheFormatError
            If the file is not there, or is another one.
        """
        mapped = MappedFile.reopen(self.path, self.identity)
        return np.ndarray(self.shape, self.dtype, mapped, self.offset, self.strides)
