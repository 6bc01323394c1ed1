"""The random order in which heads read rows, and the reading of large features in it.

Rows of features of at most 1 GiB in float32 are permuted. Larger ones are shuffled in two steps, whatever the memory of
the machine: strips of consecutive rows are permuted, then the rows of many strips together. So a file is read in long
pieces, once in each epoch.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from featurecache.prefetch import ahead
from featurecache.rows import read_ahead
from heads.rows import Features, Targets, large

STRIP_BYTES = 2**20  # of a strip of consecutive rows, in float32
# Strips whose rows are shuffled together. They are in memory twice: one window is read ahead.
STRIPS_OF_A_WINDOW = 128


class Window(NamedTuple):
    """Rows that are in memory together.

    Parameters
    ----------
    rows
        Their numbers in the order of the epoch, shape (m,).
    X
        Features among which they are.
    places
        Where in ``X`` each of them is, shape (m,).
    """

    rows: Targets
    X: Features
    places: Targets


def shuffled(X: Features, generator: np.random.Generator, batch_size: int = 1) -> Iterator[Window]:
    """Yield all rows (n, d) once, in a random order, window by window.

    Parameters
    ----------
    X
        The features.
    generator
        Draws the order.
    batch_size
        All windows but the last one are multiples of it.
    """
    n, d = X.shape
    if not large(X):
        order = generator.permutation(n)
        yield Window(order, X, order)
        return
    strip = max(1, STRIP_BYTES // (d * np.dtype(np.float32).itemsize))
    batch_size = min(batch_size, n)
    count = max(1, STRIPS_OF_A_WINDOW * strip // batch_size) * batch_size
    strips = generator.permutation(-(-n // strip))
    order = (strips[:, np.newaxis] * strip + np.arange(strip)).ravel()
    order = order[order < n]
    for start in range(0, n, count):
        generator.shuffle(order[start : start + count])
    parts = (order[start : start + count] for start in range(0, n, count))
    yield from ahead(lambda rows: _read(X, rows), parts, workers=1, window=2)


def _read(X: Features, rows: Targets) -> Window:
    """Read rows in the order of the file, after the system was asked for all of their strips."""
    by_number = np.argsort(rows)
    numbers = rows[by_number]
    for near in np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1):
        read_ahead(X, slice(near[0], near[-1] + 1))
    places = np.empty_like(by_number)
    places[by_number] = np.arange(len(rows))
    return Window(rows, X[numbers], places)
