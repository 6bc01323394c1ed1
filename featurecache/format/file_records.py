"""File records, and their conversion to and from the columns of a cache."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.format.layout import INTEGER, LABEL, SHA256, SPLIT
from featurecache.images.files import Stat
from featurecache.images.manifest import ImageEntry
from featurecache.text import printable

UNKNOWN = -1
"""The size or modification time of a file that could not be read, and of one whose value does not fit its column."""

_DIGEST_BYTES = 32
_LOWEST, _HIGHEST = int(np.iinfo(INTEGER).min), int(np.iinfo(INTEGER).max)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is known of an image file from an earlier reading.

    Parameters
    ----------
    path
        Its path in the manifest.
    size, mtime_ns
        Its size in bytes, and its modification time in nanoseconds. A value that is not a whole number of 64 bits
        becomes `UNKNOWN`: a file system can have a time after the year 2262.
    sha256
        SHA-256 of its bytes, 64 hexadecimal digits; empty if the file could not be read.
    reason
        Why there are no features; empty if there are. Unprintable characters are escaped.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str = ""

    def __post_init__(self) -> None:
        for name in ("size", "mtime_ns"):
            value = getattr(self, name)
            if not (isinstance(value, int) and _LOWEST <= value <= _HIGHEST):
                object.__setattr__(self, name, UNKNOWN)
        if not self.reason.isprintable():
            object.__setattr__(self, "reason", printable(self.reason))

    def still_holds(self, stat: Stat | None) -> bool:
        """Return whether the file has the recorded size and modification time; False if one of them is unknown."""
        return UNKNOWN not in {self.size, self.mtime_ns} and stat == Stat(self.size, self.mtime_ns)


class FileRecordColumns:
    """File records without their paths, in columns: 48 bytes for each, and the reasons of failures.

    Parameters
    ----------
    file_records
        The first ones.

    Attributes
    ----------
    reasons
        Number of a record to the reason why there are no features, if there are none.
    """

    def __init__(self, file_records: Iterable[FileRecord] = ()) -> None:
        self.reasons: dict[int, str] = {}
        self._digests = bytearray()
        self._sizes = array("q")
        self._times = array("q")
        for file_record in file_records:
            self.append(file_record)

    def __len__(self) -> int:
        return len(self._sizes)

    def append(self, file_record: FileRecord) -> None:
        """Add a record, whatever its path."""
        if file_record.reason:
            self.reasons[len(self)] = file_record.reason
        self._digests += _digest(file_record.sha256)
        self._sizes.append(file_record.size)
        self._times.append(file_record.mtime_ns)

    def fail(self, number: int, sha256: str, reason: str) -> None:
        """Give a record the hash and the reason of a failure."""
        self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES] = _digest(sha256)
        self.reasons[number] = reason

    def record(self, number: int, path: str) -> FileRecord:
        """Return a record, with its path."""
        reason = self.reasons.get(number, "")
        return FileRecord(path, self._sizes[number], self._times[number], self.sha256(number), reason)

    def sha256(self, number: int) -> str:
        """Return the hash of a record."""
        digest = self._digests[number * _DIGEST_BYTES : (number + 1) * _DIGEST_BYTES]
        return digest.hex() if any(digest) else ""

    def numbers_of(self, contents: Iterable[str]) -> list[int]:
        """Return the numbers of the records that have one of these hashes."""
        digests = np.frombuffer(self._digests, f"S{_DIGEST_BYTES}")
        return np.flatnonzero(np.isin(digests, np.array([*map(bytes.fromhex, contents)], digests.dtype))).tolist()

    def columns(self, numbers: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
        """Return hashes, sizes and times of the records with these numbers, each of their length."""
        return {
            "sha256": np.fromiter((self.sha256(number).encode("ascii") for number in numbers), SHA256, len(numbers)),
            "size": np.frombuffer(self._sizes, INTEGER)[numbers],
            "mtime_ns": np.frombuffer(self._times, INTEGER)[numbers],
        }


def _digest(sha256: str) -> bytes:
    """Return the bytes that hexadecimal digits stand for; zeros if there are none."""
    return bytes.fromhex(sha256) if sha256 else bytes(_DIGEST_BYTES)


def image_columns(
    entries: Sequence[ImageEntry], found: FileRecordColumns, numbers: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.format.layout.IMAGE_COLUMNS` of the entries with these numbers.

    Parameters
    ----------
    entries
        The entries of a manifest.
    found
        What was found at their paths.
    numbers
        Shape (n,).
    """
    n = len(numbers)
    return {
        "path": np.fromiter((entries[number].path for number in numbers), object, n),
        "label": np.fromiter((entries[number].label for number in numbers), LABEL, n),
        "split": np.fromiter((entries[number].split.encode("ascii") for number in numbers), SPLIT, n),
    } | found.columns(numbers)


def failure_columns(
    entries: Sequence[ImageEntry], found: FileRecordColumns, numbers: NDArray[np.intp]
) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.format.layout.FAILURE_COLUMNS`, from the same as `image_columns`."""
    return {
        "path": np.array([entries[number].path for number in numbers], dtype=object),
        "reason": np.array([found.reasons[number] for number in numbers.tolist()], dtype=object),
    } | found.columns(numbers)


def file_records_from_columns(columns: Mapping[str, NDArray[Any]]) -> Iterator[FileRecord]:
    """Yield the file records of a cache's columns, row by row."""
    reasons: Iterable[str] = columns.get("reason", np.full(len(columns["path"]), "", dtype=object))
    for path, size, mtime_ns, sha256, reason in zip(
        columns["path"],
        columns["size"].tolist(),
        columns["mtime_ns"].tolist(),
        columns["sha256"].astype(str).tolist(),
        reasons,
        strict=True,
    ):
        yield FileRecord(path, size, mtime_ns, sha256, reason)
