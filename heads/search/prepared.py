"""The rows of one tap and one part, prepared for training: memory-mapped, so that no worker holds a copy.

Standardised features, and rows that are not adjacent in the cache, are written to one scratch file: training rows
first, then validation rows. All other features are mapped in the cache file.
"""

import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache
from featurecache.rows import selected
from featurecache.storage.publish import Draft, publishing
from heads.errors import TrainingError
from heads.rows import Features, Floats, Labels, Scaling, Targets, first_not_finite, row_blocks
from heads.search.validation_plan import ValidationPlan, identity, rows_of
from heads.splits import labelled_images


@dataclass(frozen=True, slots=True, eq=False)
class CacheRows:
    """The rows of a cache file that a sweep uses; each process opens the file itself.

    Parameters
    ----------
    path
        The cache file.
    validation
        How candidates are validated.
    identity
        What the rows must be; see `heads.search.validation_plan.identity`.
    classes
        Their names.
    y, parts
        Label and part of every row of the cache, shapes (n,); see `heads.search.validation_plan.parts_of`. The labels
        may be others than those of the file.
    groups
        The group of every row, shape (n,); None without groups.
    weights
        The weight of every row in training, shape (n,); None if all have weight 1.
    sample
        Which rows are in the sample of the training rows, shape (n,); None if there is none.
    only_train
        Which rows do not validate, shape (n,), such as views; None for no row.
    together
        The number of each row's group, shape (n,), as `Head.fit` takes it; None if all differ.
    """

    path: Path
    validation: ValidationPlan
    identity: str
    classes: tuple[str, ...]
    y: NDArray[np.int64]
    parts: NDArray[np.int32]
    groups: NDArray[np.object_] | None = None
    weights: NDArray[np.float64] | None = None
    sample: NDArray[np.bool_] | None = None
    only_train: NDArray[np.bool_] | None = None
    together: Targets | None = None

    def rows_of(self, kind: "Kind") -> tuple[Targets, Targets]:
        """Return the numbers of the training rows and of the validation rows of a kind, both ascending."""
        train, valid = rows_of(self.parts, kind.part, self.only_train)
        if kind.sampled and self.sample is not None:
            train = train[self.sample[train]]
        return train, valid

    def open(self, tap: str) -> FeatureCache:
        """Open the cache; raise `TrainingError` if it no longer holds these rows."""
        cache = FeatureCache.open(self.path)
        images = labelled_images(cache, tap)
        images = replace(images, y=self.y, classes=self.classes, groups=self.groups, weights=self.weights)
        if len(cache) != len(self.y) or identity(images, self.validation) != self.identity:
            raise TrainingError(f"{self.path} was replaced while a sweep was at work on it; start another sweep")
        return cache


class Kind(NamedTuple):
    """Which rows a head takes, and how: the part that validates it, the tap, and whether features are standardised.

    ``sampled`` are trainings on the sample of the training rows.
    """

    part: int
    tap: str
    standardize: bool
    sampled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Rows that are ready for training.

    Parameters
    ----------
    cache_rows, kind
        The rows of the cache, and which of them.
    scratch
        The file that holds their features, float32; None if they are mapped in the cache.
    """

    cache_rows: CacheRows
    kind: Kind
    scratch: Path | None

    def labels(self) -> tuple[Labels, Labels]:
        """Return the labels of the training rows, shape (n,), and of the validation rows, (m,)."""
        train, valid = self.cache_rows.rows_of(self.kind)
        return self.cache_rows.y[train], self.cache_rows.y[valid]

    def weights(self) -> Floats | None:
        """Return the weights of the training rows, shape (n,); None if all have weight 1."""
        train, _ = self.cache_rows.rows_of(self.kind)
        return None if self.cache_rows.weights is None else self.cache_rows.weights[train]

    def together(self) -> Targets | None:
        """Return the number of each training row's group, shape (n,); None if all differ."""
        train, _ = self.cache_rows.rows_of(self.kind)
        return None if self.cache_rows.together is None else self.cache_rows.together[train]

    def features(self) -> tuple[Features, Features]:
        """Map the features of the training rows, shape (n, d), and of the validation rows, (m, d); read-only."""
        numbers = self.cache_rows.rows_of(self.kind)
        if self.scratch is None:
            cache = self.cache_rows.open(self.kind.tap)
            train, valid = (_Located.from_rows(cache, self.kind.tap, rows).whole() for rows in numbers)
            return train, valid
        X = _mapped(self.scratch, len(numbers[0]) + len(numbers[1]))
        return X[: len(numbers[0])], X[len(numbers[0]) :]


@dataclass(frozen=True, slots=True, eq=False)
class _Located:
    """Rows of one split: the split's features, (n, d), and which of them, ascending."""

    X: Features
    positions: Targets

    @classmethod
    def from_rows(cls, cache: FeatureCache, tap: str, rows: Targets) -> "_Located":
        """Find rows of a cache, all of one split; the features of no other split are touched."""
        splits = cache.index.images["split"]
        first = int(np.flatnonzero(splits == splits[rows[0]])[0])
        return cls(cache.features(tap, splits[rows[0]].decode("ascii")).X, rows - first)

    @property
    def contiguous(self) -> bool:
        """Whether there is no other row between them."""
        return bool(self.positions[-1] - self.positions[0] + 1 == len(self.positions))

    def whole(self) -> Features:
        """Return rows that lie together, without a copy."""
        rows: Features = selected(self.X, slice(self.positions[0], self.positions[-1] + 1))
        return rows


def prepare(cache_rows: CacheRows, kind: Kind, folder: Path) -> Prepared:
    """Prepare rows, in a scratch file in ``folder`` if needed.

    Features of rows that neither train nor validate are not read.

    Raises
    ------
    TrainingError
        If a feature is not finite, naming the image, or the cache is no longer what it was.
    OutputError
        If the scratch file cannot be written; its space is claimed before any row is.
    """
    numbers = cache_rows.rows_of(kind)
    if not kind.standardize and _mappable(cache_rows, kind.tap, numbers):
        return Prepared(cache_rows, kind, None)
    scratch = folder / "rows.f32"
    with publishing(scratch, durable=False) as draft:
        _copy(cache_rows, kind.tap, numbers, draft)  # the cache is unmapped when it returns
        if kind.standardize:
            weights = None if cache_rows.weights is None else cache_rows.weights[numbers[0]]
            _standardise(_as_rows(draft.map(), sum(map(len, numbers))), len(numbers[0]), draft, weights)
    return Prepared(cache_rows, kind, scratch)


def _mappable(cache_rows: CacheRows, tap: str, numbers: tuple[Targets, Targets]) -> bool:
    """Whether heads can take these rows as they lie in the cache; if they can, they are finite."""
    cache = cache_rows.open(tap)
    if cache.recipe.dtype != "float32":
        return False
    located = [_Located.from_rows(cache, tap, rows) for rows in numbers]
    if not all(rows.contiguous for rows in located):
        return False
    for each, rows in zip(located, numbers, strict=True):
        _require_finite(cache, each.whole(), rows)
    return True


def _copy(cache_rows: CacheRows, tap: str, numbers: tuple[Targets, Targets], draft: Draft) -> None:
    """Write the features of rows one after the other, float32."""
    cache = cache_rows.open(tap)
    row_bytes = cache.taps[tap] * np.dtype(np.float32).itemsize
    draft.reserve(sum(map(len, numbers)) * row_bytes)
    offset = 0
    for rows in numbers:
        located = _Located.from_rows(cache, tap, rows)
        for chunk in row_blocks(np.broadcast_to(np.float32(), (len(rows), cache.taps[tap]))):
            block = located.X[located.positions[chunk]]
            _require_finite(cache, block, rows[chunk])
            draft.write(block.data, offset)
            offset += len(block) * row_bytes


def _require_finite(cache: FeatureCache, X: Features, rows: Targets) -> None:
    row = first_not_finite(X)
    if row is not None:
        path = cache.paths[rows[row]]
        raise TrainingError(f"{path}: row {rows[row]} holds features that are not finite; extract them again", row)


def _standardise(X: NDArray[np.float32], n_train: int, draft: Draft, weights: Floats | None) -> None:
    """Write the mapped rows of a draft again, standardised by the first ``n_train`` of them."""
    scaling = Scaling.from_rows(X[:n_train], standardize=True, weights=weights)
    for rows in row_blocks(X):
        block = scaling.applied(X[rows])
        draft.write(block.data, rows.start * block.strides[0])


def _mapped(path: Path, rows: int) -> NDArray[np.float32]:
    """Map a scratch file of ``rows`` rows, shape (rows, d)."""
    with path.open("rb") as stream:
        return _as_rows(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), rows)


def _as_rows(content: mmap.mmap, rows: int) -> NDArray[np.float32]:
    return np.frombuffer(content, np.float32).reshape(rows, -1)
