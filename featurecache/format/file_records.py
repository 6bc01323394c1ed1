"""File records, and their conversion to and from the columns of a cache."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.format.checks import TEXT
from featurecache.format.layout import FAILURE_COLUMNS, IMAGE_COLUMNS, INTEGER
from featurecache.images.files import Stat
from featurecache.text import printable

UNKNOWN = -1
"""The size or modification time of a file that could not be read, and of one whose value does not fit its column."""

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


def image_columns(
    file_records: Sequence[FileRecord], labels: Sequence[int], splits: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.format.layout.IMAGE_COLUMNS`, each of length n."""
    given = {"label": labels, "split": splits}
    return {
        name: np.array(given[name], dtype=dtype) if name in given else _column(file_records, name, dtype)
        for name, dtype in IMAGE_COLUMNS.items()
    }


def failure_columns(file_records: Sequence[FileRecord]) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.format.layout.FAILURE_COLUMNS`, each of length m."""
    return {name: _column(file_records, name, dtype) for name, dtype in FAILURE_COLUMNS.items()}


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


def _column(file_records: Sequence[FileRecord], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.array(
        [getattr(file_record, name) for file_record in file_records], dtype=object if dtype is TEXT else dtype
    )
