"""The features and file records that a run has committed: shards and commit records beside the cache.

``CACHE.h5.work/`` holds ``recipe.json``, ``shards/`` and ``commits/``. A shard is published whole, then its commit
record; readers follow commit records only and never see a half-written shard. A shard's name is the hash of its bytes,
a record's name that of its unit.
A run locks the directory, because two runs at the same time would remove each other's rows.
"""

import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from featurecache.cache import FeatureCache, work_directory
from featurecache.errors import CacheFormatError, OutputError
from featurecache.format import layout
from featurecache.format.file_records import FileRecord
from featurecache.packing import PartsFolder
from featurecache.provenance import Environment
from featurecache.recipe import Recipe, require_recipe
from featurecache.rows import PartFiles
from featurecache.run.commit_records import CommitRecord, CommittedRows, FeatureBatch, publish_commit, read_record
from featurecache.run.known_images import KnownImages
from featurecache.storage.directory_lock import lock_directory
from featurecache.storage.files import open_regular
from featurecache.storage.output_errors import output_error
from featurecache.storage.platform import Lock
from featurecache.storage.process_identity import has_ended, this_process
from featurecache.storage.publish import (
    make_directory,
    name_directory,
    publish,
    publish_once,
    publishing,
    remove_directory,
    remove_files,
    sync_directory,
)

_AT_WORK = ".run-"  # how the names of files begin that say which runs are at work


class Store:
    """Everything known about images under one recipe, from the existing cache and from an unfinished run.

    One thread may call `commit` while another calls `scratch` or `close`.

    Attributes
    ----------
    cache
        The existing cache, if it has this recipe.
    replaces
        Whether there is an existing cache, of any recipe.
    part_rows
        The largest number of rows of a part, if the existing cache, of any recipe, is in parts; else None.
    parts_in_use
        The file names of its parts.
    token
        The name of a file that is in the work directory while this run is at work.
    known
        The images known from both.
    environments
        What the unfinished run's rows were computed with, in the order of the commits.
    """

    def __init__(self, cache_path: Path, recipe: Recipe) -> None:
        self.directory = work_directory(cache_path)
        self.token = f"{_AT_WORK}{secrets.token_hex(8)}"
        self.recipe = recipe
        self.cache: FeatureCache | None = None
        self._existing: FeatureCache | None = None  # of any recipe
        self.replaces = False
        self.part_rows: int | None = None
        self.parts_in_use: frozenset[str] = frozenset()
        self._parts = PartsFolder(cache_path)
        self.known = KnownImages()
        self.environments: list[CommittedRows] = []
        self._commits: set[str] = set()
        self._last = 0
        self._own: set[str] = set()
        self._expected: set[str] = set()
        self._continued: frozenset[str] = frozenset()  # records that were there when the store was opened
        self._is_made = False
        self._is_committing = self._is_closed = False
        self._lock: Lock | None = None
        self._mutex = threading.RLock()  # guards the members of the four lines above

    @classmethod
    def beside(
        cls,
        cache_path: Path,
        recipe: Recipe,
        *,
        replace: bool = False,
        cache: FeatureCache | None = None,
        records: Mapping[str, CommitRecord] | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open the store of a run that makes ``cache_path``, and load the cache and the unfinished run found there.

        Nothing is written before the first `commit`.

        Parameters
        ----------
        replace
            Accept a cache or an unfinished run of another recipe. The unfinished run is removed, unless the store is
            ``read_only``; the cache stays until the new one replaces it.
        cache
            The cache at ``cache_path``, if it is open already.
        records
            The commit records that were read already, by file name.
        read_only
            Write and remove nothing.

        Raises
        ------
        RecipeError
            If the cache or the unfinished run belongs to another recipe.
        CacheFormatError
            If either is damaged.
        """
        store = cls(cache_path, recipe)
        if cache_path.exists():
            store.replaces = True
            if cache is None:
                cache = (FeatureCache.open_sound_parts if replace else FeatureCache.open)(cache_path)
            store._existing = cache
            store._use_parts(cache)
            if not replace:
                require_recipe(cache.recipe, recipe, cache_path)
            if cache.recipe == recipe:
                store.cache = cache
                store.known.add_cache(cache)
        for path in store._parts.leftovers(store.parts_in_use):
            store._add_leftover(cache_path, path)
        found = unfinished_recipe(cache_path)
        if found:
            if not replace:
                require_recipe(found, recipe, store.directory)
            if found == recipe:
                store._load_commits(records or {})
            elif not read_only:
                store.discard()
        store._continued = frozenset(store._commits)
        return store

    @property
    def max_pixels(self) -> int:
        """The largest limit for images of earlier runs, in pixels; 0 if none is recorded."""
        parts: list[Environment] = [part.environment for part in self.environments]
        if self.cache is not None:
            parts.append(self.cache.made_by)
        return max((part.max_pixels or 0 for part in parts), default=0)

    def batch_size(self, engine: str) -> int | None:
        """Return the batch size that an engine had in the unfinished run; None if it computed nothing there."""
        engines = [part.environment.engine or {} for part in self.environments]
        sizes = [str(used.get("batch_size")) for used in engines if used.get("engine") == engine]
        return int(sizes[-1]) if sizes and sizes[-1].isdecimal() else None

    def commit(
        self, batches: Sequence[FeatureBatch], file_records: Iterable[FileRecord], environment: Environment
    ) -> None:
        """Write features and file records durably: after the return, no crash loses them.

        Parameters
        ----------
        batches
            Hashes of contents with their features.
        file_records
            What was found at paths since the last commit.
        environment
            What the features were computed with.

        Raises
        ------
        OutputError
            If writing fails, or the store is closed; earlier commits stay intact.
        """
        with self._mutex:
            if self._is_closed:
                raise OutputError(f"{self.directory} is closed: its run was interrupted; run the same command again")
            self._is_committing = True
        try:
            self._make_directories()
            self._publish_commit(batches, file_records, environment)
        finally:
            self._end_commit()

    @property
    def next_number(self) -> int:
        """The number of the next commit."""
        return self._last + 1

    def refresh(self) -> None:
        """Load the features that were committed since the store was opened; a run knows its own file records."""
        self._load_commits({}, with_file_records=False)

    def add_own(self, name: str) -> None:
        """Count the rows of a commit record that a worker has published as this run's own."""
        self._own.add(name)

    def expect(self, name: str) -> bool:
        """Let `refresh` load a commit record that a worker has published; return whether it is seen already."""
        self._expected.add(name)
        return (self.directory / "commits" / name).exists()

    def scratch(self) -> Path:
        """Return the work directory, created if needed, for temporary files."""
        self._make_directories()
        return self.directory

    def lock(self) -> None:
        """Lock the work directory, if it exists, against other runs, until `close` or the end of the process.

        Raises
        ------
        OutputError
            If another run holds the lock.
        """
        with self._mutex:
            if self._lock is not None and self._lock.is_of_removed:
                self._unlock()
            if self._lock is None and self.directory.is_dir():
                self._lock = lock_directory(self.directory)

    def release(self) -> None:
        """Close the existing cache, which a new one is about to replace: Windows replaces no file that is open."""
        if self._existing is not None:
            self._existing.release()

    def close(self) -> None:
        """Refuse further commits, and unlock the work directory when the commit under way has ended.

        The method does not wait for that commit.
        """
        with self._mutex:
            self._is_closed = True
            try:
                self._remove_token()
            finally:
                if not self._is_committing:
                    self._unlock()

    def discard(self, packed: NDArray[np.bytes_] | None = None) -> None:
        """Remove the work directory, after its rows were written to the cache.

        The cache's name is made durable first, and parts that it does not use are removed before their list. The
        directory is renamed before it is removed, so that nobody commits to it any more. Where locks do not work,
        other runs may have been at work: then the directory stays if it has rows of theirs that are not in the cache.

        Parameters
        ----------
        packed
            Hashes of the contents in the cache, shape (n,); if None, everything is removed, whatever it is.
        """
        old = self.directory.with_name(f"{self.directory.name}.old")
        if old.is_dir():  # of a run that was killed here
            remove_directory(old)
        if not self.directory.is_dir():
            return
        self.lock()
        sync_directory(self.directory.parent)
        self._parts.remove_unused(self.parts_in_use)
        if not self._is_needed(self.directory, packed):
            self._rename(self.directory, old)
            if not old.is_dir() or self._is_needed(old, packed):  # not ours, or of a run that has just begun
                self._rename(old, self.directory)
            else:
                remove_directory(old)
        self._remove_token()
        self._unlock()

    def _rename(self, directory: Path, name: Path) -> None:
        """Give the work directory another name."""
        try:
            name_directory(directory, name)
        except FileExistsError as e:
            raise OutputError(
                f"another run has made {name} while this one removed it; the cache is complete, and {directory} has "
                "what other runs have committed"
            ) from e

    def _is_needed(self, directory: Path, packed: NDArray[np.bytes_] | None) -> bool:
        """Whether others have committed contents that are not in the cache, since this run began or while they run."""
        if packed is None:
            return False
        others = [path for path in directory.glob(f"{_AT_WORK}*") if path.name != self.token]
        known = self._own | self._expected
        if all(map(_has_ended, others)):
            known |= self._continued
        for path in (directory / "commits").glob("*.json"):
            record = None if path.name in known else read_record(path)
            if record and record.file:
                with open_regular(directory / "shards" / record.file) as stream:
                    contents, _ = layout.read_shard(stream, self.recipe)
                if not np.isin(np.array(contents, packed.dtype), packed).all():
                    return True
        return False

    def _remove_token(self) -> None:
        token = self.directory / self.token
        if token.exists():
            with suppress(OutputError):
                remove_files([token])

    def _use_parts(self, cache: FeatureCache) -> None:
        """Keep what the existing cache says of its parts."""
        if cache.index.places is not None:
            parts = cache.index.places.parts
            self.part_rows = cache.made_by.part_rows or max(part.rows for part in parts)
            self.parts_in_use = frozenset(part.file for part in parts)

    def _add_leftover(self, cache_path: Path, path: Path) -> None:
        """Add the rows of a part that a killed run has finished, unless it has another recipe or is damaged."""
        try:
            part = FeatureCache.open(path)
        except CacheFormatError:
            return
        if part.recipe == self.recipe:
            (source,) = PartFiles(cache_path.absolute(), (part.as_part(),)).sources
            self.known.add_rows(part, source)

    def _end_commit(self) -> None:
        """Unlock the work directory if the store was closed during the commit."""
        with self._mutex:
            self._is_committing = False
            if self._is_closed:
                self._unlock()

    def _publish_commit(
        self, batches: Sequence[FeatureBatch], file_records: Iterable[FileRecord], environment: Environment
    ) -> None:
        """Publish a shard, if there are features, and then its commit record, with the next number."""
        self._last += 1
        name = publish_commit(
            self.directory,
            self.recipe,
            number=self._last,
            batches=batches,
            file_records=file_records,
            environment=environment,
        )
        self._own.add(name)

    def _make_directories(self) -> None:
        """Create the directories that are missing, and make durable what a killed run may have left."""
        with self._mutex:
            if self._is_made:
                return
            make_directory(self.directory)
            self.lock()
            with suppress(FileExistsError), publishing(self.directory / self.token, durable=False) as draft:
                draft.write(this_process().encode("utf-8"), 0)
            for directory in (self.directory / "shards", self.directory / "commits"):
                make_directory(directory)
            self._publish_recipe()
            self._is_made = True

    def _publish_recipe(self) -> None:
        """Publish the recipe's file; replace one of another recipe."""
        recorded, text = self.directory / "recipe.json", self.recipe.to_json().encode("ascii")
        publish_once(recorded, text)
        try:
            is_ours = recorded.read_bytes() == text
        except OSError as e:
            raise output_error(recorded, e) from e
        if not is_ours:  # left by a run that committed nothing; others are refused when the store is opened
            publish(recorded, text, replace=True)

    def _unlock(self) -> None:
        """Unlock the work directory."""
        self._is_made = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _load_commits(self, read: Mapping[str, CommitRecord], *, with_file_records: bool = True) -> None:
        """Load the commit records that were not loaded yet, in the order of their numbers; some may be read already."""
        directory = self.directory / "commits"
        listed = {path.name for path in directory.glob("*.json")}
        names = listed | self._own | self._expected  # the list of a shared folder may be out of date
        found = [directory / name for name in names - self._commits]
        try:
            pairs = ((read.get(path.name) or read_record(path), path) for path in found)
            if not with_file_records:
                pairs = ((replace(record, file_records=()), path) for record, path in pairs)
            records = sorted(pairs, key=lambda pair: (pair[0].number, pair[1].name))
            for record, path in records:
                if record.file is not None:
                    self._add_shard(record, path)
        except CacheFormatError as e:
            if all(path.exists() for path in found):
                raise
            raise OutputError(
                f"{self.directory} was removed by another run, which has ended; run the same command again"
            ) from e
        for record, path in records:
            self._commits.add(path.name)
            self._last = max(self._last, record.number)
            for file_record in record.file_records:
                self.known.add_file_record(file_record)
            if record.rows and path.name not in self._own:
                self._add_environment(record)

    def _add_environment(self, record: CommitRecord) -> None:
        """Count a record's rows, together with the rows before it if the environment is the same."""
        rows = 0
        if self.environments and self.environments[-1].environment == record.environment:
            rows = self.environments.pop().rows
        self.environments.append(CommittedRows(record.environment, rows + record.rows))

    def _add_shard(self, record: CommitRecord, record_path: Path) -> None:
        """Load the shard of a commit record; an error names what to remove to compute its images again."""
        try:
            self.known.add_shard(self.directory / "shards" / str(record.file), record, self.recipe)
        except CacheFormatError as e:
            raise CacheFormatError(f"{e}; remove {record_path} to compute its {record.rows} images again") from e


def _has_ended(token: Path) -> bool:
    """Return whether the run with this file has certainly ended; one that ends removes its file."""
    try:
        identity = token.read_text("utf-8")
    except FileNotFoundError:
        return True
    return has_ended(identity)


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
            f"{recorded.parent} is a file, where a run needs a folder; move it or choose another path"
        ) from e
    except (OSError, ValueError) as e:
        raise CacheFormatError(f"{recorded} cannot be read: {e}; remove {recorded.parent} to begin again") from e


def unfinished_records(cache_path: Path) -> dict[str, CommitRecord]:
    """Return the commit records of an unfinished run by file name, the latest first."""
    records: dict[str, CommitRecord] = {}
    for path in (work_directory(cache_path) / "commits").glob("*.json"):
        try:
            records[path.name] = read_record(path)
        except CacheFormatError:
            if path.exists():  # else another run has ended and removed it
                raise
    return dict(sorted(records.items(), key=lambda item: item[1].number, reverse=True))
