"""Makes this process see what macOS or Windows has, for good; done before `featurecache` is imported.

``macos``: no `posix_fallocate`, `posix_fadvise`, `sched_getaffinity`, `memfd_create`, ``/proc``; but ``F_FULLFSYNC``.

``windows``: besides, no `fcntl`, `resource`, `pwd`, `os.link`, `os.pread`, signal masks, ``SIGHUP``, and no flags that
Windows lacks; a small `msvcrt`. Below a folder, files are opened with ``O_BINARY``; names and paths that Windows cannot
hold are refused; files that this process has open are neither replaced nor removed; directories are not replaced.
"""

import builtins
import errno
import io
import mmap
import ntpath
import os
import shutil
import signal
import sys
import types
from pathlib import Path, PureWindowsPath

POSIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "readline")
NOT_ON_MACOS = ("posix_fallocate", "posix_fadvise", "sched_getaffinity", "memfd_create", "setresuid")
NOT_ON_WINDOWS = (
    *("link", "pread", "preadv", "pwrite", "pwritev", "mkfifo", "fork", "setpriority", "getpriority", "sysconf"),
    *("getuid", "geteuid", "fchmod", "chown", "killpg", "getpgid", "setsid", "sendfile", "copy_file_range"),
    *("O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"),
)
O_BINARY = 0o100000  # O_LARGEFILE on Linux, which is set anyway
SYSTEM_FILES = ("/proc", "/sys")
OF_LIBRARIES = "/proc/self/maps"  # threadpoolctl reads it, if the interpreter is one for Linux


def become(system, folder):
    """Take away what a system lacks; ``folder`` is where the rules of Windows for files hold."""
    import asyncio  # noqa: F401 - the libraries that need what is taken away
    import concurrent.futures.process  # noqa: F401
    import subprocess  # noqa: F401
    import tempfile  # noqa: F401

    import joblib  # noqa: F401

    look = _Looking()
    _hide(os, NOT_ON_MACOS)
    _hide_system_files()
    if system == "macos":
        fcntl = __import__("fcntl")
        fcntl.F_FULLFSYNC = fcntl.F_GETFL  # a harmless call of the same form
        return
    flock = __import__("fcntl")
    for name in POSIX_MODULES:
        sys.modules[name] = None
    _hide(os, NOT_ON_WINDOWS)
    _hide(signal, ("SIGHUP", "pthread_sigmask"))
    _hide(mmap, ("MADV_WILLNEED",))
    sys.modules["msvcrt"] = _msvcrt(flock)
    shutil._use_fd_functions = False
    os.O_BINARY = O_BINARY
    _obey(Path(folder), look)


def _hide(module, names):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def _hide_system_files():
    """Let Python find no files of the kernel."""

    def hiding(call):
        def hidden(path, *args, **options):
            name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if name.startswith(SYSTEM_FILES) and name != OF_LIBRARIES:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            return call(path, *args, **options)

        return hidden

    io.open = builtins.open = hiding(builtins.open)
    os.readlink = hiding(os.readlink)


class _Looking:
    """Looks into ``/proc``, which is hidden from all others."""

    def __init__(self):
        self._readlink, self._listdir, self._open = os.readlink, os.listdir, builtins.open

    def is_open(self, path):
        """Whether this process has a file open or mapped: ``path``, or one below it."""
        path = os.path.realpath(path)
        found = []
        for number in self._listdir("/proc/self/fd"):
            try:
                found.append(self._readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        with self._open("/proc/self/maps", encoding="utf-8") as lines:
            found += [line.split(None, 5)[-1].rstrip("\n") for line in lines]
        return any(name == path or name.startswith(f"{path}/") for name in found)


def _msvcrt(fcntl):
    module = types.ModuleType("msvcrt")
    module.LK_UNLCK, module.LK_LOCK, module.LK_NBLCK = 0, 1, 2

    def locking(descriptor, mode, _):
        try:
            fcntl.flock(descriptor, {0: fcntl.LOCK_UN, 2: fcntl.LOCK_EX | fcntl.LOCK_NB}[mode])
        except BlockingIOError as e:
            raise PermissionError(errno.EACCES, "permission denied") from e

    module.locking = locking
    return module


def windows_error(kind, number, code, path):
    """Return an error as Windows gives it."""
    error = kind(code, os.strerror(code), str(path))
    error.winerror = number
    return error


def is_reserved(name):
    """Whether Windows takes a name for a device, or cuts it, as Python knows it."""
    return ntpath.isreserved(name) if hasattr(ntpath, "isreserved") else _is_reserved_or_cut(name)


def _is_reserved_or_cut(name):
    return PureWindowsPath(name).is_reserved() or name[-1:] in {".", " "}


def _obey(folder, look):
    """Let the calls that change files below a folder do what Windows does."""
    root = os.path.realpath(folder)

    def is_below(path):
        return os.path.realpath(os.fsdecode(path)).startswith(f"{root}/")

    def check(path):
        if not is_below(path):
            return
        path = os.path.join(os.path.realpath(os.path.dirname(os.fsdecode(path))), os.path.basename(os.fsdecode(path)))  # noqa: PTH118, PTH119, PTH120
        for name in path[len(root) + 1 :].split("/"):
            if set(name) & set('<>:"|?*\\') or is_reserved(name):
                raise windows_error(OSError, 123, errno.EINVAL, path)
        if len(path) > 259:
            raise windows_error(FileNotFoundError, 3, errno.ENOENT, path)

    def is_busy(path):
        return is_below(path) and look.is_open(path)

    os_open, os_mkdir, os_replace, os_unlink, os_rmdir = (
        getattr(os, name) for name in ("open", "mkdir", "replace", "unlink", "rmdir")
    )

    def opened(path, flags, mode=0o777, **options):
        if is_below(path):
            assert flags & O_BINARY, f"{path} is opened as text"
            if os.path.isdir(path):  # noqa: PTH112
                raise windows_error(PermissionError, 5, errno.EACCES, path)
            if flags & os.O_CREAT:
                check(path)
        return os_open(path, flags, mode, **options)

    def made(path, mode=0o777, **options):
        check(path)
        return os_mkdir(path, mode, **options)

    def replaced(source, target, **options):
        check(target)
        if is_busy(source) or is_busy(target):
            raise windows_error(PermissionError, 32, errno.EACCES, target)
        if os.path.isdir(target) or (os.path.isdir(source) and os.path.exists(target)):  # noqa: PTH110, PTH112
            raise windows_error(PermissionError, 5, errno.EACCES, target)
        return os_replace(source, target, **options)

    def renamed(source, target, **options):
        if os.path.exists(target):  # noqa: PTH110
            raise windows_error(FileExistsError, 183, errno.EEXIST, target)
        return replaced(source, target, **options)

    def removing(call):
        def removed(path, **options):
            if is_busy(path):
                raise windows_error(PermissionError, 32, errno.EACCES, path)
            return call(path, **options)

        return removed

    os.open, os.mkdir, os.replace, os.rename = opened, made, replaced, renamed
    os.unlink = os.remove = removing(os_unlink)
    os.rmdir = removing(os_rmdir)
