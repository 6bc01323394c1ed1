"""Makes caches of wide random features, for benchmarks without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurecache.format.feature_file import RowPlaces
from featurecache.format.file_records import FileRecord, FileRecordColumns, failure_columns, image_columns
from featurecache.format.layout import CacheIndex
from featurecache.images.decode import DECODE_VERSION
from featurecache.images.manifest import ImageEntry
from featurecache.packing import pack
from featurecache.recipe import Recipe

WIDTH = 4_096


@dataclass(frozen=True)
class _Features:
    """A source of rows that look like the output of a ReLU, around the centres of classes (k, d) that take turns."""

    centres: NDArray[np.float32]

    def read(self, tap: str, start: int, count: int) -> NDArray[np.float32]:
        """Return rows (count, d); each is drawn from its own number."""
        del tap
        rows = np.empty((count, self.centres.shape[1]), np.float32)
        for number in range(count):
            np.random.default_rng(start + number).standard_normal(out=rows[number], dtype=np.float32)
            rows[number] += self.centres[(start + number) % len(self.centres)]
        return np.maximum(rows, 0, out=rows)


def write_cache(path: Path, centres: NDArray[np.float32], labels: Sequence[int], splits: Sequence[str]) -> None:
    """Write a cache of one tap, fc2; row i belongs to the centre i modulo k, whatever its label.

    Parameters
    ----------
    path
        The file to make.
    centres
        Shape (k, 4096), float32.
    labels, splits
        Of each row, which is named by its number.
    """
    classes, width = centres.shape
    _write(path, _Features(centres), (classes, width), labels, splits)


@dataclass(frozen=True)
class _Rows:
    """A source of rows (n, d) that lie in memory."""

    X: NDArray[np.float32]

    def read(self, tap: str, start: int, count: int) -> NDArray[np.float32]:
        """Return rows (count, d)."""
        del tap
        return self.X[start : start + count]


def write_rows(path: Path, X: NDArray[np.float32], labels: Sequence[int], splits: Sequence[str]) -> None:
    """Write a cache of one tap, fc2, of given features (n, d), float32, whose rows are ordered by split."""
    _write(path, _Rows(X), (max(labels) + 1, X.shape[1]), labels, splits)


def write_split(path: Path, X: NDArray[np.float32], y: NDArray[np.int64], *, valid_share: float) -> None:
    """Write a cache of given features (n, d) and classes (n,), of which a part, drawn at random, is valid."""
    valid = np.random.default_rng(0).random(len(y)) < valid_share
    order = np.argsort(valid, kind="stable")
    write_rows(path, X[order], y[order].tolist(), np.where(valid[order], "valid", "train").tolist())


def features_of(file: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return ``X`` (n, d) and ``y`` (n,) of an ``.npz`` file."""
    with np.load(file) as arrays:
        return arrays["X"].astype(np.float32), arrays["y"].astype(np.int64)


def _write(
    path: Path, source: _Features | _Rows, shape: tuple[int, int], labels: Sequence[int], splits: Sequence[str]
) -> None:
    classes, width = shape
    recipe = Recipe(
        decode_version=DECODE_VERSION,
        resize="squash",
        filter="bilinear",
        backbone="vgg16",
        weights="random:0",
        input_size=(224, 224),
        preprocessing="caffe",
        taps={"fc2": width},
        precision="float32",
        dtype="float32",
    )
    entries = [ImageEntry(f"{n:07d}.jpg", *given) for n, given in enumerate(zip(labels, splits, strict=True))]
    found = FileRecordColumns(FileRecord(entry.path, 1, n, f"{n + 1:064x}") for n, entry in enumerate(entries))
    index = CacheIndex(
        recipe=recipe,
        provenance="{}",
        classes=tuple(f"class {number}" for number in range(classes)),
        images=image_columns(entries, found, np.arange(len(entries))),
        failures=failure_columns(entries, found, np.arange(0)),
    )
    places = RowPlaces.in_one(source, 0, len(entries))
    pack(path, index, places, replace=False, scratch=path.parent)
