"""Checks the objects of HDF5 files before anything in them is trusted; a file that fails is a `CacheFormatError`."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from featurecache.errors import CacheFormatError
from featurecache.format.header import CACHE_FORMAT, FORMAT_VERSION, read_header
from featurecache.storage.platform import read_at

TEXT = h5py.string_dtype("utf-8")
ATTRIBUTES = frozenset({"format", "format_version", "fingerprint"})

_READ_ROWS = 1 << 16
_TEXT_REFERENCE = 16  # bytes per variable-length string in a dataset: length, address of its heap, index in the heap


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """The place of one tap's features in a file: ``rows`` x ``width`` values of ``dtype`` from ``offset`` on."""

    offset: int
    rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_bytes

    def read(self, descriptor: int, start: int, count: int) -> NDArray[Any]:
        """Read ``count`` rows from row ``start`` on from an open file, shape (count, width)."""
        data = read_at(descriptor, count * self.row_bytes, self.offset + start * self.row_bytes)
        if len(data) != count * self.row_bytes:
            raise CacheFormatError(f"the file ends within its features, at row {start + len(data) // self.row_bytes}")
        return np.frombuffer(data, dtype=self.dtype).reshape(count, self.width)

    def mapped(self, file: mmap) -> NDArray[Any]:
        """Return all rows as a view of the mapped file, shape (rows, width), which keeps the map open."""
        # with np.ndarray(…, file) the map could be closed
        return np.frombuffer(file, self.dtype, self.rows * self.width, self.offset).reshape(self.rows, self.width)


@contextmanager
def opened(stream: BinaryIO, kind: str) -> Iterator[tuple[h5py.File, "Checks"]]:
    """Open a file as HDF5 and check its header and attributes; errors of HDF5 become `CacheFormatError`."""
    what = f"{stream.name} is not a {'cache' if kind == CACHE_FORMAT else 'shard'} that can be read"
    try:
        expected, spans = read_header(stream) if kind == CACHE_FORMAT else (FORMAT_VERSION, [])
        with h5py.File(stream, "r") as file:
            check = Checks(stream.fileno(), os.fstat(stream.fileno()).st_size, expected, spans)
            found = file.attrs.get("format")
            check.that(found == kind, f"its format is {found!r}, expected {kind!r}")
            version = file.attrs.get("format_version")
            check.that(version == expected, f"its format version is {version}, expected {expected}")
            check.that(set(file.attrs) == ATTRIBUTES, f"its attributes are {sorted(file.attrs)}")
            yield file, check
    except CacheFormatError as e:
        raise CacheFormatError(f"{what}: {e}") from e
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as e:
        raise CacheFormatError(f"{what}: {str(e).splitlines()[0]}") from e


class Checks:
    """Checks of one file; the first one that fails raises `CacheFormatError`.

    Parameters
    ----------
    descriptor, size
        The open file, and its size in bytes.
    version, spans
        The version of the format, and the spans of features and checksums, from the header.
    """

    def __init__(self, descriptor: int, size: int, version: int, spans: list[list[int]]) -> None:
        self._descriptor = descriptor
        self._size = size
        self.version = version
        self.spans = spans

    def that(self, condition: bool, fault: str) -> None:  # noqa: FBT001 - reads as a sentence: check.that(...)
        """Raise `CacheFormatError`, naming the fault, unless a condition holds."""
        if not condition:
            raise CacheFormatError(fault)

    def members(self, group: h5py.Group, names: set[str]) -> None:
        """Check that a group has exactly these members, and that all are hard links."""
        self.that(isinstance(group, h5py.Group), "a dataset is in the place of a group")
        found = set(group)
        self.that(all(isinstance(name, str) for name in found), f"{group.name} has a name that is not UTF-8")
        self.that(found == names, f"{group.name} holds {sorted(found)}, expected {sorted(names)}")
        links = group.id.links
        for name in names:
            is_hard = links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD
            self.that(is_hard, f"{group.name}/{name} is a soft or external link")

    def dataset(
        self, file: h5py.File, name: str, shape: tuple[int, ...] | None, dtype: np.dtype[Any]
    ) -> h5py.h5d.DatasetID:
        """Check the storage, type and shape of a dataset before it is read; ``shape`` None means any length.

        Returns HDF5's own object: h5py's `Dataset` takes three times as long to open.
        """
        data = h5py.h5o.open(file.id, name.encode())
        self.that(isinstance(data, h5py.h5d.DatasetID), f"{name} is not a dataset")
        properties = data.get_create_plist()
        self.that(
            properties.get_layout() == h5py.h5d.CONTIGUOUS
            and properties.get_external_count() == 0
            and properties.get_nfilters() == 0,
            f"{name} is not contiguous and uncompressed in this file",
        )
        found = data.dtype
        if found != dtype or h5py.check_string_dtype(found) != h5py.check_string_dtype(dtype):
            raise CacheFormatError(f"{name} is of type {_type_name(found)}, expected {_type_name(dtype)}")
        space = data.get_space()
        size = space.get_simple_extent_npoints()
        self.that(space.get_simple_extent_type() != h5py.h5s.NULL, f"{name} has no shape")
        self.that(
            len(space.shape) == 1 if shape is None else space.shape == shape, f"{name} has the shape {space.shape}"
        )
        stored, offset = data.get_storage_size(), data.get_offset()
        value_size = _TEXT_REFERENCE if dtype is TEXT else dtype.itemsize
        self.that(
            stored == size * value_size,
            f"{name} declares {size} values, and {stored // value_size} are stored",
        )
        self.that((offset or 0) + stored <= self._size, f"{name} extends beyond the end of the file")
        if dtype is TEXT and stored:
            references = np.frombuffer(read_at(self._descriptor, stored, offset), "<u4").reshape(-1, 4)
            length = int(references[:, 0].astype(np.int64).sum())
            self.that(length <= self._size, f"{name} declares {length} bytes of text, the file has {self._size}")
        return data

    def text(self, file: h5py.File, name: str) -> str:
        """Check and read a dataset with one text."""
        return str(h5py.Dataset(self.dataset(file, name, (), TEXT)).asstr()[()])

    def column(self, file: h5py.File, name: str, dtype: np.dtype[Any], rows: int | None) -> NDArray[Any]:
        """Check and read a column of so many rows, or of any length if None."""
        data = self.dataset(file, name, None if rows is None else (rows,), dtype)
        if dtype is not TEXT:
            values: NDArray[Any] = np.empty(data.shape, dtype)
            data.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            return values
        text, texts = h5py.Dataset(data).asstr(), np.empty(data.shape, dtype=object)
        for start in range(0, len(texts), _READ_ROWS):  # h5py needs as much memory again for what it reads at a time
            texts[start : start + _READ_ROWS] = text[start : start + _READ_ROWS]
        return texts

    def columns(
        self,
        file: h5py.File,
        name: str,
        types: Mapping[str, np.dtype[Any]],
        first: str = "path",
        groups: tuple[str, ...] = (),
    ) -> dict[str, NDArray[Any]]:
        """Read columns of the length of the first one; the group may hold other groups."""
        self.members(file[name], {*types, *groups})
        rows = len(file[name][first])
        return {column: self.column(file, f"{name}/{column}", dtype, rows) for column, dtype in types.items()}

    def block(self, file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> FeatureBlock:
        """Check a dataset and return its place; none of its rows is read."""
        data = self.dataset(file, name, shape, dtype)
        return FeatureBlock(data.get_offset() or 0, shape[0], shape[1] if len(shape) > 1 else 1, dtype)


def _type_name(dtype: np.dtype[Any]) -> str:
    text = h5py.check_string_dtype(dtype)
    return (
        str(dtype) if text is None else f"text in {text.encoding}" + (f", length {text.length}" if text.length else "")
    )
