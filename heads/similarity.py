"""The most similar images of a cache by the cosine of their features, exactly, in blocks over the mapped file.

Products in float32 give approximate similarities of all rows. Rows that rounding might place among the nearest are
computed again in float64. So the result does not depend on blocks, threads or the other queries. NumPy computes the
products in threads of our own: those of a BLAS library wait for each other when the processors are busy.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from featurecache.processors import processor_count
from heads.errors import EvaluationError, MismatchError, ParameterError
from heads.rows import row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurecache.cache import FeatureCache
    from heads.rows import Features, Floats, Targets

_Single: TypeAlias = NDArray[np.float32]

_APPROXIMATIONS = 2**24  # similarities in memory at a time, 64 MiB in float32
_BLOCK_VALUES = 2**18  # values of a block of rows; 1 MiB in float32, which a processor's own cache holds
_UNIT = 2.0**-24  # the largest relative error of one rounding in float32
_SMALLEST, _LARGEST = 2.0**-40, 2.0**60  # lengths of which the squares are exact enough in float32


@dataclass(frozen=True, slots=True)
class SimilarImage:
    """An image of a cache, and how similar it is to another image.

    Parameters
    ----------
    path, split, sha256
        Its path in the cache, its split (``""`` for none) and the SHA-256 of its content.
    label
        The name of its class; None without a label.
    similarity
        The cosine of the angle between the features of both images, from -1 to 1; 0 if all features of one are 0.

    Examples
    --------
    >>> search = heads.SimilaritySearch(cache, "features")
    >>> [[image]] = search.nearest(cache.features("features").X[:1], k=1)
    >>> image.path, image.label, image.similarity
    ('train/dark/00.png', 'dark', 1.0)
    """

    path: str
    label: str | None
    split: str
    similarity: float
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)


class SimilaritySearch:
    """Finds the images of a cache that are most similar to given ones.

    Features stay in the cache file, of which blocks are read through the memory map. The lengths of all rows are
    computed once, when the first images are searched, and kept: 4 bytes a row. Threads may share a search.

    Parameters
    ----------
    cache
        The images to search; all rows, whatever their split, but no augmented views.
    tap
        The tap whose features are compared; optional if the cache has only one.

    Raises
    ------
    UnknownNameError
        If the cache has no such tap.

    Examples
    --------
    >>> search = heads.SimilaritySearch(cache, "features")
    >>> for images in search.nearest(cache.features("features", "valid").X[:2], k=2):
    ...     print([(image.path, round(image.similarity, 4)) for image in images])
    [('valid/dark/02.png', 1.0), ('train/dark/04.png', 0.9937)]
    [('valid/dark/08.png', 1.0), ('train/dark/10.png', 0.9958)]
    """

    def __init__(self, cache: FeatureCache, tap: str | None = None) -> None:
        self.tap = cache.require_tap(tap)
        self._cache = cache
        self._X: Features = cache.mapped(self.tap)
        self._lengths: _Single | None = None
        self._left_out = cache.is_view if cache.is_view.any() else None

    def nearest(self, queries: NDArray[np.floating[Any]], k: int = 9) -> list[list[SimilarImage]]:
        """Return for each query the ``k`` most similar images, the nearest first.

        Images that are equally similar keep the order of the cache.

        Parameters
        ----------
        queries
            Features of the same tap, shape (q, d), finite.
        k
            Number of images per query, at least 1; all rows if the cache has fewer.

        Raises
        ------
        MismatchError
            If the queries do not have the width of the tap.
        EvaluationError
            If a query has a value that is not finite.
        ParameterError
            If ``k`` is below 1.
        """
        if k < 1:
            raise ParameterError(f"k is {k}; expected at least 1")
        known = self._lengths
        lengths = np.full(len(self._X), np.nan, np.float32) if known is None else known  # two threads may measure both
        rows, similarities = nearest_rows(
            self._X, lengths, queries, k, measured=known is not None, left_out=self._left_out
        )
        if len(queries):
            self._lengths = lengths
        return [
            [self._image(row, similarity) for row, similarity in zip(*found, strict=True)]
            for found in zip(rows.tolist(), similarities.tolist(), strict=True)
        ]

    def _image(self, row: int, similarity: float) -> SimilarImage:
        images = self._cache.index.images
        label = int(images["label"][row])
        return SimilarImage(
            path=self._cache.paths[row],
            label=self._cache.classes[label] if label >= 0 else None,
            split=images["split"][row].decode("ascii"),
            similarity=similarity,
            sha256=images["sha256"][row].decode("ascii"),
        )


def nearest_rows(
    X: Features,
    lengths: _Single,
    queries: NDArray[np.floating[Any]],
    k: int,
    *,
    measured: bool = False,
    left_out: NDArray[np.bool_] | None = None,
) -> tuple[Targets, Floats]:
    """Return positions and cosine similarities of the ``k`` nearest rows of each query, both of shape (q, k).

    Parameters
    ----------
    X
        Rows, shape (n, d), float16 or float32.
    lengths
        Their Euclidean lengths, shape (n,), in float32's accuracy, inf if a square overflows; written unless
        ``measured``, in the same pass over the rows.
    queries
        Shape (q, d); see `SimilaritySearch.nearest`, also for errors.
    k
        At least 1; the results have as many columns as there are rows if these are fewer.
    measured
        Whether the lengths are known.
    left_out
        Which rows are not searched, shape (n,); None for no row.
    """
    n, d = X.shape
    if queries.ndim != 2 or queries.shape[1] != d:  # noqa: PLR2004
        raise MismatchError(f"the queries have shape {queries.shape}, the rows (n, {d}); take features of the same tap")
    exact = queries.astype(np.float64)
    finite = np.isfinite(exact).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise EvaluationError(f"query {row} holds features that are not finite; compute them again", row)
    k = min(k, n if left_out is None else int(np.count_nonzero(~left_out)))
    if not k:
        return np.empty((len(queries), 0), np.intp), np.empty((len(queries), 0))
    positions, similarities = np.empty((len(queries), k), np.intp), np.empty((len(queries), k))
    at_once = max(1, _APPROXIMATIONS // max(1, n))
    for start in range(0, len(queries), at_once):
        some = slice(start, start + at_once)
        approximations = _approximations(X, lengths, exact[some], measured=measured or start > 0)
        for number, approximate in enumerate(approximations, start):
            if left_out is not None:
                approximate[left_out] = -np.inf
            rows = _candidates(approximate, k, d)
            rows = rows if left_out is None else rows[~left_out[rows]]
            cosines = _cosines(X, rows, exact[number])
            order = np.lexsort((rows, -cosines))[:k]
            positions[number], similarities[number] = rows[order], cosines[order]
    return positions, similarities


def _approximations(X: Features, lengths: _Single, queries: Floats, *, measured: bool) -> _Single:
    """Return approximate similarities (q, n); NaN where float32 cannot tell. Write lengths that are not measured."""
    directions = _directions(queries).astype(np.float32)
    similarities = np.empty((len(queries), len(X)), np.float32)

    def multiply(rows: slice, block: _Single) -> None:
        some = lengths[rows]
        if not measured:
            np.sqrt(np.einsum("nd,nd->n", block, block), out=some)
        usable = (some > _SMALLEST) & (some < _LARGEST)
        factors = np.divide(1, some, out=np.full(len(some), np.nan, np.float32), where=usable)
        for number, direction in enumerate(directions):
            np.multiply(np.einsum("nd,d->n", block, direction), factors, out=similarities[number, rows])

    _in_threads(X, multiply)
    return similarities


def _in_threads(X: Features, compute: Callable[[slice, _Single], None]) -> None:
    """Call a function with every block of rows (n, d), as float32, in several threads; results may overflow."""

    def work(rows: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # a setting of the thread
            compute(rows, X[rows].astype(np.float32, copy=False))

    count = max(1, _BLOCK_VALUES // max(1, X.shape[1]))
    with ThreadPoolExecutor(processor_count()) as threads:
        for _ in threads.map(work, (slice(start, start + count) for start in range(0, len(X), count))):
            pass


def _candidates(approximate: _Single, k: int, d: int) -> Targets:
    """Return ascending positions of the rows that may be among the ``k`` nearest, given approximations (n,).

    The error of a sum of d products is at most d roundings of the sum of the absolute products, which for directions is
    at most 1 (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1); that of a length adds half
    as much. Two approximations of equal similarities differ by twice that.
    """
    known = np.where(np.isnan(approximate), -np.inf, approximate)
    limit = np.partition(known, len(known) - k)[len(known) - k]
    margin = 2 * (1.5 * d + 8) * _UNIT
    return np.flatnonzero((known >= limit - margin) | np.isnan(approximate))


def _cosines(X: Features, rows: Targets, query: Floats) -> Floats:
    """Return the similarities of chosen rows to a query (d,), each computed by itself in float64."""
    direction = _directions(query[np.newaxis])[0]
    cosines = np.empty(len(rows))
    for block in row_blocks(np.broadcast_to(direction, (len(rows), len(direction)))):
        directions = _directions(X[rows[block]].astype(np.float64))
        cosines[block] = np.einsum("nd,d->n", directions, direction)
    return np.clip(cosines, -1, 1)


def _directions(vectors: Floats) -> Floats:
    """Return vectors (n, d) scaled to length 1; a vector of zeros stays."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    lengths = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, np.newaxis]
    directions: Floats = np.divide(scaled, lengths, out=scaled, where=lengths > 0)
    return directions
