"""Batches and units: how the contents of a run are divided, whoever computes them, and whatever is known already.

Contents come in the order of the manifest, each once, without those of the existing cache. A *batch* is ``size``
consecutive contents; a *unit* is a run of whole batches, and at most a shard. `docs/decisions/0029-units.md` says why.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from featurecache.recipe import Recipe

SHARD_ROWS = 1024
SHARD_BYTES = 8_000_000

Item = TypeVar("Item")


class BatchPlan(Generic[Item]):
    """Forms batches of the contents of a run.

    Batches depend on the contents, their order and the size alone: a content that fails or that is committed already
    takes its place. Of a batch that is committed in part, the missing contents go to batches of their own, so that
    memory holds two batches at most.

    Parameters
    ----------
    size
        Contents in a batch; None until it is known. It must be set before the first content with an item is added.

    Examples
    --------
    >>> plan = BatchPlan(2)
    >>> [list(batch) for content in "abcde" for batch in plan.add(content, 1, is_done=content in "ab")]
    [['c', 'd']]
    >>> [list(batch) for batch in plan.rest()]
    [['e']]
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._places = 0  # of the batch that is being formed, taken so far
        self._has_done = False  # whether one of them is committed already
        self._batch: dict[str, Item] = {}
        self._left: dict[str, Item] = {}  # of batches that are committed in part

    @property
    def size(self) -> int | None:
        """Contents in a batch; None until it is known."""
        return self._size

    @size.setter
    def size(self, size: int) -> None:
        self._size = size
        self._places %= size  # so far, none had an item

    def add(self, content: str, item: Item | None, *, is_done: bool = False) -> Iterator[dict[str, Item]]:
        """Add the next content; yield the batches that are complete now, as contents to items.

        Parameters
        ----------
        content
            The hash of the content.
        item
            What computes it, such as its pixels or its path; None if it cannot be computed.
        is_done
            Whether an unfinished run has committed it.
        """
        self._places += 1
        self._has_done |= is_done
        if item is not None and not is_done:
            self._batch[content] = item
        if self._places == self._size:
            yield from self._end_batch()

    def rest(self) -> Iterator[dict[str, Item]]:
        """Yield the remaining batches, which may be smaller; call once, at the end."""
        yield from self._end_batch()
        if self._left:
            yield self._left

    def _end_batch(self) -> Iterator[dict[str, Item]]:
        batch, has_done = self._batch, self._has_done
        self._batch, self._places, self._has_done = {}, 0, False
        if batch and not has_done:
            yield batch
            return
        self._left |= batch
        if self._size and len(self._left) >= self._size:
            items = iter(self._left.items())
            full = dict(islice(items, self._size))
            self._left = dict(items)
            yield full


@dataclass(frozen=True, slots=True)
class Unit:
    """Work that one process does at a time.

    Parameters
    ----------
    number
        Its place in the order of the commits.
    batches
        For each batch the hashes of its contents, and for each content the path of an image that has it.
    """

    number: int
    batches: tuple[Mapping[str, str], ...]

    def __len__(self) -> int:
        return sum(map(len, self.batches))


def shard_rows(recipe: Recipe) -> int:
    """Return the largest number of rows in a shard, unless a single batch has more."""
    return min(SHARD_ROWS, SHARD_BYTES // recipe.row_bytes)


def unit_name(recipe: Recipe, batches: Iterable[Sequence[str]]) -> str:
    """Return the name of the unit with these contents in these batches: 32 hexadecimal digits."""
    lines = [recipe.fingerprint, *(",".join(batch) for batch in batches)]
    return hashlib.sha256("\n".join(lines).encode("ascii")).hexdigest()[:32]
