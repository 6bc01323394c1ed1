"""Duplicate images in a cache, by equal bytes or similar features, in bounded memory.

The list of pairs stays short: of the near-duplicates, only pairs that join two separate groups of rows are listed, as
in Kruskal's algorithm for spanning trees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TypeAlias

import numpy as np

from heads.errors import ParameterError
from heads.rows import row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from featurecache.feature_set import FeatureSet
    from heads.rows import Features, Targets

Kind: TypeAlias = Literal["exact", "near"]
_BLOCK_ROWS, _BLOCK_VALUES = 1024, 2**22  # at most, of each side of a product: 16 MiB in float32
_NO_DIRECTION = 1e-6  # of a row's length: what is left of it after centring is float32's rounding
_FIRST_LOOK = 1024  # pairs that are told one by one before the others are looked at again
_MANY = 0.1  # part of the rows


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A pair of duplicate images.

    Parameters
    ----------
    a, b
        Their paths, in the order of the cache.
    kind
        ``"exact"`` if their bytes are equal, else ``"near"``.
    similarity
        Cosine of the angle between their features, the mean over all rows taken away from each; 1 if exact.
    conflict
        Whether both are labelled, and differently.
    crosses
        Whether they are in different splits.
    split_a, split_b
        Their splits; ``""`` for none.
    class_a, class_b
        Names of their classes; None without a label.
    group_a, group_b
        Their groups; None if the cache was not asked for groups.
    """

    a: str
    b: str
    kind: Kind
    similarity: float
    conflict: bool
    crosses: bool
    split_a: str
    split_b: str
    class_a: str | None
    class_b: str | None
    group_a: str | None = None
    group_b: str | None = None

    @property
    def tears_groups(self) -> bool:
        """Whether they are in different groups."""
        return self.group_a != self.group_b


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Images that are connected by duplicates.

    Parameters
    ----------
    paths
        The images, in the order of their paths.
    crosses
        Whether they lie in different splits.
    conflict
        Whether two of them are listed as a pair with different labels.
    """

    paths: tuple[str, ...]
    crosses: bool
    conflict: bool


def groups_of(pairs: Sequence[Duplicate]) -> tuple[DuplicateGroup, ...]:
    """Return the groups that listed pairs join, the most harmful first: with conflicts, across splits, large."""
    members: dict[str, list[str]] = {}
    for pair in pairs:
        ours, theirs = members.setdefault(pair.a, [pair.a]), members.setdefault(pair.b, [pair.b])
        if ours is not theirs:
            ours += theirs
            members.update(dict.fromkeys(theirs, ours))
    crossing = {id(members[pair.a]) for pair in pairs if pair.crosses}
    conflicting = {id(members[pair.a]) for pair in pairs if pair.conflict}
    distinct = {id(paths): paths for paths in members.values()}
    found = [
        DuplicateGroup(tuple(sorted(paths)), key in crossing, key in conflicting) for key, paths in distinct.items()
    ]
    return tuple(
        sorted(found, key=lambda group: (not group.conflict, not group.crosses, -len(group.paths), group.paths))
    )


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """All duplicates in a cache.

    Parameters
    ----------
    pairs
        The most harmful first: conflicting labels, then different splits, then different groups of the cache, then
        higher similarity, exact before near, then by path.
    contents, groups
        The number of the content of each row, and of the group of its duplicates, near ones included, shapes (n,);
        a group's rows are connected by near-duplicates, not each one to each other.
    near_rows
        How many rows are near-duplicates of another.
    """

    pairs: tuple[Duplicate, ...]
    contents: Targets
    groups: Targets
    near_rows: int

    @property
    def too_many(self) -> bool:
        """Whether there are so many near-duplicates that ``near`` must be too low for these features."""
        return self.near_rows > _MANY * len(self.groups)


class _Pair(NamedTuple):
    """Two rows, the earlier one first."""

    a: int
    b: int
    similarity: float
    kind: Kind


def find_duplicates(
    features: FeatureSet, near: float, progress: Callable[[int, int], object] = lambda _done, _total: None
) -> Duplicates:
    """Find the duplicates among all rows, labelled or not.

    All pairs of rows are compared, block by block: that takes n² d multiplications, and some 200 MB.

    Parameters
    ----------
    features
        All rows of a cache; every feature is finite.
    near
        The similarity from which on rows are near-duplicates, above 0 and at most 1.
    progress
        Called with the number of blocks compared, and their total.

    Raises
    ------
    ParameterError
        If ``near`` is out of range.
    """
    if not 0 < near <= 1:
        raise ParameterError(f"near is {near}, expected above 0 and at most 1; 0.9 finds re-encoded photographs")
    contents = np.unique(features.sha256.astype(str), return_inverse=True)[1].astype(np.intp)
    labelled = features.y >= 0
    listing = _Listing(contents, labelled)
    exact = list(_exact_pairs(contents, labelled))
    similar: list[_Pair] = []
    for a, b, similarities in _similar_rows(features.X, near, progress):
        similar += listing.joining(a, b, similarities)
    return Duplicates(
        pairs=tuple(sorted((_described(features, pair) for pair in [*exact, *similar]), key=_harm)),
        contents=contents,
        groups=np.unique(listing.groups, return_inverse=True)[1].astype(np.intp),
        near_rows=len({row for pair in similar for row in (pair.a, pair.b)}),
    )


def _exact_pairs(contents: Targets, labelled: NDArray[np.bool_]) -> Iterator[_Pair]:
    """Yield each row whose content was met before, with the first labelled row of that content, or the first one."""
    order = np.lexsort((np.arange(len(contents)), ~labelled, contents))
    first = 0
    for place in range(1, len(order)):
        if contents[order[place]] != contents[order[first]]:
            first = place
        else:
            a, b = sorted((int(order[first]), int(order[place])))
            yield _Pair(a, b, 1.0, "exact")


class _Listing:
    """Decides which near-duplicates are listed.

    Listed are pairs that join two groups of rows, or two labelled rows in two groups of labelled rows. The first are a
    spanning tree of each group of all rows, so that a group with rows in different splits has a listed pair that
    crosses: if no edge of a tree did, all its rows would be in one split. The second are a spanning tree of each group
    of labelled rows, and if two labelled rows that conflict are near-duplicates, they are in one such group, of which
    an edge conflicts for the same reason. One tree would not do for both: a cat, an unlabelled row and a dog may hang
    together in this order. Exact duplicates, each paired with the first labelled row of its content, are edges of both
    trees. So there are at most 2 (n - 1) pairs of n rows, and n - 1 if all are labelled.
    """

    def __init__(self, contents: Targets, labelled: NDArray[np.bool_]) -> None:
        self._labelled = labelled
        self.groups = contents.copy()
        self._labelled_groups = contents.copy()

    def joining(self, a: Targets, b: Targets, similarities: NDArray[np.float32]) -> Iterator[_Pair]:
        """Yield those of some pairs, shapes (m,), that are listed, the most similar first."""
        look = _FIRST_LOOK
        apart = self._apart(a, b)
        a, b, similarities = a[apart], b[apart], similarities[apart]
        order = np.lexsort((b, a, -similarities))
        while len(order):
            for pair in order[:look]:
                if self._join(a[pair], b[pair]):
                    yield _Pair(int(a[pair]), int(b[pair]), min(1.0, float(similarities[pair])), "near")
            order = order[look:]
            order = order[self._apart(a[order], b[order])]
            look *= 2

    def _apart(self, a: Targets, b: Targets) -> NDArray[np.bool_]:
        both = self._labelled[a] & self._labelled[b]
        apart = self.groups[a] != self.groups[b]
        return np.asarray(apart | (both & (self._labelled_groups[a] != self._labelled_groups[b])))

    def _join(self, a: int, b: int) -> bool:
        joined = _joined(self.groups, a, b)
        if self._labelled[a] and self._labelled[b]:
            joined = _joined(self._labelled_groups, a, b) or joined
        return joined


def _joined(groups: Targets, a: int, b: int) -> bool:
    """Make one group of those of two rows; return whether they were two."""
    ours, theirs = groups[a], groups[b]
    if ours == theirs:
        return False
    groups[groups == theirs] = ours
    return True


@dataclass(frozen=True, slots=True, eq=False)
class _Directions:
    """The directions of rows from their mean.

    Parameters
    ----------
    X
        Rows, shape (n, d).
    mean
        Shape (d,), float32.
    factors
        Factors that scale centred rows to length 1, shape (n,), float32; 0 for rows that equal the mean.
    """

    X: Features
    mean: NDArray[np.float32]
    factors: NDArray[np.float32]

    @classmethod
    def from_rows(cls, X: Features) -> Self:
        """Measure rows, by blocks."""
        total = np.zeros(X.shape[1])
        for rows in row_blocks(X):
            total += X[rows].sum(axis=0, dtype=np.float64)
        mean = (total / max(1, len(X))).astype(np.float32)
        factors = np.zeros(len(X), np.float32)
        for rows in row_blocks(X):
            lengths, whole = _lengths(X[rows] - mean), _lengths(X[rows])
            points = (lengths > _NO_DIRECTION * whole) & (lengths > np.finfo(np.float32).tiny)
            np.divide(1, lengths, out=factors[rows], where=points, casting="same_kind")
        return cls(X, mean, factors)

    def block(self, rows: slice) -> NDArray[np.float32]:
        """Return a block of rows as vectors of length 1 (or 0), shape (m, d)."""
        vectors = np.subtract(self.X[rows], self.mean, dtype=np.float32)
        vectors *= self.factors[rows, np.newaxis]
        return vectors


def _lengths(X: Features) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64)))


def _similar_rows(
    X: Features, near: float, progress: Callable[[int, int], object]
) -> Iterator[tuple[Targets, Targets, NDArray[np.float32]]]:
    """Yield the near-duplicates of one pair of blocks after the other: earlier rows, later rows, similarities."""
    count = max(1, min(_BLOCK_ROWS, _BLOCK_VALUES // max(1, X.shape[1])))
    starts = range(0, len(X), count)
    directions, total, done = _Directions.from_rows(X), len(starts) * (len(starts) + 1) // 2, 0
    for first in starts:
        ours = directions.block(slice(first, first + count))
        for second in starts[first // count :]:
            theirs = ours if second == first else directions.block(slice(second, second + count))
            similarities = ours @ theirs.T
            found = similarities >= near  # never so for what is not a number
            a, b = np.nonzero(np.triu(found, 1) if second == first else found)
            if len(a):
                yield a + first, b + second, similarities[a, b]
            done += 1
            progress(done, total)


def _described(features: FeatureSet, pair: _Pair) -> Duplicate:
    label_a, label_b = features.y[pair.a], features.y[pair.b]
    split_a, split_b = features.splits[pair.a], features.splits[pair.b]
    return Duplicate(
        a=features.paths[pair.a],
        b=features.paths[pair.b],
        kind=pair.kind,
        similarity=pair.similarity,
        conflict=bool(label_a >= 0 and label_b >= 0 and label_a != label_b),
        crosses=bool(split_a != split_b),
        split_a=split_a,
        split_b=split_b,
        class_a=features.classes[label_a] if label_a >= 0 else None,
        class_b=features.classes[label_b] if label_b >= 0 else None,
        group_a=None if features.groups is None else features.groups[pair.a],
        group_b=None if features.groups is None else features.groups[pair.b],
    )


def _harm(pair: Duplicate) -> tuple[bool, bool, bool, float, Kind, str, str]:
    return not pair.conflict, not pair.crosses, not pair.tears_groups, -pair.similarity, pair.kind, pair.a, pair.b
