"""Locks a directory for one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurecache.errors import OutputError
from featurecache.storage.output_errors import output_error
from featurecache.storage.platform import Lock, lock


def lock_directory(path: Path, *, wait: bool = False) -> Lock | None:
    """Lock a directory until the returned lock is closed or the process ends.

    Parameters
    ----------
    wait
        Whether to wait while another holds the lock, instead of raising an error.

    Returns
    -------
    Lock or None
        None where the file system has no locks.

    Raises
    ------
    OutputError
        If another process holds the lock, or the directory cannot be opened.
    """
    try:
        held = lock(path, wait=wait)
    except BlockingIOError as e:
        raise OutputError(
            f"another run is at work in {path}; wait until it has ended, then run the same command again"
        ) from e
    except OSError as e:
        raise output_error(path, e) from e
    if held is not None and not held.holds():
        held.close()
        raise OutputError(f"{path} was removed by another run, which has just ended; run the same command again")
    return held


@contextmanager
def turn_in(path: Path) -> Iterator[None]:
    """Wait until no other process or thread has its turn in a directory, and keep them waiting."""
    held = lock_directory(path, wait=True)
    try:
        yield
    finally:
        if held is not None:
            held.close()
