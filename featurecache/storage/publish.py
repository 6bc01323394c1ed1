"""Publishes files: writes each one completely, and only then gives it its final name. All results are written here.

A file is written under a new temporary name and fsynced. Then it gets its final name (``link``, which fails if the
name is taken, or ``replace``), and the directory is fsynced. If the process is killed at any step, the final name has
the whole file or nothing. All changes of the disk go through `FILE_SYSTEM`; tests replace it by one that fails.
"""

import errno
import mmap
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from featurecache.errors import OutputError
from featurecache.storage import platform
from featurecache.storage.files import open_regular
from featurecache.storage.output_errors import output_error, require_name

_COPIED_BYTES = 4_000_000


class FileSystem:
    """The system calls that change files and directories."""

    def create(self, path: Path) -> int:
        """Create a file, open it for reading and writing, and return its descriptor; fail if the name is taken."""
        return os.open(path, platform.CREATE_FLAGS, 0o666)

    def reserve(self, descriptor: int, size: int) -> None:
        """Reserve ``size`` bytes on the disk for a file; raise `OSError` (``ENOSPC``) if there are fewer."""
        platform.reserve(descriptor, size)

    def write(self, descriptor: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset`` bytes from the start of the file."""
        view = memoryview(data).cast("B")
        while view:
            written = platform.write_at(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def truncate(self, descriptor: int, size: int) -> None:
        """Shorten or extend a file to ``size`` bytes."""
        os.ftruncate(descriptor, size)

    def fsync(self, descriptor: int) -> None:
        """Return once the file's bytes are on the disk."""
        platform.sync_file(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; raise `FileExistsError` if that name is taken."""
        platform.link(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file or directory in one step; it replaces a file, or an empty directory, with the target name."""
        platform.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        platform.patiently(path.unlink)

    def make_directory(self, path: Path) -> None:
        """Make a directory; fail if the name is taken."""
        path.mkdir()

    def fsync_directory(self, path: Path) -> None:
        """Return once the directory's entries are on the disk."""
        platform.sync_directory(path)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and everything in it."""
        platform.patiently(lambda: shutil.rmtree(path))


FILE_SYSTEM = FileSystem()


class Draft:
    """A file without its final name; bytes can be written at any offset.

    Attributes
    ----------
    size
        The bytes that it needs on the disk: the most that was reserved or written.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def reserve(self, size: int) -> None:
        """Reserve ``size`` bytes on the disk, so that a full disk is found before anything is written."""
        self.size = max(self.size, size)
        FILE_SYSTEM.reserve(self._descriptor, size)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write ``data`` at ``offset`` bytes from the start of the file."""
        self.size = max(self.size, offset + len(data))
        FILE_SYSTEM.write(self._descriptor, data, offset)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Read into a buffer the bytes from ``offset`` on; return how many were read."""
        return platform.read_into_at(self._descriptor, buffer, offset)

    def map(self) -> mmap.mmap:
        """Map the file into memory, read-only; the map shows later writes and stays valid after the draft is closed."""
        return mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)

    def truncate(self, size: int) -> None:
        """Shorten the file to ``size`` bytes, which frees what was reserved beyond."""
        FILE_SYSTEM.truncate(self._descriptor, size)


@contextmanager
def publishing(
    path: Path, *, replace: bool = False, scratch: Path | None = None, durable: bool = True
) -> Iterator[Draft]:
    """Yield a draft, and publish it as ``path`` when the block ends without an error.

    Parameters
    ----------
    path
        The final name.
    replace
        Whether to replace an existing file; if not, the name must be free.
    scratch
        The directory of the temporary file, on the same file system; by default that of ``path``.
    durable
        Whether to fsync, so that the file survives a crash of the machine. Scratch files do without.

    Raises
    ------
    FileExistsError
        If the name is taken and ``replace`` is false; the existing file is left as it is.
    OutputError
        If the file cannot be written. The temporary file is removed, and the final name has nothing; only if the
        last step fails, the fsync of the directory, does it have the whole file.
    """
    require_name(path)
    temporary = _temporary(scratch / path.name if scratch else path)
    draft = None
    try:
        descriptor = FILE_SYSTEM.create(temporary)
        draft = Draft(descriptor)
        try:
            try:
                yield draft
                if durable:
                    FILE_SYSTEM.fsync(descriptor)
            finally:
                FILE_SYSTEM.close(descriptor)
            _name(temporary, path, replace=replace)
        except BaseException:
            with suppress(OSError):
                FILE_SYSTEM.unlink(temporary)
            raise
        if durable:
            FILE_SYSTEM.fsync_directory(path.parent)
    except (FileExistsError, OutputError):
        raise
    except OSError as e:
        raise output_error(path, e, draft.size if draft else 0) from e


def publish(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Publish ``data`` as the file ``path``; errors are those of `publishing`.

    Examples
    --------
    >>> featurecache.publish(folder / "result.txt", b"0.97")
    >>> (folder / "result.txt").read_text()
    '0.97'
    """
    with publishing(path, replace=replace) as draft:
        draft.write(data, 0)


def publish_once(path: Path, data: bytes) -> None:
    """Publish ``data`` unless the name is taken; the name is durable afterwards in both cases.

    The process that took the name may have been killed before it was durable.
    """
    try:
        publish(path, data)
    except FileExistsError:
        sync_directory(path.parent)


def is_linked(source: Path, target: Path) -> bool:
    """Publish a finished file under a second name, and return True; where links are refused, publish a copy: False.

    Raises
    ------
    FileExistsError
        If the name is taken.
    OutputError
        If the file cannot be read or the target cannot be written.
    """
    try:
        with open_regular(source) as stream:
            FILE_SYSTEM.fsync(stream.fileno())  # whoever wrote it
            try:
                FILE_SYSTEM.link(source, target)
            except OSError as e:
                if not platform.has_no_links(e) and e.errno != errno.EXDEV:
                    raise
            else:
                FILE_SYSTEM.fsync_directory(target.parent)
                return True
            with publishing(target) as draft:
                draft.reserve(os.fstat(stream.fileno()).st_size)
                offset = 0
                while data := stream.read(_COPIED_BYTES):
                    draft.write(data, offset)
                    offset += len(data)
            return False
    except (FileExistsError, OutputError):
        raise
    except OSError as e:
        raise output_error(target, e) from e


def remove_files(paths: Iterable[Path]) -> None:
    """Remove files that may be gone already, durably; raise `OutputError` if one cannot be removed."""
    folders: set[Path] = set()
    for path in paths:
        try:
            with suppress(FileNotFoundError):
                FILE_SYSTEM.unlink(path)
                folders.add(path.parent)
        except OSError as e:
            raise output_error(path, e) from e
    for folder in sorted(folders):
        sync_directory(folder)


def sync_directory(path: Path) -> None:
    """Write the entries of a directory to the disk; raise `OutputError` if that fails."""
    try:
        FILE_SYSTEM.fsync_directory(path)
    except OSError as e:
        raise output_error(path, e) from e


def publish_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Publish a directory with these files (name to bytes): all of them or none.

    Raises
    ------
    FileExistsError
        If the name is taken, unless by an empty directory.
    OutputError
        If it cannot be written.
    """
    require_name(path)
    temporary = _temporary(path)
    try:
        FILE_SYSTEM.make_directory(temporary)
        try:
            for name, data in files.items():
                _publish_in(temporary, name, data, path)
            name_directory(temporary, path)
        except BaseException:
            with suppress(OSError):
                FILE_SYSTEM.remove_tree(temporary)
            raise
    except (FileExistsError, OutputError):
        raise
    except OSError as e:
        raise output_error(path, e) from e


def _publish_in(temporary: Path, name: str, data: bytes, path: Path) -> None:
    """Publish a file in a directory that will have another path; errors name that."""
    try:
        publish(temporary / name, data)
    except OutputError as e:
        if isinstance(e.__cause__, OSError):
            raise output_error(path / name, e.__cause__, len(data)) from e.__cause__
        raise


def name_directory(made: Path, path: Path) -> None:
    """Give a directory its final name; everything in it must be published already.

    Raises
    ------
    FileExistsError
        If the name is taken, unless by an empty directory.
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
    """Make a directory, if it does not exist, and make its name durable.

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
    """Remove a directory, if it exists, and everything in it.

    Raises
    ------
    OutputError
        If a part of it cannot be removed.
    """
    try:
        with suppress(FileNotFoundError):
            FILE_SYSTEM.remove_tree(path)
    except OSError as e:
        raise output_error(path, e) from e


def _temporary(path: Path) -> Path:
    """Return a new hidden name beside ``path``; it is short enough even if that name is as long as is allowed."""
    return path.with_name(f".{path.name[:48]}.{secrets.token_hex(8)}.tmp")


def _name(temporary: Path, path: Path, *, replace: bool) -> None:
    """Give a finished file its final name."""
    if replace:
        FILE_SYSTEM.replace(temporary, path)
        return
    try:
        FILE_SYSTEM.link(temporary, path)
    except OSError as e:
        if not platform.has_no_links(e):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path)) from e
        FILE_SYSTEM.replace(temporary, path)
    else:
        FILE_SYSTEM.unlink(temporary)
