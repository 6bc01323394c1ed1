"""Rows of features that are read when they are asked for: in the parts of a cache, or of a memory map.

What reads files is imported on use, so that heads are loaded without h5py.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from featurecache.errors import CacheFormatError, OptionError
from featurecache.format.mapped_file import ArrayPlace, read_pages_ahead

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from featurecache.format.feature_file import FeatureFile, RowPlaces
    from featurecache.format.layout import Part
    from featurecache.recipe import Recipe

_OPEN_PARTS = 64  # files open at a time; a process may have 1,024, and a cache more parts
_GAP_BYTES = 32_768  # rows with less than this between them are read together
_PIECE_BYTES = 4_000_000  # of rows that are read together and copied
_COPIED_BYTES = 2**29  # of chosen or converted rows of an array; more are read when they are indexed

Selection: TypeAlias = slice | NDArray[np.bool_] | NDArray[np.integer[Any]]


def parts_folder(cache_path: Path) -> Path:
    """Return the folder of the parts of a cache, ``photos.parts`` for ``photos.h5``.

    Raises
    ------
    OptionError
        If the cache's name does not end in ``.h5``: two caches could have the same folder.
    """
    if cache_path.suffix != ".h5":
        raise OptionError(f"{cache_path.name} cannot be a cache in parts: its name must end in .h5; choose another one")
    return cache_path.with_suffix(".parts")


@dataclass(frozen=True, eq=False)
class PartFile:
    """A part of a cache; its file is opened when rows are read.

    Parameters
    ----------
    files
        The parts of the cache.
    number
        Its place among them.
    """

    files: PartFiles
    number: int

    @property
    def part(self) -> Part:
        """What the index says of it."""
        return self.files.parts[self.number]

    @property
    def path(self) -> Path:
        """Its file."""
        return self.files.folder / self.part.file

    def as_part(self, file: str) -> Part:
        """Describe it as a part with another file name."""
        return replace(self.part, file=file)

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return rows as `FeatureFile.read` does."""
        return self.files.file(self.number).read(tap, start, count)


class PartFiles:
    """The files of a cache in parts; a limited number of them is open. Threads may share it.

    Parameters
    ----------
    index_path
        The index, an absolute path.
    parts
        What it says of its parts.
    """

    def __init__(self, index_path: Path, parts: tuple[Part, ...]) -> None:
        self.index_path = index_path
        self.folder = parts_folder(index_path)
        self.parts = parts
        self.starts = np.cumsum([0, *(part.rows for part in parts)], dtype=np.int64)
        self._opened: OrderedDict[int, FeatureFile] = OrderedDict()
        self._mutex = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names of the files."""
        return type(self), (self.index_path, self.parts)

    @cached_property
    def sources(self) -> tuple[PartFile, ...]:
        """The parts, as sources of rows."""
        return tuple(PartFile(self, number) for number in range(len(self.parts)))

    def file(self, number: int) -> FeatureFile:
        """Open a part, if it is not open.

        Raises
        ------
        CacheFormatError
            If it is not there, or is not the part that the index names.
        """
        with self._mutex:
            file = self._opened.pop(number, None) or self._open(number)
            self._opened[number] = file  # the last one is the one that was used last
            while len(self._opened) > _OPEN_PARTS:
                self._opened.popitem(last=False)  # its descriptor is closed when nobody reads from it
            return file

    def close(self) -> None:
        """Close the parts that are open."""
        with self._mutex:
            while self._opened:
                self._opened.popitem()[1].close()

    def require(self) -> None:
        """Raise `CacheFormatError` if a part is missing or has another size, naming the first one."""
        for part in self.parts:
            try:
                size = (self.folder / part.file).stat().st_size
            except OSError as e:
                raise self._unreadable(part, e) from e
            if size != part.size:
                raise self._exchanged(part, f"it has {size:,} bytes, expected {part.size:,}")

    def is_sound(self, number: int) -> bool:
        """Whether a part is there, with the header and the checksums that the index names."""
        try:
            self.file(number)
        except CacheFormatError:
            return False
        return True

    def _open(self, number: int) -> FeatureFile:
        from featurecache.format.feature_file import FeatureFile

        part = self.parts[number]
        try:
            return FeatureFile.open_part(self.folder / part.file, part, f"move it away and {_again(part)}")
        except OSError as e:
            raise self._unreadable(part, e) from e
        except CacheFormatError as e:
            raise self._exchanged(part, str(e)) from e

    def _unreadable(self, part: Part, cause: OSError) -> CacheFormatError:
        reason = "is missing" if isinstance(cause, FileNotFoundError) else f"cannot be read ({cause.strerror})"
        return CacheFormatError(
            f"the part {self.folder / part.file} of {self.index_path} {reason}; put it back, or {_again(part)}"
        )

    def _exchanged(self, part: Part, fault: str) -> CacheFormatError:
        return CacheFormatError(
            f"{self.folder / part.file} is not the part that {self.index_path} names: {fault}; put the right file "
            f"back, or move this one away and {_again(part)}"
        )


class Parts:
    """The features of a cache in parts: those of row ``i`` are at ``positions[i]`` among the rows of all parts."""

    def __init__(self, files: PartFiles, recipe: Recipe, positions: NDArray[np.int64]) -> None:
        self.files = files
        self.recipe = recipe
        self.positions = positions

    def close(self) -> None:
        """Close the parts that are open."""
        self.files.close()

    def places(self, start: int, count: int) -> RowPlaces:
        """Return the places of consecutive rows: the part that holds each, and its number there."""
        from featurecache.format.feature_file import RowPlaces

        positions = self.positions[start : start + count]
        numbers = np.searchsorted(self.files.starts, positions, "right") - 1
        return RowPlaces(self.files.sources, numbers.astype(np.int32), positions - self.files.starts[numbers])

    def view(self, tap: str, rows: slice, dtype: np.dtype[Any]) -> Rows:
        """Return consecutive rows of a tap, which are read when they are indexed."""
        source = TapOfParts(self.files, tap, self.recipe.taps[tap], self.recipe.stored_dtype(tap))
        return Rows(source, dtype, self.positions[rows])

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return rows as they are stored; the first read of a block compares it with its checksum."""
        return self.places(start, count).read(tap, self.recipe.taps[tap], self.recipe.stored_dtype(tap))

    def sound(self) -> tuple[Parts, NDArray[np.intp]]:
        """Return the rows of the parts that are there: their places, and their numbers."""
        is_sound = np.array([self.files.is_sound(number) for number in range(len(self.files.parts))], dtype=bool)
        left = PartFiles(self.files.index_path, tuple(compress(self.files.parts, is_sound)))
        moved = np.zeros(len(is_sound), np.int64)
        moved[is_sound] = left.starts[:-1] - self.files.starts[:-1][is_sound]
        numbers = np.searchsorted(self.files.starts, self.positions, "right") - 1
        rows = np.flatnonzero(is_sound[numbers])
        return Parts(left, self.recipe, (self.positions + moved[numbers])[rows]), rows


class Source(Protocol):
    """Gives rows of features, by their positions, for `Rows`."""

    @property
    def width(self) -> int:
        """Features of a row."""
        ...

    def read(self, positions: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Fill ``out``, (m, d), with the rows at these positions, (m,)."""
        ...

    def read_ahead(self, positions: NDArray[np.int64]) -> None:
        """Ask the system to read, in the background, from the first to the last of these positions, at least one."""
        ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """An array or a memory map of which rows are read, shape (n, d)."""

    array: NDArray[Any]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an array that is mapped in a cache file as its place there."""
        return _array_source, (ArrayPlace.find(self.array) or self.array,)

    @property
    def width(self) -> int:
        """See `Source`."""
        return int(self.array.shape[1])

    def read(self, positions: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See `Source`."""
        if self.array.dtype == out.dtype:
            np.take(self.array, positions, axis=0, out=out, mode="clip")  # this mode needs no second buffer
        else:
            out[...] = self.array[positions]

    def read_ahead(self, positions: NDArray[np.int64]) -> None:
        """See `Source`."""
        read_pages_ahead(self.array[positions.min() : positions.max() + 1])


@dataclass(frozen=True, eq=False)
class TapOfParts:
    """The features of one tap in all parts: rows that lie near each other are read together, in the order of the files.

    Parameters
    ----------
    files
        The parts.
    tap, width, dtype
        The layer, its width and the type in which it is stored.
    """

    files: PartFiles
    tap: str
    width: int
    dtype: np.dtype[Any]

    def read(self, positions: NDArray[np.int64], out: NDArray[Any]) -> None:
        """See `Source`."""
        order: NDArray[np.intp] | None = None
        if (positions[1:] < positions[:-1]).any():
            order = np.argsort(positions, kind="stable")
            positions = positions[order]
        row_bytes = self.width * self.dtype.itemsize
        straight = out.dtype == self.dtype and out.flags.c_contiguous
        content = out.reshape(-1).view(np.uint8).data if straight else memoryview(b"")
        for begin, end, number, first, count in self._runs(positions, row_bytes):
            file = self.files.file(number)
            target = begin if order is None else int(order[begin])
            if straight and count == end - begin and (order is None or count == 1):
                file.read_into(self.tap, first, content[target * row_bytes : (target + count) * row_bytes])
            else:
                span = np.empty((count, self.width), self.dtype)
                file.read_into(self.tap, first, span.reshape(-1).view(np.uint8).data)
                wanted = positions[begin:end] - positions[begin]
                out[slice(begin, end) if order is None else order[begin:end]] = span[wanted]

    def read_ahead(self, positions: NDArray[np.int64]) -> None:
        """See `Source`."""
        starts, first, last = self.files.starts, int(positions.min()), int(positions.max())
        for number in range(*np.searchsorted(starts, (first, last), "right") - (1, 0)):
            begin = max(first, int(starts[number]))
            count = min(last + 1, int(starts[number + 1])) - begin
            self.files.file(number).read_ahead(self.tap, begin - int(starts[number]), count)

    def _runs(self, positions: NDArray[np.int64], row_bytes: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Split ascending positions into runs that are read at once, each of one part.

        Yield the places of the first position of a run and of the next run's, the number of the part, the first row
        there, and how many rows to read.
        """
        if not len(positions):
            return
        near, most = max(1, _GAP_BYTES // row_bytes), max(1, _PIECE_BYTES // row_bytes)
        numbers = np.searchsorted(self.files.starts, positions, "right") - 1
        steps = np.diff(positions)
        # a long run begins again at each multiple of `most`, so that what is read beside the rows fits in memory
        cuts = (steps > near) | (steps == 0) | (np.diff(numbers) > 0) | (np.diff(positions // most) > 0)
        begins = np.concatenate([[0], np.flatnonzero(cuts) + 1])
        ends = np.concatenate([begins[1:], [len(positions)]])
        firsts = positions[begins] - self.files.starts[numbers[begins]]
        counts = positions[ends - 1] - positions[begins] + 1
        runs = (begins, ends, numbers[begins], firsts, counts)
        yield from zip(*(column.tolist() for column in runs), strict=True)


def _again(part: Part) -> str:
    return f"run the command that made the cache with --replace to compute its {part.rows:,} rows again"


class Rows:
    """Features with shape and type of an array, whose values are read by indexing.

    They lie in the parts of a cache, or are rows of a memory map that would take much memory as a copy.

    ``rows[5]``, ``rows[10:20]``, ``rows[mask]``, ``rows[numbers]`` and ``rows[10:20, columns]`` return new arrays, and
    so do `numpy.asarray` and functions of NumPy and scikit-learn, which read everything. Files are read in their order,
    whatever the order of the request. A pickled object is the names of the files and the places in them. Threads may
    share an object.

    Parameters
    ----------
    source
        Gives the rows.
    dtype
        The type of the values that are returned, float16 or float32; stored ones are converted.
    positions
        For each row its position in the source, shape (n,).

    Examples
    --------
    >>> whole = featurecache.merge(folder / "whole.h5", [cache.path], parts=True)
    >>> X = whole.features("features", "train").X
    >>> X
    <Rows: 32 x 16 float32>
    >>> X[:4].shape, X[[5, 3]].shape, np.asarray(X).shape
    ((4, 16), (2, 16), (32, 16))
    """

    ndim = 2

    def __init__(self, source: Source, dtype: DTypeLike, positions: NDArray[np.int64]) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._source = source
        self._positions = positions

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names of the files, and the positions as their place in the index if they are a view of it."""
        positions = ArrayPlace.find(self._positions) or self._positions
        return _rows, (self._source, self.dtype, positions)

    def __repr__(self) -> str:
        return f"<Rows: {len(self)} x {self.shape[1]} {self.dtype}>"

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and features of a row."""
        return len(self._positions), self._source.width

    @property
    def size(self) -> int:
        """The number of values."""
        return len(self) * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all values, once they are read."""
        return self.size * self.dtype.itemsize

    def select(self, rows: Selection) -> Rows:
        """Return the selected rows, in the given order; nothing is read."""
        return Rows(self._source, self.dtype, self._positions[rows])

    def in_type(self, dtype: DTypeLike) -> Rows:
        """Return the same rows, which are converted to another type when they are read."""
        return Rows(self._source, dtype, self._positions)

    def read_ahead(self, rows: slice) -> None:
        """See `read_ahead`."""
        positions = self._positions[rows]
        if len(positions):
            self._source.read_ahead(positions)

    def __getitem__(self, key: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever indexes an array
        """Read rows, or columns of rows."""
        rows, *columns = key if isinstance(key, tuple) else (key,)
        positions = self._positions[rows]
        pairs = columns and not any(isinstance(item, slice | int | np.integer) for item in (rows, *columns))
        if positions.ndim > 1 or len(columns) > 1 or pairs:
            raise IndexError(
                f"features are indexed by rows, or by rows and columns, one a slice or a number; got {key!r}"
            )
        block = self._columns(np.atleast_1d(positions), columns[0]) if columns else self._read(np.atleast_1d(positions))
        return block if positions.ndim else block[0]

    def take(
        self, rows: ArrayLike, axis: int | None = 0, out: NDArray[Any] | None = None, mode: str = "raise"
    ) -> NDArray[Any]:
        """Read rows by their numbers, as `numpy.take` along the first axis does."""
        if axis not in {0, -2}:
            raise IndexError(f"axis is {axis}; rows of features are taken along axis 0")
        return self._read(np.take(self._positions, rows, mode=mode), out)  # type: ignore[call-overload]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's
        """Read everything."""
        if copy is False:
            raise ValueError("these rows of features have no array without a copy")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def _columns(self, positions: NDArray[np.int64], columns: Any) -> NDArray[Any]:  # noqa: ANN401 - as for an array
        """Read columns of the rows at these positions, few whole rows at a time."""
        count = max(1, _PIECE_BYTES // max(1, self.shape[1] * self.dtype.itemsize))
        starts = range(0, max(1, len(positions)), count)
        return np.concatenate([self._read(positions[start : start + count])[:, columns] for start in starts])

    def _read(self, positions: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read the rows at these positions, in this order."""
        found = np.empty((len(positions), self._source.width), self.dtype) if out is None else out
        self._source.read(positions, found)
        return found


def _rows(source: Source, dtype: np.dtype[Any], positions: ArrayPlace | NDArray[np.int64]) -> Rows:
    """Return rows that were pickled."""
    return Rows(source, dtype, positions.array() if isinstance(positions, ArrayPlace) else positions)


def _array_source(array: ArrayPlace | NDArray[Any]) -> ArraySource:
    """Return the source of rows that were pickled."""
    return ArraySource(array.array() if isinstance(array, ArrayPlace) else array)


def selected(X: NDArray[Any] | Rows, rows: Selection) -> Any:  # noqa: ANN401 - an array in, an array out
    """Return chosen rows of features (n, d): of an array a view or a copy of at most 512 MiB, else `Rows`."""
    if isinstance(X, Rows):
        return X.select(rows)
    if isinstance(rows, slice):
        return X[rows]
    positions = np.arange(len(X))[rows]
    if len(positions) * X.itemsize * X.shape[1] <= _COPIED_BYTES:
        return X[rows]
    return Rows(ArraySource(X), X.dtype, positions)


def as_float32(X: NDArray[Any] | Rows) -> Any:  # noqa: ANN401 - an array in, an array out
    """Return features (n, d) as float32: the same array, a copy of at most 512 MiB, or `Rows`."""
    if isinstance(X, Rows):
        return X.in_type(np.float32)
    if X.dtype == np.float32 or X.size * np.dtype(np.float32).itemsize <= _COPIED_BYTES:
        return X.astype(np.float32, copy=False)
    return Rows(ArraySource(X), np.float32, np.arange(len(X)))


def read_ahead(X: NDArray[Any] | Rows, rows: slice) -> None:
    """Ask the system to read rows of features in files in the background; they are needed next."""
    if isinstance(X, Rows):
        X.read_ahead(rows)
    else:
        read_pages_ahead(X[rows])
