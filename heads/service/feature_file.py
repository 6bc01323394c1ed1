"""Features by content in an SQLite file of bounded size, which survives a restart of the service."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING

import numpy as np

from featurecache.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from featurecache.recipe import Recipe
    from heads.service.content_cache import Rows

_APPLICATION = 0x46434653  # "FCFS", in the file's header
_WAITING = 1024  # contents that wait to be written; further ones are dropped, so that a slow disk slows nobody
_AT_ONCE = 256  # contents of a transaction
_DIGEST_BYTES = 16
_SLACK = 1.25  # a row's place in the file, index and free space included, by its features
_SCHEMA = """
CREATE TABLE IF NOT EXISTS features (
    number INTEGER PRIMARY KEY AUTOINCREMENT, recipe BLOB NOT NULL, sha256 BLOB NOT NULL, features BLOB NOT NULL,
    digest BLOB NOT NULL, UNIQUE (recipe, sha256)
)"""


class SqliteFeatures:
    """Features by content in a file; writing happens in a thread, a transaction for many contents.

    Another recipe's features may lie in the same file. A row that is damaged is ignored. A file that can no longer be
    read or written is left alone, with one message; the service goes on without it.

    Parameters
    ----------
    path
        The file; it is made if it does not exist.
    recipe
        The recipe of the features, with all taps that are served.
    max_bytes
        Bound of the features of all contents; the oldest go first.
    notify
        Called with a one-line message if the file fails.

    Raises
    ------
    OptionError
        If the file is something else, or cannot be opened.
    """

    def __init__(
        self, path: Path, recipe: Recipe, max_bytes: int, *, notify: Callable[[str], None] = lambda _: None
    ) -> None:
        self._path, self._notify = path, notify
        self._recipe = bytes.fromhex(recipe.fingerprint)
        self._parts = [(tap, recipe.stored_dtype(tap), width) for tap, width in recipe.taps.items()]
        self._row_bytes = recipe.row_bytes
        self._most = max(1, int(max_bytes / (_SLACK * self._row_bytes + 200)))
        self._reading = Lock()
        self._failed = False
        self._queue: SimpleQueue[tuple[str, Rows] | None] = SimpleQueue()
        try:
            self._connection = _opened(path)
        except (sqlite3.Error, OSError) as e:
            raise OptionError(f"{path} cannot be used to keep features: {e}; name another file, or remove it") from e
        self._writer = Thread(target=self._write, name="features", daemon=True)
        self._writer.start()

    def get(self, sha256: str) -> Rows | None:
        """Return the features of a content; None if the file lacks it."""
        if self._failed:
            return None
        try:
            with self._reading:
                found = self._connection.execute(
                    "SELECT features, digest FROM features WHERE recipe = ? AND sha256 = ?",
                    (self._recipe, bytes.fromhex(sha256)),
                ).fetchone()
        except sqlite3.Error as e:
            self._fail(e)
            return None
        if found is None or len(found[0]) != self._row_bytes or _digest(found[0]) != found[1]:
            return None
        rows, place = {}, 0
        for tap, dtype, width in self._parts:
            rows[tap] = np.frombuffer(found[0], dtype, width, place)
            place += width * dtype.itemsize
        return rows

    def put(self, sha256: str, rows: Rows) -> None:
        """Keep the features of a content; returns at once."""
        if not self._failed and self._queue.qsize() < _WAITING:
            self._queue.put((sha256, rows))

    def close(self) -> None:
        """Write what is not written yet, and close the file."""
        self._queue.put(None)
        self._writer.join()
        with self._reading, suppress(sqlite3.Error):
            self._connection.close()

    def _write(self) -> None:
        """Write contents until there is a None, in a thread."""
        try:
            with closing(_opened(self._path)) as connection:
                ended = False
                while not ended:
                    waiting = self._waiting()
                    ended = waiting[-1] is None
                    contents = [item for item in waiting if item is not None]
                    if contents:
                        self._store(connection, contents)
        except (sqlite3.Error, OSError) as e:
            self._fail(e)

    def _waiting(self) -> list[tuple[str, Rows] | None]:
        """Wait for contents to write; return those that wait, at most `_AT_ONCE`, up to a None."""
        items = [self._queue.get()]
        while items[-1] is not None and len(items) < _AT_ONCE:
            try:
                items.append(self._queue.get_nowait())
            except Empty:
                break
        return items

    def _store(self, connection: sqlite3.Connection, contents: list[tuple[str, Rows]]) -> None:
        """Write contents in one transaction, and remove the oldest ones beyond the bound."""
        values = []
        for sha256, rows in contents:
            features = b"".join(rows[tap].astype(dtype, copy=False).tobytes() for tap, dtype, _ in self._parts)
            values.append((self._recipe, bytes.fromhex(sha256), features, _digest(features)))
        with connection:
            connection.executemany(
                "INSERT OR REPLACE INTO features (recipe, sha256, features, digest) VALUES (?, ?, ?, ?)", values
            )
            connection.execute(
                "DELETE FROM features WHERE number <= (SELECT max(number) FROM features) - ?", (self._most,)
            )

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            self._notify(f"{self._path} is not used any more: {error}; features are kept in memory alone")


def _opened(path: Path) -> sqlite3.Connection:
    """Open or make a file of features; raise `sqlite3.Error` if it is something else."""
    connection = sqlite3.connect(path, timeout=5, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table unless it is there."""
    found = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if found != _APPLICATION and (found or tables):
        raise sqlite3.DatabaseError("it is the database of another program")
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(_SCHEMA)


def _digest(features: bytes) -> bytes:
    return hashlib.blake2b(features, digest_size=_DIGEST_BYTES).digest()
