"""Locks a directory for one process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featurecache.errors import OutputError
from featurecache.storage.output_errors import output_error


def lock_directory(path: Path, *, wait: bool = False) -> int | None:
    """Lock a directory until the returned descriptor is closed or the process ends.

    Parameters
    ----------
    wait
        Whether to wait while another holds the lock, instead of raising an error.

    Returns
    -------
    int or None
        An open descriptor; None where the file system has no locks.

    Raises
    ------
    OutputError
        If another process holds the lock, or the directory cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise output_error(path, e) from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as e:
        os.close(descriptor)
        raise OutputError(
            f"another run is at work in {path}; wait until it has ended, then run the same command again"
        ) from e
    except OSError:
        os.close(descriptor)
        return None
    if not path.is_dir() or not os.path.samestat(os.fstat(descriptor), path.stat()):
        os.close(descriptor)
        raise OutputError(f"{path} was removed by another run, which has just ended; run the same command again")
    return descriptor


@contextmanager
def turn_in(path: Path) -> Iterator[None]:
    """Wait until no other process or thread has its turn in a directory, and keep them waiting."""
    lock = lock_directory(path, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
