"""What image files were when they were looked at, and how that becomes columns of a cache and comes back."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.layout import FAILURE_COLUMNS, IMAGE_COLUMNS, TEXT


@dataclass(frozen=True, slots=True)
class Sighting:
    """What an image file was when it was read: enough to know it again without reading it.

    Parameters
    ----------
    path
        As in the manifest.
    size, mtime_ns
        Bytes and modification time in nanoseconds; -1 if the file could not be read.
    sha256
        Hash of the bytes, 64 hexadecimal digits; empty if they could not be read.
    reason
        Why the image gave no features; empty if it did.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    reason: str = ""

    def still_holds(self, file: bytes) -> bool:
        """Whether the file has the size and modification time that were seen."""
        try:
            status = os.stat(file)  # noqa: PTH116 - pathlib takes no bytes
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


def image_columns(
    sightings: Sequence[Sighting], labels: Sequence[int], splits: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.layout.IMAGE_COLUMNS`, each of length n."""
    given = {"label": labels, "split": splits}
    return {
        name: np.array(given[name], dtype=dtype) if name in given else _column(sightings, name, dtype)
        for name, dtype in IMAGE_COLUMNS.items()
    }


def failure_columns(sightings: Sequence[Sighting]) -> dict[str, NDArray[Any]]:
    """Return the columns of `featurecache.layout.FAILURE_COLUMNS`, each of length m."""
    return {name: _column(sightings, name, dtype) for name, dtype in FAILURE_COLUMNS.items()}


def sightings_of(columns: Mapping[str, NDArray[Any]]) -> Iterator[Sighting]:
    """Yield the sightings that a cache's columns were made of, row by row."""
    reasons: Iterable[str] = columns.get("reason", np.full(len(columns["path"]), "", dtype=object))
    for path, size, mtime_ns, sha256, reason in zip(
        columns["path"],
        columns["size"].tolist(),
        columns["mtime_ns"].tolist(),
        columns["sha256"].astype(str).tolist(),
        reasons,
        strict=True,
    ):
        yield Sighting(path, size, mtime_ns, sha256, reason)


def _column(sightings: Sequence[Sighting], name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.array([getattr(sighting, name) for sighting in sightings], dtype=object if dtype is TEXT else dtype)
