"""Opens regular files only: a pipe or a device that a user names is refused, not waited for; finds users' folders."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from featurecache.storage.platform import READ_FLAGS


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises
    ------
    OSError
        If it is not there, cannot be read, or is a directory, a pipe, a socket or a device.
    """
    stream = open(path, "rb", opener=lambda name, flags: os.open(name, flags | READ_FLAGS))  # noqa: SIM115
    mode = os.fstat(stream.fileno()).st_mode
    if not stat.S_ISREG(mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return stream


def home_folder() -> Path:
    """Return the user's home folder, or the root folder for a user without one, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def cache_folder() -> Path:
    """Return the folder where this project keeps what it can make again, in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home_folder() / ".cache") / "featurecache"
