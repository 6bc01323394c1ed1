"""Reads image files from disk, and their size and time to detect changes cheaply."""

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from featurecache.images.failures import Failure, FailureCode, UnusableImageError, check_bytes, one_line
from featurecache.images.views import DrawnView
from featurecache.storage.platform import READ_FLAGS

_FAILURES: dict[int, tuple[FailureCode, str]] = {
    errno.ENOENT: ("not_found", "no such file"),
    errno.ENOTDIR: ("not_found", "no such file"),
    errno.ELOOP: ("broken_link", "a loop of symbolic links"),
    errno.EACCES: ("no_permission", "no permission to read the file"),
    errno.EPERM: ("no_permission", "no permission to read the file"),
    errno.EIO: ("unreadable", "the disk or network reports a read error"),
    errno.ENAMETOOLONG: ("bad_name", "the file name is too long"),
}
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Stat:
    """Size and time of an image; they detect a change without reading the image.

    Parameters
    ----------
    size
        Length in bytes.
    mtime_ns
        Modification time in nanoseconds.
    """

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class FileContent:
    """The content of an image file.

    Parameters
    ----------
    data
        Its bytes.
    sha256
        Their SHA-256, 64 hexadecimal digits.
    size, mtime_ns
        Length in bytes and modification time in nanoseconds, unchanged during reading.
    frame
        The frame of the file that is wanted, counted from 1.
    view
        The view of the image that is wanted; ``sha256`` is then that of the view. None for the image itself.
    """

    data: bytes
    sha256: str
    size: int
    mtime_ns: int
    frame: int = 1
    view: DrawnView | None = None


def content_of(data: bytes, *, max_bytes: int, mtime_ns: int = 0) -> FileContent | Failure:
    """Return bytes as the content of an image file, for sources that hold or download bytes.

    Parameters
    ----------
    data
        The bytes of the image file.
    max_bytes
        More bytes are a failure; so are 0 bytes.
    mtime_ns
        Time of the last change in nanoseconds; 0 if unknown.

    Examples
    --------
    >>> content = featurecache.content_of(b"the bytes of a file", max_bytes=1000)
    >>> content.size, content.sha256[:8]
    (19, '0f599b94')
    """
    try:
        check_bytes(len(data), max_bytes)
    except UnusableImageError as e:
        return e.failure
    return FileContent(data, hashlib.sha256(data).hexdigest(), len(data), mtime_ns)


def stat_file(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> Stat | None:
    """Return a file's size and modification time; None if they cannot be read."""
    try:
        status = os.stat(path)  # noqa: PTH116 - pathlib takes no bytes
    except (OSError, ValueError):
        return None
    return Stat(status.st_size, status.st_mtime_ns)


def read_file(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], *, max_bytes: int) -> FileContent | Failure:
    """Read a whole regular file, or return a failure; never wait for a pipe or a device.

    Parameters
    ----------
    path
        The file's name; symbolic links are followed.
    max_bytes
        A larger file is not read.
    """
    try:
        # Check before opening, because opening a pipe or a device can have side effects.
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 - pathlib takes no bytes
        descriptor = os.open(path, READ_FLAGS)
        try:
            return _read(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except UnusableImageError as e:
        return e.failure
    except OSError as e:
        if e.errno == errno.ENOENT and os.path.islink(path):  # noqa: PTH114 - pathlib takes no bytes
            return Failure("broken_link", "a symbolic link to nothing")
        return failure_of(e)
    except ValueError:
        return Failure("bad_name", "the file name has characters that no file name can have")
    except MemoryError:
        return Failure("out_of_memory", "not enough memory to read the file")


def failure_of(error: OSError) -> Failure:
    """Return the failure of an image whose file could not be read."""
    code, reason = _FAILURES.get(error.errno or 0, ("unreadable", one_line((error.strerror or str(error)).lower())))
    return Failure(code, reason)


def _read(descriptor: int, max_bytes: int) -> FileContent:
    before = os.fstat(descriptor)
    _check_regular(before.st_mode)
    check_bytes(before.st_size, max_bytes)
    chunks: list[bytes] = []
    missing = before.st_size + 1  # one more than expected, to notice growth
    while missing > 0 and (chunk := os.read(descriptor, missing)):
        chunks.append(chunk)
        missing -= len(chunk)
    data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    after = os.fstat(descriptor)
    if len(data) != before.st_size or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise UnusableImageError("changed", "the file changed while it was being read")
    return FileContent(data, hashlib.sha256(data).hexdigest(), before.st_size, before.st_mtime_ns)


def _check_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise UnusableImageError("not_a_file", f"{kind}, not a regular file")
