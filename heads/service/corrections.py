"""Labels that people have corrected: a table beside the cache, and the images that the cache does not have.

``corrections.csv`` has the columns path and label, as `featurecache.read_labels` reads them. The path of an image of
the cache is its path there. Any other image is stored in the folder ``corrections`` under its digest, and its path is
relative to that folder: the same that ``featurecache extract corrections more.h5`` gives it. Processes take turns at
the table, and each change replaces it as a whole. Columns and rows that a person has added stay.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from featurecache.images.addresses import normal_path
from featurecache.images.decode import byte_limit
from featurecache.images.failures import Failure
from featurecache.images.formats import FORMATS, format_of
from featurecache.images.sources import FolderSource
from featurecache.images.table import read_labels
from featurecache.options import MAX_PIXELS
from featurecache.storage.directory_lock import turn_in
from featurecache.storage.files import open_regular
from featurecache.storage.publish import make_directory, publish, publish_once
from heads.errors import HeadError, ParameterError
from heads.splits import TRAIN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from featurecache.cache import FeatureCache

LONGEST_LABEL = 200  # characters
_STORED = re.compile(r"(?:train/)?([0-9a-f]{64})\.[a-z]+")


class UnknownImageError(HeadError):
    """Neither the cache nor the folder of corrected images has an image of this digest."""


class Correction(NamedTuple):
    """A corrected label: the image's path, its digest (None if no image of that path is known), and the label."""

    path: str
    sha256: str | None
    label: str | None


class Corrections:
    """The corrections beside one cache.

    Parameters
    ----------
    cache
        The cache; it and its file never change.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self.table = cache.path.with_name("corrections.csv")
        self.folder = cache.path.with_name("corrections")

    def labels(self) -> dict[str, str | None]:
        """Return all corrected labels by path; none if there is no table.

        Raises
        ------
        ManifestError
            If somebody has made the table unreadable.
        """
        return read_labels(self.table, key="path") if self.table.exists() else {}

    def all(self) -> list[Correction]:
        """Return all corrections in the order of the table."""
        labels = self.labels()
        images = self._cache.index.images
        digests = {
            path: images["sha256"][row].decode("ascii")
            for row, path in enumerate(self._cache.paths.tolist() if labels else ())
            if path in labels
        }
        return [Correction(path, digests.get(path) or _digest_in(path), label) for path, label in labels.items()]

    def correct(self, sha256: str, label: str | None, data: bytes | None = None) -> int:
        """Give an image a label, or take the label back with None; return the number of corrections.

        Parameters
        ----------
        sha256
            The digest of the image. Every row of the cache with this content gets the label.
        label
            The name of a class.
        data
            The bytes of a readable image, which are stored if the cache does not have it.

        Raises
        ------
        ParameterError
            If the label is no name.
        UnknownImageError
            If neither the cache nor the folder has the image, and ``data`` is missing.
        OutputError
            If the table or the image cannot be written.
        """
        name = None if label is None else _checked(label)
        rows = np.flatnonzero(self._cache.index.images["sha256"] == sha256.encode("ascii"))
        paths = self._cache.paths[rows].tolist() or self._stored_paths(sha256, data)
        if not paths:
            raise UnknownImageError(sha256)
        with turn_in(self.table.parent):
            changed = self.labels() | dict.fromkeys(paths, name)
            if name is None:
                changed = {path: kept for path, kept in changed.items() if path not in paths}
            publish(self.table, self._rewritten(changed), replace=True)
        return len(changed)

    def stored(self, path: str) -> bytes | None:
        """Return the bytes of a stored image; None if there are none, or others than its name says."""
        if not _STORED.fullmatch(path):
            return None
        content = FolderSource(self.folder).read(
            path, max_bytes=byte_limit(self._cache.made_by.max_pixels or MAX_PIXELS)
        )
        if isinstance(content, Failure) or content.sha256 != _digest_in(path):
            return None
        return content.data

    def stored_content(self, sha256: str) -> bytes | None:
        """Return the bytes of a stored image by its digest; None if it is not stored."""
        paths = self._stored_paths(sha256, None)
        return self.stored(paths[0]) if paths else None

    def _stored_paths(self, sha256: str, data: bytes | None) -> list[str]:
        """Return the path of a stored image, after storing ``data`` if given; none if it is not stored."""
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            return []
        folder = self.folder / TRAIN if self._has_train_split() else self.folder
        prefix = f"{TRAIN}/" if folder != self.folder else ""
        if data is not None:
            make_directory(self.folder)
            make_directory(folder)
            name = f"{sha256}{FORMATS[format_of(data) or 'PNG'].extensions[-1]}"
            publish_once(folder / name, data)
            return [f"{prefix}{name}"]
        known = sorted(path.name for path in folder.glob(f"{sha256}.*")) if folder.is_dir() else []
        return [f"{prefix}{name}" for name in known[:1]]

    def _has_train_split(self) -> bool:
        """Whether the cache has labelled rows in its train split; then only that split trains heads."""
        images = self._cache.index.images
        return bool(np.any((images["split"] == TRAIN.encode("ascii")) & (images["label"] >= 0)))

    def _rewritten(self, labels: Mapping[str, str | None]) -> bytes:
        """Return the table with these labels; further columns of its rows stay."""
        header, rows = ["path", "label"], list[list[str]]()
        if self.table.exists():
            with open_regular(self.table) as stream:
                text = stream.read().decode("utf-8-sig")
            header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if any(map(str.strip, row))]
        titles = [title.strip().lower() for title in header]
        path_at, label_at = titles.index("path"), titles.index("label")
        before = {normal_path(row[path_at]): row for row in rows}
        written = io.StringIO(newline="")
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(header)
        for path, label in labels.items():
            row = before.get(path) or [""] * len(header)
            row[path_at], row[label_at] = path, label or ""
            writer.writerow(row)
        return written.getvalue().encode("utf-8")


def _checked(label: str) -> str:
    """Return a label without spaces around it; raise `ParameterError` if it is no name."""
    name = label.strip()
    if not name or len(name) > LONGEST_LABEL or not name.isprintable():
        shown = label[:LONGEST_LABEL]
        raise ParameterError(f"label is {shown!r}; expected a class of 1 to {LONGEST_LABEL} printable characters")
    return name


def _digest_in(path: str) -> str | None:
    """Return the digest in the path of a stored image; None for another path."""
    found = _STORED.fullmatch(path)
    return found[1] if found else None
