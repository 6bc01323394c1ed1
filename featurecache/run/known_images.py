"""What a run need not compute: the images that are known from the cache and from the commits of an unfinished run."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache
from featurecache.errors import CacheFormatError
from featurecache.format import layout
from featurecache.format.checks import FeatureBlock
from featurecache.format.feature_file import RowPlaces, RowSource
from featurecache.format.file_records import UNKNOWN, FileRecord, file_records_from_columns
from featurecache.images.failures import Failure
from featurecache.images.files import FileContent
from featurecache.images.frames import read_image, stat_image
from featurecache.images.image_source import ImageSource
from featurecache.images.names import shown_name
from featurecache.notices import Notice
from featurecache.options import ImagePart
from featurecache.recipe import Recipe
from featurecache.rows import PartFile
from featurecache.run.commit_records import CommitRecord
from featurecache.run.content_set import ContentSet
from featurecache.storage.files import open_regular
from featurecache.text import counted


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard; rows are read by position."""

    path: Path
    blocks: Mapping[str, FeatureBlock]

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return ``count`` rows of a tap from row ``start`` on, as stored, shape (count, d)."""
        with open_regular(self.path) as stream:
            return self.blocks[tap].read(stream.fileno(), start, count)


class ContentPlaces:
    """The places of contents, by hash, some 56 bytes for each; the first place of a content holds."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all places."""
        self.sources: list[RowSource] = []
        self._contents = ContentSet()
        self._of_source = array("i")
        self._rows = array("q")

    def __len__(self) -> int:
        return len(self._contents)

    def __contains__(self, content: str) -> bool:
        return content in self._contents

    def __iter__(self) -> Iterator[str]:
        return iter(self._contents)

    def add(self, contents: Iterable[str], places: RowPlaces) -> None:
        """Add contents with their places; those that have one keep it."""
        numbers = (places.numbers + len(self.sources)).tolist()
        for content, number, row in zip(contents, numbers, places.rows.tolist(), strict=True):
            if self._contents.add(content):
                self._of_source.append(number)
                self._rows.append(row)
        self.sources += places.sources

    def source(self, content: str) -> int | None:
        """Return the number of the source that has a content; None if there is none."""
        number = self._contents.number(content)
        return None if number is None else self._of_source[number]

    def of(self, contents: Iterable[str]) -> RowPlaces:
        """Return the places of contents; raise `KeyError` if one has none."""
        chosen = array("q")
        for content in contents:
            number = self._contents.number(content)
            if number is None:
                raise KeyError(content)
            chosen.append(number)
        numbers = np.frombuffer(chosen, np.int64)
        of_source, rows = np.frombuffer(self._of_source, np.int32), np.frombuffer(self._rows, np.int64)
        return RowPlaces(tuple(self.sources), of_source[numbers], rows[numbers])


class KnownImages:
    """The contents that have features or cannot be decoded, and the file records of paths, under one recipe.

    Attributes
    ----------
    places
        The places of the contents' features.
    reasons
        Hash of a content that cannot be decoded to the reason.
    file_records
        Path to its latest file record.
    part
        The part of the images whose contents are wanted; None for all.
    """

    def __init__(self) -> None:
        self.places = ContentPlaces()
        self.reasons: dict[str, str] = {}
        self.file_records: dict[str, FileRecord] = {}
        self.part: ImagePart | None = None
        self._unreached: dict[str, str] = {}  # path to why it could not be read, of images that are known all the same
        self._cached_reasons: frozenset[str] = frozenset()
        self._cached_sources = 0  # the first sources of the places

    def is_cached(self, content: str) -> bool:
        """Whether the existing cache has the features of a content, or knows that it cannot be decoded."""
        source = self.places.source(content)
        return content in self._cached_reasons if source is None else source < self._cached_sources

    def is_committed(self, content: str) -> bool:
        """Whether the unfinished run has the features of a content, or knows that it cannot be decoded."""
        return (content in self.places or content in self.reasons) and not self.is_cached(content)

    def is_elsewhere(self, content: str) -> bool:
        """Whether a content is in another part of the images. An image that cannot be read has none, and is in all."""
        return self.part is not None and content != "" and not self.part.holds(content)

    def forget_failures(self) -> None:
        """Let contents that could not be decoded be decoded again."""
        self.reasons.clear()
        self._cached_reasons = frozenset()

    def inspect(
        self, path: str, source: ImageSource, *, max_bytes: int, rehash: bool = False
    ) -> tuple[FileRecord, FileContent | None]:
        """Return the file record of an image, and what was read if its content is new and of this part.

        An image that is known stays as it is while a disk, network or server does not answer; see `warnings`.

        Parameters
        ----------
        path, source
            The path in the manifest, and the source to read from.
        max_bytes
            Files larger than this give a failure.
        rehash
            Read the file even if its size and modification time have not changed.
        """
        before = self.file_records.get(path) if self.has_path(path) else None
        stat = stat_image(source, path) if before and not rehash else None
        if before and before.still_holds(stat):
            return before, None
        read = read_image(source, path, max_bytes=max_bytes)
        if isinstance(read, Failure):
            if before and stat is None and read.code == "unreadable":
                self._unreached[path] = read.reason
                return before, None
            return FileRecord(path, UNKNOWN, UNKNOWN, "", read.reason), None
        is_known = read.sha256 in self.places
        reason = "" if is_known else self.reasons.get(read.sha256, "")
        file_record = FileRecord(path, read.size, read.mtime_ns, read.sha256, reason)
        return file_record, None if is_known or reason or self.is_elsewhere(read.sha256) else read

    @property
    def warnings(self) -> tuple[Notice, ...]:
        """A warning about images that could not be read and stay as they are; none without such images."""
        if not self._unreached:
            return ()
        first = min(self._unreached)
        return (
            Notice(
                "unread_images",
                f"{counted(len(self._unreached), 'known image')} could not be read, the first {shown_name(first)} "
                f"({self._unreached[first]}), and stay as an earlier run found them",
            ),
        )

    def has_path(self, path: str) -> bool:
        """Whether the content last found at a path has features or is known to fail."""
        return path in self.file_records and self._is_settled(self.file_records[path])

    def add_cache(self, cache: FeatureCache) -> None:
        """Add the rows and failures of a cache."""
        self._add_places(cache, cache.places())
        for file_record in file_records_from_columns(cache.index.failures):
            self.add_file_record(file_record)
        self._cached_reasons = frozenset(self.reasons)
        self._cached_sources = len(self.places.sources)

    def add_rows(self, part: FeatureCache, source: PartFile) -> None:
        """Add the rows of a part that no cache uses."""
        self._add_places(part, RowPlaces.in_one(source, 0, len(part)))

    def _add_places(self, cache: FeatureCache, places: RowPlaces) -> None:
        contents = []
        for file_record in file_records_from_columns(cache.index.images):
            self.add_file_record(file_record)
            contents.append(file_record.sha256)
        self.places.add(contents, places)

    def add_shard(self, path: Path, record: CommitRecord, recipe: Recipe) -> None:
        """Add the features of a shard, which must have the bytes and the rows that its commit record says.

        Raises
        ------
        CacheFormatError
            If it cannot be read, is damaged, or has another recipe.
        """
        try:
            with open_regular(path) as stream:
                is_whole = hashlib.file_digest(stream, "sha256").hexdigest() == record.sha256
                contents, blocks = layout.read_shard(stream, recipe) if is_whole else ([], {})
        except OSError as e:
            raise CacheFormatError(f"the shard {path} cannot be read: {(e.strerror or str(e)).lower()}") from e
        if not is_whole or len(contents) != record.rows:
            raise CacheFormatError(f"{path} is damaged: it is not the shard that was committed")
        self.places.add(contents, RowPlaces.in_one(Shard(path, blocks), 0, len(contents)))

    def add_file_record(self, file_record: FileRecord) -> None:
        """Add a file record; it replaces an earlier one of its path."""
        self.file_records[file_record.path] = file_record
        if not file_record.reason:
            self.reasons.pop(file_record.sha256, None)
        elif file_record.sha256:
            self.reasons[file_record.sha256] = file_record.reason

    def _is_settled(self, file_record: FileRecord) -> bool:
        """Whether the content of a file record has features, is known to fail, or is in another part."""
        if self.is_elsewhere(file_record.sha256):
            return True
        if file_record.reason:
            return file_record.sha256 in self.reasons and file_record.sha256 not in self.places
        return file_record.sha256 in self.places
