"""Errors of results that cannot be written: found before the work begins, or built from an `OSError`."""

import errno
import os
import shutil
from pathlib import Path

from featurecache.errors import OutputError
from featurecache.storage.platform import is_open_elsewhere, is_too_long, path_fault
from featurecache.text import in_units


def require_place(path: Path) -> None:
    """Check that a file or directory can be created at ``path``; call before long work.

    Raises
    ------
    OutputError
        If its folder is missing or cannot be written.

    Examples
    --------
    >>> featurecache.require_place(folder / "result.txt")  # raises OutputError if the folder is missing
    """
    require_name(path)
    parent = path.parent
    if not parent.is_dir():
        what = "is not a folder" if parent.exists() else "does not exist"
        raise OutputError(f"cannot write {path}: the folder {parent} {what}; make it first or choose another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in the folder {parent}; choose another one")


def require_name(path: Path) -> None:
    """Raise `OutputError` if this system cannot hold a file or folder of this name; only Windows has such names."""
    if fault := path_fault(path):
        raise OutputError(f"cannot write {path}: {fault}; choose another name")


def require_space(folder: Path, size: int, purpose: str) -> None:
    """Check that a disk has room for ``size`` bytes; a file system that does not report its size passes.

    Parameters
    ----------
    purpose
        The end of the sentence "so many bytes are needed …".

    Raises
    ------
    OutputError
        If there is less room, or the folder is not there.
    """
    try:
        disk = shutil.disk_usage(folder)
    except OSError as e:
        raise output_error(folder, e) from e
    if disk.total and disk.free < size:
        raise OutputError(
            f"{folder.absolute()} has {in_units(disk.free)} free, and up to {in_units(size)} are needed {purpose}; "
            "make room, or choose a path on another disk"
        )


def output_error(path: Path, cause: OSError, size: int = 0) -> OutputError:
    """Return the one-line error for a result that could not be written; it has the ``errno`` of its cause.

    If ``size`` is given, the bytes that the result needs, the message for a full disk includes it.
    """
    remedies = {
        errno.ENOSPC: "; make room on that disk and run the same command again",
        errno.EDQUOT: "; the quota is used up: make room and run the same command again",
        errno.EROFS: "; choose a path on a disk that can be written",
        errno.EACCES: "; choose a folder that you may write in",
        errno.ENOENT: "; was its folder removed meanwhile? Run the same command again",
    }
    reason = (cause.strerror or str(cause)).lower()
    remedy = remedies.get(cause.errno or 0, "")
    if is_open_elsewhere(cause):
        remedy = (
            "; a program has it open, perhaps this one, or you may not write there: close it there, or choose another "
            "folder, and run the same command again"
        )
    elif is_too_long(path, cause):
        remedy = f"; the path has {len(str(path.absolute()))} characters, too many for Windows: choose a shorter one"
    if size and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason += f", and {in_units(size)} are needed for it"
    error = OutputError(f"cannot write {path}: {reason}{remedy}")
    error.errno = cause.errno
    return error
