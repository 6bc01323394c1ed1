"""A set of contents, numbered in the order in which they come, in a fraction of a dictionary's memory."""

from array import array
from collections.abc import Iterator

_DIGEST_BYTES = 32
_FIRST_SLOTS = 1 << 10


class ContentSet:
    """Contents by hash, each with a number: 40 to 48 bytes for each one.

    Digests are kept whole, one after the other, so that no two contents are taken for one. A table of slots finds them:
    the first bytes of a digest give the slot where a search begins, and it ends at an empty one. At most half of the
    slots are in use. One thread may add while others search.

    Examples
    --------
    >>> known = ContentSet()
    >>> known.add("ab" * 32), known.add("cd" * 32), known.add("ab" * 32)
    (True, True, False)
    >>> known.number("cd" * 32), known.number("ef" * 32), len(known)
    (1, None, 2)
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all contents."""
        self._digests = bytearray()
        self._slots = _empty(_FIRST_SLOTS)  # a content's number and 1; 0 where there is none

    def __len__(self) -> int:
        return len(self._digests) // _DIGEST_BYTES

    def __contains__(self, content: str) -> bool:
        return self.number(content) is not None

    def __iter__(self) -> Iterator[str]:
        return (self._digest(number).hex() for number in range(len(self)))

    def add(self, content: str) -> bool:
        """Add a content with the next number; return False if it is there already."""
        digest = bytes.fromhex(content)
        slot = self._slot(self._slots, digest)
        if self._slots[slot]:
            return False
        self._digests += digest
        self._slots[slot] = len(self)
        if 2 * len(self) > len(self._slots):
            self._grow()
        return True

    def number(self, content: str) -> int | None:
        """Return the number of a content; None if it is not there."""
        slots = self._slots
        found = slots[self._slot(slots, bytes.fromhex(content))]
        return found - 1 if found else None

    def _digest(self, number: int) -> bytearray:
        return self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]

    def _slot(self, slots: "array[int]", digest: bytes | bytearray) -> int:
        """Return the slot of a digest; the free one where it belongs if it is not there."""
        slot = int.from_bytes(digest[:8], "little") % len(slots)
        while (found := slots[slot]) and self._digest(found - 1) != digest:
            slot = (slot + 1) % len(slots)
        return slot

    def _grow(self) -> None:
        """Use twice as many slots; other threads search the old ones until the new ones are complete."""
        slots = _empty(2 * len(self._slots))
        for number in range(len(self)):
            slots[self._slot(slots, self._digest(number))] = number + 1
        self._slots = slots


def _empty(slots: int) -> "array[int]":
    return array("i", bytes(array("i").itemsize * slots))
