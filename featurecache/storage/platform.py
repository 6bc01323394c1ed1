"""What differs between Linux, macOS and Windows: each function tells what a system lacks, and what is weaker there.

All other modules use calls that the three have. What counts is which calls are there, not the name of the system.
"""

import errno
import mmap
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from socket import socket


def _module(name: str) -> Any | None:  # noqa: ANN401 - its functions differ between systems
    """Return a module of the standard library; None where it is missing."""
    try:
        found: ModuleType = import_module(name)
    except ImportError:
        return None
    return found


_fcntl, _msvcrt, _resource = map(_module, ("fcntl", "msvcrt", "resource"))

IS_WINDOWS = _msvcrt is not None
"""Whether files that are open can be neither replaced nor removed, and some names are not allowed."""

READ_FLAGS, CREATE_FLAGS = (
    sum(getattr(os, name, 0) for name in names)
    for names in (
        ("O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY", "O_NOINHERIT"),
        ("O_RDWR", "O_CREAT", "O_EXCL", "O_CLOEXEC", "O_BINARY", "O_NOINHERIT"),
    )
)
"""Flags of `os.open`: to read without waiting for a pipe, and to create a file."""

MOST_PROCESSES = 61 if IS_WINDOWS else sys.maxsize
"""The largest pool of processes, `concurrent.futures.ProcessPoolExecutor`."""

_HAS_DIRECTORIES = hasattr(os, "O_DIRECTORY")  # which can be opened
_NO_RESERVATION = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_LOCKED = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_OPEN_ELSEWHERE = frozenset({5, 32, 33})  # Windows: access denied, sharing violation, lock violation
_TRIES, _PAUSE_SECONDS = 10, 0.1
_WAIT_SECONDS = 0.05
_POSITION = threading.Lock()  # of descriptors, where reading at a place moves it
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
_LONGEST_PATH = 259  # characters, on Windows
_RESERVED = re.compile(r"(?i:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """Return at most ``count`` bytes from ``offset`` on.

    Windows has no such call: the descriptor's position is moved and put back, one thread at a time.
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, count, offset)
    with _placed(descriptor, offset):
        return os.read(descriptor, count)


def read_into_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fill a buffer, or the first part of it, with the bytes from ``offset`` on; return how many were read.

    Windows and old releases of macOS have no such call: the bytes are copied once more.
    """
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], offset)
    data = read_at(descriptor, len(buffer), offset)
    buffer[: len(data)] = data
    return len(data)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write bytes at ``offset``, or the first part of them; return how many were written. As `read_at` on Windows."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _placed(descriptor, offset):
        return os.write(descriptor, data)


@contextmanager
def _placed(descriptor: int, offset: int) -> Iterator[None]:
    """Move a descriptor's position for the duration of a block."""
    with _POSITION:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def reserve(descriptor: int, size: int) -> None:
    """Reserve ``size`` bytes on the disk for a file; raise `OSError` (``ENOSPC``) if there are fewer.

    macOS, Windows and some file systems reserve nothing: there a full disk is found when the bytes are written.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as e:
            if e.errno not in _NO_RESERVATION:
                raise
        else:
            return
    os.ftruncate(descriptor, size)


def sync_file(descriptor: int) -> None:
    """Return once a file's bytes are on the disk.

    On macOS `os.fsync` returns when they are in the disk's own memory; ``F_FULLFSYNC`` waits for the disk, where the
    file system knows it.
    """
    full = getattr(_fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            _fcntl.fcntl(descriptor, full)  # type: ignore[union-attr] # the flag is in the module
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Return once a directory's entries are on the disk.

    On Windows a directory cannot be opened. NTFS keeps names in a journal: after a crash of the machine a directory is
    whole, but the last names may be missing. Then rows that were reported as done are computed again.
    """
    if not _HAS_DIRECTORIES:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Give a file a second name; raise `FileExistsError` if that name is taken.

    FAT and exFAT have no second names, on any system: raises an `OSError` that says so (`has_no_links`).
    """
    if not hasattr(os, "link"):
        raise OSError(errno.ENOSYS, "no second names")
    os.link(source, target)


def has_no_links(error: OSError) -> bool:
    """Whether an error of `link` says that the file system has no second names, or not so many."""
    absent = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
    return error.errno in absent or (IS_WINDOWS and error.errno == errno.EINVAL)


def replace(source: Path, target: Path) -> None:
    """Rename a file or directory in one step; it replaces a file, or an empty directory, of the target's name.

    Windows replaces no file that is open, and no directory: an empty one is removed first, in a step of its own.
    """
    try:
        patiently(lambda: source.replace(target))
    except PermissionError:
        if not (IS_WINDOWS and source.is_dir() and target.exists()):
            raise
        if not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target)) from None
        target.rmdir()
        source.replace(target)


def patiently(call: Callable[[], object]) -> None:
    """Call a function that renames or removes; on Windows again for a second, while another program has a file open.

    Scanners for viruses open each new file for a moment.
    """
    for _ in range(_TRIES - 1):
        try:
            call()
        except OSError as e:
            if not is_open_elsewhere(e):
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    call()


def is_open_elsewhere(error: OSError) -> bool:
    """Whether an error says that a program has a file open, which Windows then neither replaces nor removes.

    Access is denied for that reason, too, so that a folder without permission cannot be told from it.
    """
    return getattr(error, "winerror", None) in _OPEN_ELSEWHERE


class Lock:
    """A lock of a directory, until it is closed or the process ends; made by `lock`."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    @property
    def is_of_removed(self) -> bool:
        """Whether the directory was removed. Where a name is locked, a new directory of that name is locked as well."""
        return not IS_WINDOWS and not os.fstat(self._descriptor).st_nlink

    def holds(self) -> bool:
        """Whether the directory that is there now is locked."""
        if not self._path.is_dir():
            return False
        return IS_WINDOWS or os.path.samestat(os.fstat(self._descriptor), self._path.stat())

    def close(self) -> None:
        """Unlock."""
        os.close(self._descriptor)
        if IS_WINDOWS:
            with suppress(OSError):  # another process has opened it since
                _lock_file(self._path).unlink()


def lock(path: Path, *, wait: bool) -> Lock | None:
    """Lock a directory against other processes; None where the file system has no locks.

    On Windows a directory cannot be opened: the first byte of the file ``.NAME.lock`` beside it is locked, which goes
    when the lock does. A process that is killed may leave the file, which locks nothing.

    Raises
    ------
    BlockingIOError
        If another process has the lock, and ``wait`` is false.
    OSError
        If the directory cannot be opened.
    """
    if _fcntl is None:
        return _lock_name(path, wait=wait)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fcntl.flock(descriptor, _fcntl.LOCK_EX | (0 if wait else _fcntl.LOCK_NB))
    except OSError as e:
        os.close(descriptor)
        if isinstance(e, BlockingIOError):
            raise
        return None
    return Lock(descriptor, path)


def _lock_file(path: Path) -> Path:
    path = path.resolve()
    return path.parent / f".{path.name}.lock"


def _lock_name(path: Path, *, wait: bool) -> Lock | None:
    if not path.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if _msvcrt is None:
        return None
    while True:
        try:
            descriptor = os.open(_lock_file(path), CREATE_FLAGS & ~os.O_EXCL, 0o666)
        except OSError as e:
            if wait and is_open_elsewhere(e):  # it is just being removed
                time.sleep(_WAIT_SECONDS)
                continue
            return None
        try:
            _msvcrt.locking(descriptor, _msvcrt.LK_NBLCK, 1)
        except OSError as e:
            os.close(descriptor)
            if e.errno not in _LOCKED:
                return None
            if not wait:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path)) from e
            time.sleep(_WAIT_SECONDS)
        else:
            return Lock(descriptor, path)


def read_ahead(descriptor: int, offset: int, size: int) -> None:
    """Ask the system to read a part of a file into memory in the background; only Linux can be asked."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_WILLNEED)


def read_map_ahead(mapped: mmap.mmap, start: int, size: int) -> None:
    """Ask the system to read a part of a mapped file into memory in the background; Windows cannot be asked."""
    if hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED, start, size)


def memory_file() -> IO[bytes]:
    """Open a file without a name, for reading and writing: in memory on Linux, a temporary one elsewhere."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("memory"), "w+b")
    from tempfile import TemporaryFile

    return TemporaryFile()


def resource_limits(*names: str) -> Iterator[tuple[str, int]]:
    """Yield those of the limits of this process, such as ``"RLIMIT_AS"``, that are set; Windows has none."""
    for name in names:
        if _resource is not None and hasattr(_resource, name):
            limit, _ = _resource.getrlimit(getattr(_resource, name))
            if limit != _resource.RLIM_INFINITY:
                yield name, limit


def raise_open_files(wanted: int) -> None:
    """Raise the limit of open files of this process, as far as the system lets it; Windows has no such limit."""
    if _resource is None:
        return
    soft, hard = _resource.getrlimit(_resource.RLIMIT_NOFILE)
    if soft != _resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == _resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):  # macOS has a limit of its own, below the one that it tells
            _resource.setrlimit(_resource.RLIMIT_NOFILE, (limit, hard))


def peak_memory() -> int:
    """Return the most memory that this process has had in bytes, where the system does not tell how much it has now.

    0 on Windows, which tells neither without a library.
    """
    if _resource is None:
        return 0
    peak: int = _resource.getrusage(_resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command: Ctrl-C, SIGTERM, and SIGHUP, or Ctrl-Break on Windows.

    Windows ends a process at once where another program sends SIGTERM: as after SIGKILL, finished work is kept.
    """
    return [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that end a command in this thread and in processes that it starts; they come afterwards.

    Windows blocks none: there new processes call `ignore_interrupts`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one, where `signals_blocked` blocks nothing."""
    if not hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def on_signals(loop: "AbstractEventLoop", call: Callable[[], object]) -> None:
    """Let an event loop call a function on SIGTERM and Ctrl-C; on Windows Python's own handlers wake the loop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, call)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))


def is_orphan(parent: int) -> bool:
    """Whether the process that started this one, of that number, has ended. Windows does not tell by the number."""
    if IS_WINDOWS:
        from multiprocessing import parent_process

        found = parent_process()
        return found is not None and not found.is_alive()
    return os.getppid() != parent


def lower_priority(steps: int) -> None:
    """Lower the priority of this thread, and of threads that it starts; only Linux can, some containers forbid it."""
    if hasattr(os, "setpriority"):
        with suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + steps)


def own_address(listener: "socket") -> None:
    """Let a socket take an address that a service has just left; not one where another service listens.

    On Windows ``SO_REUSEADDR`` would let two services listen at one address.
    """
    import socket

    exclusive: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)


def with_slashes(path: str) -> str:
    r"""Return a path with ``/`` between folders, as manifests have it; on Windows it may have ``\`` there."""
    return path.replace("\\", "/") if IS_WINDOWS else path


def is_absolute(path: str) -> bool:
    """Whether a path with ``/`` begins at a root, or at a drive on Windows."""
    return path.startswith("/") or (IS_WINDOWS and path[1:3] == ":/")


def leads_out(path: bytes) -> bool:
    r"""Whether a path leads out of its folder: it is absolute, or ``..`` is in it; on Windows with ``\``, too."""
    if IS_WINDOWS:
        path = path.replace(b"\\", b"/")
        if b":" in path:  # a drive, or a second stream of a file
            return True
    return path.startswith(b"/") or b".." in path.split(b"/")


def name_fault(name: str) -> str:
    """Return why Windows cannot hold a file or folder of this name; empty if it can.

    Windows ignores dots and spaces at the end, and takes some names for devices, whatever their suffix.

    Examples
    --------
    >>> name_fault("con.jpg")
    "'con' is a device there"
    >>> name_fault("cats and dogs.h5")
    ''
    """
    if found := _FORBIDDEN.search(name):
        return f"{found[0]!r} is not allowed there"
    if name.endswith((".", " ")):
        return "it would lose its last character there"
    base = name.partition(".")[0].rstrip(" ")
    return f"{base!r} is a device there" if _RESERVED.fullmatch(base) else ""


def path_fault(path: Path) -> str:
    """Return why this system cannot hold a file or folder at a path; empty if it can. Only Windows is asked about."""
    if not IS_WINDOWS:
        return ""
    return name_fault(path.name) and f"Windows cannot hold the name {path.name!r}: {name_fault(path.name)}"


def is_too_long(path: Path, error: OSError) -> bool:
    """Whether a path was not found because Windows takes no longer ones."""
    return IS_WINDOWS and error.errno == errno.ENOENT and len(str(path.absolute())) + _TEMPORARY > _LONGEST_PATH


_TEMPORARY = len(f".{'0' * 16}.tmp") + 1  # what a temporary name is longer than the final one
