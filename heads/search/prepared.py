"""The rows of one tap and one part as heads take them: mapped into memory, so that no worker holds a copy of them.

Standardised features, and features whose rows do not lie together in the cache, are written to one scratch file:
rows that train first, then those that judge. All other features are mapped where they lie, in the cache.
"""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache
from featurecache.errors import OutputError
from featurecache.publish import FILE_SYSTEM, Draft, output_error
from heads.errors import TrainingError
from heads.rows import Features, Labels, Scaling, Targets, first_not_finite, row_blocks
from heads.search.judging import Judging, identity, labelled_images, rows_of


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """The rows of a cache file that are tried on, as every process opens them for itself.

    Parameters
    ----------
    path
        The cache file.
    judging
        How candidates are judged.
    identity
        What the rows must be; see `heads.search.judging.identity`.
    classes
        Their names.
    y, parts
        Label and part of every row of the cache, shapes (n,); see `heads.search.judging.parts_of`.
    """

    path: Path
    judging: Judging
    identity: str
    classes: tuple[str, ...]
    y: Labels
    parts: NDArray[np.int32]

    def open(self, tap: str) -> FeatureCache:
        """Open the cache; raise `TrainingError` if it no longer holds these rows."""
        cache = FeatureCache.open(self.path)
        if identity(labelled_images(cache, tap), self.judging) != self.identity:
            raise TrainingError(f"{self.path} was replaced while a sweep was at work on it; start another sweep")
        return cache


class Kind(NamedTuple):
    """Which rows a head takes, and how: the part that judges it, the tap, and whether features are standardised."""

    part: int
    tap: str
    standardize: bool


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Rows that are ready to be tried on.

    Parameters
    ----------
    source, kind
        Where they come from, and which they are.
    scratch
        The file that holds their features, float32; None if they are mapped in the cache.
    """

    source: Source
    kind: Kind
    scratch: Path | None

    def labels(self) -> tuple[Labels, Labels]:
        """Return the labels of the rows that train, shape (n,), and of those that judge, (m,)."""
        train, judged = rows_of(self.source.parts, self.kind.part)
        return self.source.y[train], self.source.y[judged]

    def features(self) -> tuple[Features, Features]:
        """Map the features of the rows that train, shape (n, d), and of those that judge, (m, d); read-only."""
        numbers = rows_of(self.source.parts, self.kind.part)
        if self.scratch is None:
            cache = self.source.open(self.kind.tap)
            train, judged = (_Located.of(cache, self.kind.tap, rows).whole() for rows in numbers)
            return train, judged
        X = _mapped(self.scratch, len(numbers[0]) + len(numbers[1]))
        return X[: len(numbers[0])], X[len(numbers[0]) :]


@dataclass(frozen=True, slots=True, eq=False)
class _Located:
    """Rows of one split: the split's features, (n, d), and which of them, ascending."""

    X: Features
    positions: Targets

    @classmethod
    def of(cls, cache: FeatureCache, tap: str, rows: Targets) -> "_Located":
        """Find rows of a cache, all of one split; the features of no other split are touched."""
        splits = cache.index.images["split"]
        first = int(np.flatnonzero(splits == splits[rows[0]])[0])
        return cls(cache.features(tap, splits[rows[0]].decode("ascii")).X, rows - first)

    @property
    def lie_together(self) -> bool:
        """Whether there is no other row between them."""
        return bool(self.positions[-1] - self.positions[0] + 1 == len(self.positions))

    def whole(self) -> Features:
        """Return rows that lie together, without a copy."""
        return self.X[self.positions[0] : self.positions[-1] + 1]


def prepare(source: Source, kind: Kind, folder: Path) -> Prepared:
    """Make rows ready, in a scratch file in ``folder`` if need be.

    The features of rows that neither train nor judge are not touched.

    Raises
    ------
    TrainingError
        If a feature is not finite, naming the image, or the cache is no longer what it was.
    OutputError
        If the scratch file cannot be written; its space is claimed before any row is.
    """
    numbers = rows_of(source.parts, kind.part)
    if not kind.standardize and _lie_ready(source, kind.tap, numbers):
        return Prepared(source, kind, None)
    scratch = folder / "rows.f32"
    with _written(scratch) as draft:
        _copy(source, kind.tap, numbers, draft)  # when it returns, the cache is no longer mapped
        if kind.standardize:
            _standardise(_mapped(scratch, sum(map(len, numbers))), len(numbers[0]), draft)
    return Prepared(source, kind, scratch)


def _lie_ready(source: Source, tap: str, numbers: tuple[Targets, Targets]) -> bool:
    """Whether heads can take these rows as they lie in the cache; if they can, they are finite."""
    cache = source.open(tap)
    if cache.recipe.dtype != "float32":
        return False
    located = [_Located.of(cache, tap, rows) for rows in numbers]
    if not all(each.lie_together for each in located):
        return False
    for each, rows in zip(located, numbers, strict=True):
        _require_finite(cache, each.whole(), rows)
    return True


def _copy(source: Source, tap: str, numbers: tuple[Targets, Targets], draft: Draft) -> None:
    """Write the features of rows one after the other, float32."""
    cache = source.open(tap)
    row_bytes = cache.taps[tap] * np.dtype(np.float32).itemsize
    draft.reserve(sum(map(len, numbers)) * row_bytes)
    offset = 0
    for rows in numbers:
        located = _Located.of(cache, tap, rows)
        for some in row_blocks(np.broadcast_to(np.float32(), (len(rows), cache.taps[tap]))):
            block = located.X[located.positions[some]]
            _require_finite(cache, block, rows[some])
            draft.write(block.data, offset)
            offset += len(block) * row_bytes


def _require_finite(cache: FeatureCache, X: Features, rows: Targets) -> None:
    row = first_not_finite(X)
    if row is not None:
        path = cache.index.images["path"][rows[row]]
        raise TrainingError(f"{path}: row {rows[row]} holds features that are not finite; extract them again", row)


def _standardise(X: Features, n_train: int, draft: Draft) -> None:
    """Write the mapped rows of a draft again, standardised by the first ``n_train`` of them."""
    scaling = Scaling.of(X[:n_train], standardize=True)
    for rows in row_blocks(X):
        block = scaling.applied(X[rows])
        draft.write(block.data, rows.start * block.strides[0])


@contextmanager
def _written(path: Path) -> Iterator[Draft]:
    """Write a file that need not outlive a crash; if the block fails, nothing of it stays."""
    draft = None
    try:
        descriptor = FILE_SYSTEM.create(path)
        try:
            draft = Draft(descriptor)
            yield draft
        except BaseException:
            with suppress(OSError):
                FILE_SYSTEM.unlink(path)
            raise
        finally:
            FILE_SYSTEM.close(descriptor)
    except OutputError:
        raise
    except OSError as e:
        raise output_error(path, e, draft.size if draft else 0) from e


def _mapped(path: Path, rows: int) -> NDArray[np.float32]:
    """Map a scratch file of so many rows."""
    with path.open("rb") as stream:
        values = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.float32)
    return values.reshape(rows, -1)
