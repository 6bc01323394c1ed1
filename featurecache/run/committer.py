"""Collects the results of a run and commits them to the store in shards, in a background thread."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from featurecache.format.file_records import FileRecord
from featurecache.named_backbone import as_stored
from featurecache.provenance import Environment
from featurecache.run.commit_records import FeatureBatch
from featurecache.run.store import Store
from featurecache.run.units import shard_rows

SHARD_SECONDS = 30.0
FIRST_SECONDS = 5.0
"""The time limit of the first shards. Later ones have as much time as passed before them, up to `SHARD_SECONDS`: a run
that is killed loses at most half of its work, and a run that is killed again and again ends."""

TapFeatures = Mapping[str, NDArray[np.float32]]
"""Names of taps to their activations, shape (m, d)."""


class Committer:
    """Collects features and file records, and commits them in the background, one commit at a time.

    All methods except `is_old` must be called from the same thread.

    Parameters
    ----------
    store
        Where results are committed.
    environment
        Returns what the features are computed with; called for every commit.
    clock
        Returns seconds.
    """

    def __init__(
        self, store: Store, environment: Callable[[], Environment], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._environment = environment
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "commit")
        self._commit_under_way: Future[None] | None = None
        self._batches: list[FeatureBatch] = []
        self._file_records: list[FileRecord] = []
        self._since = clock()  # when the previous commit was begun
        self._began = self._since  # when the work began; the start of the network counts only before the first features
        self._has_features = False

    def add_features(self, contents: Sequence[str], features: TapFeatures) -> None:
        """Add the features of m images, by the hashes of their contents.

        Raises
        ------
        RecipeError
            If the recipe's dtype cannot hold the features; nothing of the batch is added.
        """
        recipe = self._store.recipe
        stored = {tap: as_stored(features, tap, recipe) for tap in recipe.taps}
        self._batches.append((list(contents), stored))
        if not self._has_features:
            self._has_features, self._began = True, self._clock()

    def add_file_records(self, file_records: Sequence[FileRecord]) -> None:
        """Add what was found at paths of the manifest."""
        self._file_records.extend(file_records)

    def is_due(self, next_rows: int) -> bool:
        """Whether to commit before the next batch of at most ``next_rows`` images is added."""
        rows = sum(len(contents) for contents, _ in self._batches) + next_rows
        return rows > shard_rows(self._store.recipe) or self.is_old()

    def is_old(self) -> bool:
        """Whether the time limit of a shard has passed since the previous commit."""
        return self._clock() > self._deadline()

    def seconds_left(self) -> float | None:
        """Return the seconds until the time limit passes; None if nothing was added since the previous commit."""
        if not self._batches and not self._file_records:
            return None
        return max(0.0, self._deadline() - self._clock())

    def _deadline(self) -> float:
        return self._since + min(max(FIRST_SECONDS, self._since - self._began), SHARD_SECONDS)

    def commit(self) -> None:
        """Start to commit what was added since the previous commit, once that one is durable."""
        self.wait()
        if not self._batches and not self._file_records:
            return
        self._commit_under_way = self._thread.submit(
            self._store.commit, self._batches, self._file_records, self._environment()
        )
        self._batches, self._file_records, self._since = [], [], self._clock()

    def wait(self) -> None:
        """Return when everything that `commit` was called for is durable; raise the error of a failed commit."""
        if self._commit_under_way:
            self._commit_under_way.result()

    def close(self) -> None:
        """Wait for the commit under way and end the thread; an error of the commit is not raised.

        The run is let go, so that the cache that it read is closed with it, and may be replaced on Windows.
        """
        self._thread.shutdown()
        del self._environment
