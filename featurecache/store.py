"""What is known of an unfinished run: contents to features, in shards and commit records beside the cache.

``CACHE.h5.work/`` holds ``recipe.json``, ``shards/`` and ``commits/``. A shard is published whole, then its commit
record; readers follow commit records alone, so that nothing half done is ever believed. Shards bear the hash of their
own bytes as their name. A run claims the directory: two at a time would remove each other's rows.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from featurecache import layout
from featurecache.cache import FeatureCache, RowPlace, work_directory
from featurecache.decode import Failure, read_file
from featurecache.errors import CacheFormatError, OutputError, RecipeError
from featurecache.files import open_regular
from featurecache.layout import FeatureBlock
from featurecache.publish import (
    claim_directory,
    make_directory,
    output_error,
    publish,
    publish_once,
    remove_directory,
    sync_directory,
)
from featurecache.recipe import Recipe
from featurecache.records import Record, read_record, record_name
from featurecache.sightings import Sighting, sightings_of

Batch = tuple[list[str], dict[str, NDArray[Any]]]
"""Hashes of m contents, and of every tap their features, shape (m, d)."""

_REPLACE = "choose another path, or --replace it"


@dataclass(frozen=True, slots=True)
class Shard:
    """A published shard, as a source of rows."""

    path: Path
    blocks: Mapping[str, FeatureBlock]

    def read(self, tap: str, start: int, count: int) -> NDArray[Any]:
        """Return ``count`` rows of a tap from row ``start`` on, as stored, shape (count, d)."""
        with open_regular(self.path) as stream:
            return self.blocks[tap].read(stream.fileno(), start, count)


class Store:
    """Contents to features, for one recipe; opened beside a cache, gone when the cache is finished.

    ``cache`` is the finished cache that there was before, if it is of this recipe; ``replaces`` whether there was any.
    ``places`` maps the hash of a content to where its features lie, ``reasons`` the hash of an undecodable content to
    what is wrong with it, and ``sightings`` a path to what was last seen there. ``circumstances`` are those in which
    an unfinished run committed what it had, with the number of rows.
    """

    def __init__(self, directory: Path, recipe: Recipe) -> None:
        self.directory = directory
        self.recipe = recipe
        self.cache: FeatureCache | None = None
        self.replaces = False
        self.places: dict[str, RowPlace] = {}
        self.reasons: dict[str, str] = {}
        self.sightings: dict[str, Sighting] = {}
        self.circumstances: list[dict[str, Any]] = []
        self._commits: set[str] = set()
        self._last = 0
        self._own: set[int] = set()
        self._is_made = False
        self._claim: int | None = None

    @classmethod
    def beside(cls, cache_path: Path, recipe: Recipe, *, replace: bool = False) -> Self:
        """Open the store of a run that makes ``cache_path``: what the cache and an unfinished run hold is known.

        Nothing is written before the first `commit`. With ``replace``, what was made with another recipe is not
        refused: an unfinished run is removed, and the cache stays until it is replaced.

        Raises
        ------
        RecipeError
            If the cache or the unfinished run belongs to another recipe.
        CacheFormatError
            If either is damaged.
        """
        store = cls(work_directory(cache_path), recipe)
        if cache_path.exists():
            store.replaces = True
            cache = FeatureCache.open(cache_path)
            if not replace:
                require_recipe(cache.recipe, recipe, cache_path)
            if cache.recipe == recipe:
                store._know_cache(cache)
        found = unfinished_recipe(cache_path)
        if found:
            if not replace:
                require_recipe(found, recipe, store.directory)
            if found == recipe:
                store._know_commits()
            else:
                store.discard()
        return store

    def look(self, path: str, file: bytes, *, max_bytes: int, rehash: bool = False) -> tuple[Sighting, bytes | None]:
        """Say what an image file is; return its bytes only if nothing is known of its content.

        Parameters
        ----------
        path, file
            The path of the manifest, and the file's name as the operating system knows it.
        max_bytes
            A larger file is not read.
        rehash
            Read the file even if its size and modification time are those that were seen.
        """
        before = self.sightings.get(path)
        if before and not rehash and self._is_settled(before) and before.still_holds(file):
            return before, None
        read = read_file(file, max_bytes=max_bytes)
        if isinstance(read, Failure):
            return Sighting(path, -1, -1, "", read.reason), None
        is_known = read.sha256 in self.places
        reason = "" if is_known else self.reasons.get(read.sha256, "")
        sighting = Sighting(path, read.size, read.mtime_ns, read.sha256, reason)
        return sighting, None if is_known or reason else read.data

    def is_known(self, path: str) -> bool:
        """Whether the content that was last seen at a path has features, or is known to have none."""
        return path in self.sightings and self._is_settled(self.sightings[path])

    def batch_size(self, engine: str) -> int | None:
        """Return how many images an engine had in a batch when this run was interrupted; none if it has not begun."""
        made_by = [each.get("engine", {}) for each in self.circumstances]
        sizes = [str(each.get("batch_size")) for each in made_by if each.get("engine") == engine]
        return int(sizes[-1]) if sizes and sizes[-1].isdecimal() else None

    def commit(self, batches: Sequence[Batch], sightings: Iterable[Sighting], circumstances: Mapping[str, Any]) -> None:
        """Make features and sightings durable; when this returns, no crash can lose them.

        Parameters
        ----------
        batches
            Contents with their features.
        sightings
            What was seen where since the last commit.
        circumstances
            What the features were computed with.

        Raises
        ------
        OutputError
            If the disk does not take it; what was committed before is intact.
        """
        self._make_directories()
        rows = sum(len(contents) for contents, _ in batches)
        data = layout.encode_shard(self.recipe, batches) if rows else b""
        digest = hashlib.sha256(data).hexdigest()
        self._last += 1
        self._own.add(self._last)
        record = Record(
            number=self._last,
            file=f"{digest[:32]}.h5" if rows else None,
            sha256=digest,
            size=len(data),
            rows=rows,
            circumstances=dict(circumstances),
            sightings=tuple(sightings),
        )
        text = record.to_json()
        if record.file:
            publish_once(self.directory / "shards" / record.file, data)  # a taken name is the hash of the same bytes
        publish_once(self.directory / "commits" / record_name(text), text)

    def refresh(self) -> None:
        """Learn what was committed since the store was opened."""
        self._know_commits()

    def scratch(self) -> Path:
        """Return the work directory, made if need be, for files that have no final name yet."""
        self._make_directories()
        return self.directory

    def claim(self) -> None:
        """Keep other runs out of the work directory, if there is one, until `release` or the end of the process.

        Raises
        ------
        OutputError
            If another run is at work.
        """
        if self._claim is not None and not os.fstat(self._claim).st_nlink:
            self.release()  # the claim is of a directory that was removed meanwhile
        if self._claim is None and self.directory.is_dir():
            self._claim = claim_directory(self.directory)

    def release(self) -> None:
        """Let other runs into the work directory."""
        self._is_made = False
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def discard(self) -> None:
        """Remove the work directory; its rows are in the finished cache.

        The cache's name is durable before anything goes, and no commit record outlives its shard: whenever this is
        cut off, a whole store is left.
        """
        if not self.directory.is_dir():
            return
        self.claim()
        sync_directory(self.directory.parent)
        remove_directory(self.directory / "commits")
        sync_directory(self.directory)
        remove_directory(self.directory)
        self.release()

    def _make_directories(self) -> None:
        """Make what is not there, and make durable what an earlier run may have been killed at."""
        if self._is_made:
            return
        make_directory(self.directory)
        self.claim()
        for directory in (self.directory / "shards", self.directory / "commits"):
            make_directory(directory)
        recorded, text = self.directory / "recipe.json", self.recipe.to_json().encode("ascii")
        publish_once(recorded, text)
        try:
            is_ours = recorded.read_bytes() == text
        except OSError as e:
            raise output_error(recorded, e) from e
        if not is_ours:  # of a run that committed nothing: else it would have been refused
            publish(recorded, text, replace=True)
        self._is_made = True

    def _is_settled(self, sighting: Sighting) -> bool:
        """Whether nothing has to be done for the content that was seen."""
        if sighting.reason:
            return sighting.sha256 in self.reasons and sighting.sha256 not in self.places
        return sighting.sha256 in self.places

    def _know_cache(self, cache: FeatureCache) -> None:
        self.cache = cache
        for row, sighting in enumerate(sightings_of(cache.index.images)):
            self.places.setdefault(sighting.sha256, RowPlace(cache, row))
            self._know(sighting)
        for sighting in sightings_of(cache.index.failures):
            self._know(sighting)

    def _know_commits(self) -> None:
        """Learn from the commit records that are not known yet, in the order in which they were made."""
        found = [path for path in (self.directory / "commits").glob("*.json") if path.name not in self._commits]
        try:
            records = sorted(((read_record(path), path) for path in found), key=lambda pair: pair[0].number)
            for record, path in records:
                if record.file is not None:
                    self._know_shard(record, path)
        except CacheFormatError as e:
            if all(path.exists() for path in found):
                raise
            raise OutputError(
                f"{self.directory} was removed by another run, which has ended; run the same command again"
            ) from e
        for record, path in records:
            self._commits.add(path.name)
            self._last = max(self._last, record.number)
            for sighting in record.sightings:
                self._know(sighting)
            if record.number not in self._own:
                self._know_circumstances(record)

    def _know_circumstances(self, record: Record) -> None:
        """Add a record's rows to those that were computed in the same circumstances just before."""
        rows = 0
        if self.circumstances and self.circumstances[-1] | {"rows": 0} == record.circumstances | {"rows": 0}:
            rows = self.circumstances.pop()["rows"]
        self.circumstances.append(record.circumstances | {"rows": rows + record.rows})

    def _know_shard(self, record: Record, record_path: Path) -> None:
        path = self.directory / "shards" / str(record.file)
        remedy = f"remove {record_path} to compute its {record.rows} images again"
        try:
            with open_regular(path) as stream:
                is_whole = hashlib.file_digest(stream, "sha256").hexdigest() == record.sha256
                contents, blocks = layout.read_shard(stream, self.recipe) if is_whole else ([], {})
        except OSError as e:
            reason = (e.strerror or str(e)).lower()
            raise CacheFormatError(f"the shard {path} cannot be read: {reason}; {remedy}") from e
        except CacheFormatError as e:
            raise CacheFormatError(f"{e}; {remedy}") from e
        if not is_whole or len(contents) != record.rows:
            raise CacheFormatError(f"{path} is damaged: it is not the shard that was committed; {remedy}")
        shard = Shard(path, blocks)
        for row, content in enumerate(contents):
            self.places.setdefault(content, RowPlace(shard, row))

    def _know(self, sighting: Sighting) -> None:
        self.sightings[sighting.path] = sighting
        if not sighting.reason:
            self.reasons.pop(sighting.sha256, None)
        elif sighting.sha256:
            self.reasons[sighting.sha256] = sighting.reason


def unfinished_recipe(cache_path: Path) -> Recipe | None:
    """Return the recipe of the unfinished run that makes ``cache_path``; None if none has committed anything."""
    recorded = work_directory(cache_path) / "recipe.json"
    try:
        with open_regular(recorded) as stream:
            recipe = Recipe.from_json(stream.read().decode("utf-8"))
        return recipe if any((recorded.parent / "commits").glob("*.json")) else None
    except FileNotFoundError:
        return None
    except NotADirectoryError as e:
        raise OutputError(
            f"{recorded.parent} is in the way: a run keeps there what is unfinished; move that file, "
            "or choose another path"
        ) from e
    except (OSError, ValueError) as e:
        raise CacheFormatError(f"{recorded} cannot be read: {e}; remove {recorded.parent} to begin again") from e


def require_recipe(found: Recipe, wanted: Recipe, where: object, remedy: str = _REPLACE) -> None:
    """Raise `RecipeError` if what lies at ``where`` was made with another recipe, naming every field that differs."""
    differences = [f"{d.field} is {d.ours!r}, wanted {d.theirs!r}" for d in found.differences(wanted)]
    if differences:
        raise RecipeError(f"{where} was made with another recipe: {'; '.join(differences)}; {remedy}")
