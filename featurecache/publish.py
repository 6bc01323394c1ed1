"""The only module that puts files under their final names: whole, durable, and once.

The rule, for every file: write under a temporary name that did not exist, fsync the file, give it its final name
(``link``, which fails if the name is taken, or ``replace``), fsync the directory. A process that is killed at any
step leaves either nothing or the whole file under the final name. What changes a disk goes through `FILE_SYSTEM`, which
tests replace by one that fails or forgets.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from featurecache.errors import OutputError

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})
_NO_RESERVATION = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class FileSystem:
    """The system calls that publishing is made of, each as the operating system does it."""

    def create(self, path: Path) -> int:
        """Open a file that must not exist yet, for writing; return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)

    def reserve(self, descriptor: int, size: int) -> None:
        """Claim ``size`` bytes on the disk for a file, or raise `OSError` (``ENOSPC``)."""
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as e:
            if e.errno not in _NO_RESERVATION:
                raise
            os.ftruncate(descriptor, size)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset`` bytes from the start of the file."""
        view = memoryview(data).cast("B")
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file, or extend it, to ``size`` bytes."""
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        """Return once the file's bytes are on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; raise `FileExistsError` if that name is taken."""
        os.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file or directory, in one step, over what bears the target name."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """Make a directory that must not exist yet."""
        path.mkdir()

    def fsync_directory(self, path: Path) -> None:
        """Return once the directory's entries are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all that is in it."""
        shutil.rmtree(path)


FILE_SYSTEM = FileSystem()


class Draft:
    """A file that has no final name yet; bytes may be written anywhere in it. ``size`` is what it needs, in bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def reserve(self, size: int) -> None:
        """Claim ``size`` bytes on the disk, so that a full disk shows before anything is written."""
        self.size = max(self.size, size)
        FILE_SYSTEM.reserve(self._descriptor, size)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write ``data`` at ``offset`` bytes from the start."""
        self.size = max(self.size, offset + len(data))
        FILE_SYSTEM.write(self._descriptor, data, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer with what was written from ``offset`` on; return how many bytes there were."""
        return os.preadv(self._descriptor, [buffer], offset)

    def truncate(self, size: int) -> None:
        """Give back what was reserved beyond ``size`` bytes."""
        FILE_SYSTEM.truncate(self._descriptor, size)


@contextmanager
def publishing(path: Path, *, replace: bool = False, scratch: Path | None = None) -> Iterator[Draft]:
    """Write a file whole, and give it the name ``path`` when the block ends without an error.

    Parameters
    ----------
    path
        The final name.
    replace
        Whether a file that bears this name is replaced; if not, the name must be free.
    scratch
        The directory of the temporary name, on the same file system; the final name's own directory if not given.

    Raises
    ------
    FileExistsError
        If the name is taken and ``replace`` is false; what bears it is left as it is.
    OutputError
        If the file cannot be written. Nothing stays under the temporary name, and nothing under the final one, but
        for a whole file if the last step alone, the fsync of its directory, has failed.
    """
    temporary = _temporary(scratch / path.name if scratch else path)
    draft = None
    try:
        descriptor = FILE_SYSTEM.create(temporary)
        draft = Draft(descriptor)
        try:
            try:
                yield draft
                FILE_SYSTEM.fsync(descriptor)
            finally:
                FILE_SYSTEM.close(descriptor)
            _name(temporary, path, replace=replace)
        except BaseException:
            with suppress(OSError):
                FILE_SYSTEM.unlink(temporary)
            raise
        FILE_SYSTEM.fsync_directory(path.parent)
    except (FileExistsError, OutputError):
        raise
    except OSError as e:
        raise output_error(path, e, draft.size if draft else 0) from e


def publish(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Publish ``data`` as the file ``path``; see `publishing` for the rule and the errors."""
    with publishing(path, replace=replace) as draft:
        draft.write(data, 0)


def publish_once(path: Path, data: bytes) -> None:
    """Publish ``data`` unless the name is taken; in both cases the name is durable then.

    Whoever took the name may have been killed before it was.
    """
    try:
        publish(path, data)
    except FileExistsError:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Return once the names in a directory are on the disk; raise `OutputError` if they cannot be brought there."""
    try:
        FILE_SYSTEM.fsync_directory(path)
    except OSError as e:
        raise output_error(path, e) from e


def publish_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Publish a directory with these files (name to bytes), all of them or none.

    Raises
    ------
    FileExistsError
        If something else than an empty directory bears the name.
    OutputError
        If it cannot be written.
    """
    temporary = _temporary(path)
    try:
        FILE_SYSTEM.make_directory(temporary)
        try:
            for name, data in files.items():
                publish(temporary / name, data)
            name_directory(temporary, path)
        except BaseException:
            with suppress(OSError):
                FILE_SYSTEM.remove_tree(temporary)
            raise
    except (FileExistsError, OutputError):
        raise
    except OSError as e:
        raise output_error(path, e) from e


def name_directory(made: Path, path: Path) -> None:
    """Give a directory, in which everything was published, its final name.

    Raises
    ------
    FileExistsError
        If something else than an empty directory bears the name.
    OutputError
        If it cannot be renamed.
    """
    try:
        FILE_SYSTEM.replace(made, path)
        FILE_SYSTEM.fsync_directory(path.parent)
    except OSError as e:
        if e.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from e
        raise output_error(path, e) from e


def make_directory(path: Path) -> None:
    """Make a directory, durably, unless it is there.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    try:
        with suppress(FileExistsError):
            FILE_SYSTEM.make_directory(path)
        FILE_SYSTEM.fsync_directory(path.parent)
    except OSError as e:
        raise output_error(path, e) from e


def remove_directory(path: Path) -> None:
    """Remove a directory and all that is in it, if it is there.

    Raises
    ------
    OutputError
        If something of it cannot be removed.
    """
    try:
        with suppress(FileNotFoundError):
            FILE_SYSTEM.remove_tree(path)
    except OSError as e:
        raise output_error(path, e) from e


def claim_directory(path: Path) -> int | None:
    """Keep every other process from claiming a directory, until the descriptor that is returned is closed.

    The claim ends with the process, however it ends. Where a file system has no locks there is no claim: None.

    Raises
    ------
    OutputError
        If another process has claimed the directory, or it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise output_error(path, e) from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def require_place(path: Path) -> None:
    """Raise `OutputError` if a file or directory ``path`` could not be made, before any work is spent on it."""
    parent = path.parent
    if not parent.is_dir():
        what = "is not a folder" if parent.exists() else "does not exist"
        raise OutputError(f"cannot write {path}: the folder {parent} {what}; make it first or choose another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission to write in the folder {parent}; choose another one")


def output_error(path: Path, cause: OSError, size: int = 0) -> OutputError:
    """Build the one-line error for a result that could not be written, keeping the cause's ``errno``.

    ``size`` is what the result needs, in bytes, if that is known: a full disk is told with it.
    """
    remedies = {
        errno.ENOSPC: "; make room on that disk and run the same command again",
        errno.EDQUOT: "; the quota is used up: make room and run the same command again",
        errno.EROFS: "; choose a path on a disk that can be written",
        errno.EACCES: "; choose a folder that you may write in",
        errno.ENOENT: "; was its folder removed meanwhile? Run the same command again",
    }
    reason = (cause.strerror or str(cause)).lower()
    if size and cause.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason += f", and {in_units(size)} are needed for it"
    error = OutputError(f"cannot write {path}: {reason}{remedies.get(cause.errno or 0, '')}")
    error.errno = cause.errno
    return error


def in_units(size: int) -> str:
    """Return a number of bytes as a person reads it.

    Examples
    --------
    >>> in_units(999), in_units(20_480), in_units(1_500_000_000)
    ('999 bytes', '20.5 kB', '1.5 GB')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def _temporary(path: Path) -> Path:
    """Return a fresh hidden name beside ``path``, short enough where the name itself is as long as may be."""
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(8)}.tmp")


def _name(temporary: Path, path: Path, *, replace: bool) -> None:
    """Move a finished file to its final name."""
    if replace:
        FILE_SYSTEM.replace(temporary, path)
        return
    try:
        FILE_SYSTEM.link(temporary, path)
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from e
        FILE_SYSTEM.replace(temporary, path)
    else:
        FILE_SYSTEM.unlink(temporary)
