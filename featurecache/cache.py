"""A finished cache, read only: its index in memory, its features memory-mapped, and how it is packed."""

import hashlib
import json
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from featurecache import layout
from featurecache.errors import CacheFormatError, UnknownNameError
from featurecache.files import open_regular
from featurecache.layout import BLOCK_ROWS, CacheIndex, FeatureBlock
from featurecache.publish import publishing
from featurecache.recipe import Recipe

_PIECE_BYTES = 4_000_000  # read and written at a time


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSet:
    """The features of one tap with all that must never come apart from them.

    Parameters
    ----------
    X
        Features, shape (n, d), float32; a read-only memory map of the cache file.
    y
        Class indices into ``classes``, shape (n,), int64; -1 is an image without a label.
    paths, splits, sha256
        Relative path, split and content hash (64 hexadecimal digits) of every row, shape (n,), `str` objects.
    classes
        Class names, in the order of the indices.
    split
        The split that was asked for; None if all rows were.
    tap
        The layer that the features come from.
    recipe
        What determined the features.
    """

    X: NDArray[np.float32]
    y: NDArray[np.int64]
    paths: NDArray[np.object_]
    splits: NDArray[np.object_]
    sha256: NDArray[np.object_]
    classes: tuple[str, ...]
    split: str | None
    tap: str
    recipe: Recipe

    def __len__(self) -> int:
        return len(self.y)

    @property
    def fingerprint(self) -> str:
        """The recipe's fingerprint."""
        return self.recipe.fingerprint

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.integer]) -> "FeatureSet":
        """Return some rows, in the order given; a slice copies nothing."""
        return replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            paths=self.paths[rows],
            splits=self.splits[rows],
            sha256=self.sha256[rows],
        )


class FeatureCache:
    """An immutable cache file: no lock, safe to share between threads and processes.

    Open one with `FeatureCache.open`. A cache that is replaced on disk while it is open goes on showing what it
    showed.
    """

    def __init__(self, path: Path, index: CacheIndex, blocks: Mapping[str, FeatureBlock], descriptor: int) -> None:
        self.path = path
        self.index = index
        self._blocks = blocks
        self._descriptor = descriptor
        self._data = np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), dtype=np.uint8)
        self._sound: set[tuple[str, int]] = set()
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Self:
        """Open a cache file and check its structure; no feature is read.

        Raises
        ------
        CacheFormatError
            If there is no such file, or it is damaged, or it is not a cache.
        """
        path = Path(path)
        try:
            with open_regular(path) as stream:
                index, blocks = layout.read_cache(stream)
                descriptor = os.dup(stream.fileno())
        except FileNotFoundError as e:
            if work_directory(path).is_dir():
                raise CacheFormatError(
                    f"there is no cache {path} yet: a run that is at work or was interrupted keeps what it has in "
                    f"{work_directory(path)}; run its command again to finish it"
                ) from e
            raise CacheFormatError(f"there is no cache {path}; make it with: featurecache extract IMAGES {path}") from e
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise CacheFormatError(f"{path} cannot be opened: {reason}; give a file that extract made") from e
        return cls(path, index, blocks, descriptor)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        taps = ", ".join(f"{tap} ({width})" for tap, width in self.taps.items())
        return f"<FeatureCache {str(self.path)!r}: {len(self)} rows, {self.recipe.backbone} {taps}>"

    @property
    def recipe(self) -> Recipe:
        """What determined the features."""
        return self.index.recipe

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What made this file: versions, device, the run's counts; identity does not depend on it."""
        provenance: dict[str, Any] = json.loads(self.index.provenance)
        return provenance

    @property
    def taps(self) -> Mapping[str, int]:
        """Names of the cached layers, to their widths."""
        return self.recipe.taps

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels."""
        return self.index.classes

    @property
    def splits(self) -> dict[str, int]:
        """Number of rows of each split that has any; ``""`` stands for rows in no split."""
        names, counts = np.unique(self.index.images["split"], return_counts=True)
        return {name.decode("ascii"): int(count) for name, count in zip(names, counts, strict=True)}

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of rows of each class."""
        labels = self.index.images["label"]
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return {name: int(count) for name, count in zip(self.classes, counts, strict=True)}

    @property
    def failures(self) -> dict[str, str]:
        """Path of every image that gave no row, to the reason."""
        columns = self.index.failures
        return dict(zip(columns["path"], columns["reason"], strict=True))

    @property
    def leaks(self) -> list[tuple[str, ...]]:
        """Groups of paths with the same content in different splits, in order of their first paths."""
        images = self.index.images
        groups: dict[bytes, list[int]] = {}
        for row, sha256 in enumerate(images["sha256"].tolist()):
            groups.setdefault(sha256, []).append(row)
        return [
            tuple(images["path"][rows].tolist())
            for rows in groups.values()
            if len(rows) > 1 and len(set(images["split"][rows].tolist())) > 1
        ]

    def features(self, tap: str | None = None, split: str | None = None) -> FeatureSet:
        """Return the features of a tap, of all rows or of one split, memory-mapped.

        Parameters
        ----------
        tap
            A cached layer; may be left out if there is only one.
        split
            ``"train"``, ``"valid"``, ``"test"``, or ``""`` for rows in no split; None for all rows.

        Raises
        ------
        UnknownNameError
            If the cache has no such tap or split.
        """
        tap = self.require_tap(tap)
        rows = self._rows_of(split)
        images = self.index.images
        block = self._blocks[tap]
        values = self._data[block.offset : block.offset + block.size].view(block.dtype).reshape(block.rows, block.width)
        return FeatureSet(
            X=values[rows].astype(np.float32, copy=False),
            y=images["label"][rows].astype(np.int64),
            paths=images["path"][rows],
            splits=images["split"][rows].astype(str).astype(object),
            sha256=images["sha256"][rows].astype(str).astype(object),
            classes=self.classes,
            split=split,
            tap=tap,
            recipe=self.recipe,
        )

    def require_tap(self, tap: str | None) -> str:
        """Return the tap of this name, or the only one; raise `UnknownNameError` if there is none."""
        if tap is None and len(self.taps) == 1:
            return next(iter(self.taps))
        if tap is None:
            raise UnknownNameError("tap", "(none given)", self.taps)
        if tap not in self.taps:
            raise UnknownNameError("tap", tap, self.taps)
        return tap

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return a copy of ``count`` rows of a tap from row ``start`` on, as stored, shape (count, d).

        Every checksummed block that they lie in is compared with its checksum when it is first met.

        Raises
        ------
        CacheFormatError
            If one of these blocks is damaged.
        """
        for number in range(start // BLOCK_ROWS, -(-(start + count) // BLOCK_ROWS)):
            if (tap, number) not in self._sound:
                if not self._is_sound(tap, number):
                    raise CacheFormatError(
                        f"{self.path} is damaged: {_damage(tap, number, len(self))}; move it away and run the same "
                        "command again: what it held is computed again"
                    )
                self._sound.add((tap, number))
        return self._blocks[tap].read(self._descriptor, start, count)

    def problems(self) -> list[str]:
        """Return what the block checksums say is damaged; reads every feature once."""
        blocks = range(-(-len(self) // BLOCK_ROWS))
        return [
            _damage(tap, number, len(self)) for tap in self.taps for number in blocks if not self._is_sound(tap, number)
        ]

    def _is_sound(self, tap: str, number: int) -> bool:
        """Whether a block of rows has its checksum."""
        block, sums = self._blocks[tap], self._blocks[f"checksums/{tap}"]
        start, end = number * BLOCK_ROWS, min((number + 1) * BLOCK_ROWS, len(self))
        digest = hashlib.sha256()
        for first, count in _pieces(start, end, block):
            digest.update(block.read(self._descriptor, first, count).data)
        recorded: bytes = sums.read(self._descriptor, number, 1)[0, 0]
        return digest.hexdigest().encode("ascii") == recorded

    def _rows_of(self, split: str | None) -> slice:
        """Return the rows of a split; they lie together."""
        if split is None:
            return slice(0, len(self))
        rows = np.flatnonzero(self.index.images["split"] == split.encode())
        if not len(rows):
            raise UnknownNameError("split", split, (name or "(in no split)" for name in self.splits))
        first, last = int(rows[0]), int(rows[-1])
        if last - first + 1 != len(rows):
            raise CacheFormatError(f"{self.path} is damaged: the rows of the split {split!r} do not lie together")
        return slice(first, last + 1)


def work_directory(cache_path: Path) -> Path:
    """Return where an unfinished run that makes ``cache_path`` keeps what it has."""
    return cache_path.with_name(f"{cache_path.name}.work")


class RowSource(Protocol):
    """Where rows of features can be read from, by position."""

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return ``count`` consecutive rows of a tap, shape (count, d)."""
        ...


@dataclass(frozen=True, slots=True)
class RowPlace:
    """One row: which source holds it, and at which position."""

    source: RowSource
    row: int


def pack(
    path: Path,
    index: CacheIndex,
    places: list[RowPlace],
    *,
    replace: bool,
    scratch: Path,
) -> None:
    """Write a cache file from rows that lie elsewhere, and publish it whole.

    Memory does not depend on the number of rows, but for the index.

    Parameters
    ----------
    index
        All but the features; ``places[i]`` is where the features of its row ``i`` lie.
    replace
        Whether a file that bears the name is replaced; whoever has it open goes on reading it.
    scratch
        A directory on the same file system, for the temporary name.
    """
    with publishing(path, replace=replace, scratch=scratch) as draft:
        blocks = layout.encode_cache(draft, index)
        for tap in index.recipe.taps:
            target, sums = blocks[tap], blocks[f"checksums/{tap}"]
            for number in range(sums.rows):
                digest = hashlib.sha256()
                end = min((number + 1) * BLOCK_ROWS, len(places))
                for first, count in _pieces(number * BLOCK_ROWS, end, target):
                    piece = _gather(places[first : first + count], tap, target)
                    draft.write(piece.data.cast("B"), target.offset + first * target.row_bytes)
                    digest.update(piece.data)
                draft.write(digest.hexdigest().encode("ascii"), sums.offset + number * sums.row_bytes)


def _pieces(start: int, end: int, block: FeatureBlock) -> Iterator[tuple[int, int]]:
    """Yield first row and number of rows of parts that are small enough to hold in memory."""
    rows = max(1, _PIECE_BYTES // block.row_bytes)
    for first in range(start, end, rows):
        yield first, min(rows, end - first)


def _damage(tap: str, number: int, rows: int) -> str:
    return f"features/{tap}: rows {number * BLOCK_ROWS} to {min((number + 1) * BLOCK_ROWS, rows) - 1} are damaged"


def _gather(places: list[RowPlace], tap: str, target: FeatureBlock) -> NDArray[Any]:
    """Read the rows at these places, in this order; neighbours in one source are read together."""
    out = np.empty((len(places), target.width), dtype=target.dtype)
    start = 0
    while start < len(places):
        source, row = places[start].source, places[start].row
        end = start + 1
        while end < len(places) and places[end].source is source and places[end].row == row + end - start:
            end += 1
        out[start:end] = source.read(tap, row, end - start)
        start = end
    return out
