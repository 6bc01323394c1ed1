"""Doubles of the file system that publishing goes through: one counts and traces, one fails, one forgets.

Doubles do what they are told at a *step*: a call of one of `FileSystem`'s methods, numbered from 0 in the order of
the calls. The driver of the crash tests loads this module, so it imports nothing that is slow.
"""

import errno
import fcntl
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import featurecache.storage.publish
from featurecache.storage.publish import FileSystem

CALLS = tuple(name for name, value in vars(FileSystem).items() if callable(value) and not name.startswith("_"))
CLAIMS = ("create", "reserve", "write", "link", "replace", "make_directory")
"""The calls that a full disk can refuse."""


class TracingFileSystem(FileSystem):
    """The real calls, each with a number; `before` and `after` are there to be overridden.

    ``trace`` keeps (call, role) of every step: the role says what the call was about, ``shards``, ``commits``,
    ``recipe.json``, ``part``, ``cache``, …
    """

    def __init__(self):
        self.trace = []
        self.paths = {}
        self._lock = threading.RLock()

    def before(self, step, name, args):
        """Is called before a step is done."""

    def after(self, step, name, args):
        """Is called after a step was done."""

    def role(self, name, args):
        """Return what a call is about."""
        path = self.paths.get(args[0], Path("?")) if isinstance(args[0], int) else Path(args[-1])
        if path.name.endswith(".work.old"):
            return "work"
        if name in {"make_directory", "remove_tree", "fsync_directory"}:
            return "work" if path.name.endswith(".work") else path.name
        if path.parent.name in {"shards", "commits"}:
            return path.parent.name
        if path.parent.suffix == ".parts" or path.parent.name == "parts":
            return "part"
        return "recipe.json" if "recipe.json" in path.name else "cache"

    def perform(self, name, args):
        """Do what the call says."""
        return getattr(FileSystem, name)(self, *args)


def _traced(name):
    def call(self, *args):
        with self._lock:
            step = len(self.trace)
            self.trace.append((name, self.role(name, args)))
            self.before(step, name, args)
            result = self.perform(name, args)
            if name == "create":
                self.paths[result] = args[0]
            self.after(step, name, args)
            return result

    return call


for _name in CALLS:
    setattr(TracingFileSystem, _name, _traced(_name))


class KillingFileSystem(TracingFileSystem):
    """Kills its own process before a step; with ``half``, when the step is half done."""

    def __init__(self, step, *, half=False):
        super().__init__()
        self._step = step
        self._half = half

    def before(self, step, name, args):
        if step == self._step:
            if self._half:
                self._do_half(name, args)
            os.kill(os.getpid(), signal.SIGKILL)

    def _do_half(self, name, args):
        if name == "write":
            descriptor, data, offset = args
            view = memoryview(data).cast("B")
            os.pwrite(descriptor, view[: len(view) // 2], offset)
        elif name == "remove_tree" and args[0].exists():
            files = sorted(path for path in args[0].rglob("*") if path.is_file())
            for path in random.Random(self._step).sample(files, (len(files) + 1) // 2):  # noqa: S311
                path.unlink()


class SlowFileSystem(TracingFileSystem):
    """Takes its time over every step, so that two runs meet."""

    def __init__(self, seconds):
        super().__init__()
        self._seconds = seconds

    def before(self, step, name, args):
        time.sleep(self._seconds)


def lie(lies):
    """Make this process see a shared file system as some are: for good, so only in a process of its own.

    ``no locks``: `flock` is refused. ``locks for all``: everybody gets it. ``no links``: `link` is refused.
    ``old lists``: a folder is listed as it was when this process listed or changed it last. ``other clock``: the clock
    is an hour fast.
    """
    if "no locks" in lies:
        fcntl.flock = _refuse(errno.ENOLCK)
    if "locks for all" in lies:
        fcntl.flock = lambda *_: None
    if "no links" in lies:
        featurecache.storage.publish.FILE_SYSTEM.link = _refuse(errno.EPERM)
    if "other clock" in lies:
        now = time.time
        time.time = lambda: now() + 3600
    if "old lists" in lies:
        glob, lists = Path.glob, {}

        def old(path, pattern):
            return iter(lists.setdefault((path, pattern), list(glob(path, pattern))))

        Path.glob = old
        file_system = featurecache.storage.publish.FILE_SYSTEM
        for name in ("create", "link", "make_directory", "replace", "unlink"):
            setattr(file_system, name, _forgetting(getattr(file_system, name), lists))


def _forgetting(call, lists):
    """Return a call after which the lists of the folders that it has changed are made anew."""

    def forgetting(*paths):
        result = call(*paths)
        changed = {path.parent for path in paths} | {*paths}
        for key in [key for key in lists if key[0] in changed]:
            del lists[key]
        return result

    return forgetting


def _refuse(error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    return refuse


class FailingFileSystem(TracingFileSystem):
    """Refuses one step, or with ``lasting`` all calls of these names from that step on.

    A write that fails is done half, as on a real disk.
    """

    def __init__(self, step, error=errno.ENOSPC, *, calls=CALLS, lasting=False):
        super().__init__()
        self._step = step
        self._error = error
        self._calls = calls
        self._lasting = lasting
        self.failed = None

    def before(self, step, name, args):
        if name not in self._calls or not (step >= self._step if self._lasting else step == self._step):
            return
        self.failed = self.failed or (name, self.trace[step][1])
        if name == "write":
            descriptor, data, offset = args
            view = memoryview(data).cast("B")
            os.pwrite(descriptor, view[: len(view) // 2], offset)
        raise OSError(self._error, os.strerror(self._error))


class ActingFileSystem(TracingFileSystem):
    """Does something else before one step."""

    def __init__(self, step, act):
        super().__init__()
        self._step = step
        self._act = act

    def before(self, step, name, args):
        if step == self._step:
            self._act()


class Killed(BaseException):
    """The process is taken for killed: from now on its file system does nothing."""


class File:
    """A file of the model: its content on the disk, and its content in the kernel's memory."""

    def __init__(self, data=b""):
        self.durable = data
        self.live = bytearray(data)


class Directory:
    """A directory of the model: the entries on the disk, and those that the kernel shows."""

    def __init__(self):
        self.durable = {}
        self.live = {}


class PowerLossFileSystem(TracingFileSystem):
    """The real calls below ``root``, and a model of the disk after a power loss.

    Contents are durable as of the file's last fsync, entries as of the last fsync of their directory. What is not
    durable yet may be there after a power loss, or not, or torn: `survivors` tells.

    Parameters
    ----------
    root
        The folder that is watched; what is in it at the start is durable.
    forgets
        Names of calls that are done but have no effect on what is durable: to show that the tests notice.
    """

    def __init__(self, root, forgets=()):
        super().__init__()
        self.root = root
        self.forgets = forgets
        self.dies_at = None
        self.watch = lambda: None
        self._disk = _read_directory(root)
        self._open = {}

    def before(self, step, name, args):
        if self.dies_at is not None and step >= self.dies_at:
            raise Killed

    def after(self, step, name, args):
        if name not in self.forgets:
            getattr(self, f"_{name}")(*args)
        self.watch()

    def perform(self, name, args):
        result = super().perform(name, args)
        if name == "create":
            self._open[result] = File()
        return result

    def survivors(self, kind, seed=0):
        """Return relative paths to contents (None: a directory) as they may be found when the power is back.

        ``"synced"``: only what is durable. ``"everything"``: all that was done. ``"removals"``: of what is not
        durable, only removals. ``"additions"``: of what is not durable, only new names. ``"torn"``: all names, but
        contents that were not synced are half there. ``"random"``: each change on its own.
        """
        generator = random.Random(seed)  # noqa: S311
        found = {}
        _survive(self._disk, "", kind, generator, found)
        return found

    def _directory(self, path):
        node = self._disk
        for part in path.relative_to(self.root).parts:
            node = node.live[part]
        return node

    def _create(self, path):
        descriptor = next(number for number, other in self.paths.items() if other == path)
        self._directory(path.parent).live[path.name] = self._open[descriptor]

    def _reserve(self, descriptor, size):
        file = self._open[descriptor]
        file.live.extend(bytes(max(0, size - len(file.live))))

    def _write(self, descriptor, data, offset):
        self._reserve(descriptor, offset + len(data))
        self._open[descriptor].live[offset : offset + len(data)] = data

    def _truncate(self, descriptor, size):
        self._reserve(descriptor, size)
        del self._open[descriptor].live[size:]

    def _fsync(self, descriptor):
        file = self._open[descriptor]
        file.durable = bytes(file.live)

    def _close(self, descriptor):
        del self._open[descriptor], self.paths[descriptor]

    def _link(self, source, target):
        self._directory(target.parent).live[target.name] = self._directory(source.parent).live[source.name]

    def _replace(self, source, target):
        self._directory(target.parent).live[target.name] = self._directory(source.parent).live.pop(source.name)

    def _unlink(self, path):
        del self._directory(path.parent).live[path.name]

    def _make_directory(self, path):
        self._directory(path.parent).live[path.name] = Directory()

    def _fsync_directory(self, path):
        directory = self._directory(path)
        directory.durable = dict(directory.live)

    def _remove_tree(self, path):
        _clear(self._directory(path.parent).live.pop(path.name))


def _read_directory(path):
    directory = Directory()
    for child in path.iterdir():
        directory.live[child.name] = _read_directory(child) if child.is_dir() else File(child.read_bytes())
    directory.durable = dict(directory.live)
    return directory


def _clear(node):
    if isinstance(node, Directory):
        for child in node.live.values():
            _clear(child)
        node.live = {}


def _survive(directory, prefix, kind, generator, found):
    for name in sorted(directory.durable | directory.live):
        old, new = directory.durable.get(name), directory.live.get(name)
        chosen = new
        if old is not new:
            kept = {
                "synced": old,
                "removals": old if new is not None else None,
                "additions": new if new is not None else old,
                "random": generator.choice((old, new)),
            }
            chosen = kept.get(kind, new)
        if isinstance(chosen, Directory):
            found[prefix + name] = None
            _survive(chosen, f"{prefix}{name}/", kind, generator, found)
        elif chosen is not None:
            found[prefix + name] = _content(chosen, kind, generator)


def _content(file, kind, generator):
    if file.live == file.durable or kind == "everything":
        return bytes(file.live)
    half = len(file.live) // 2
    torn = bytes(file.live[:half]) + bytes(len(file.live) - half)
    if kind == "random":
        return generator.choice((file.durable, torn, bytes(file.live)))
    return torn if kind == "torn" else file.durable


def rebuild(target, found):
    """Write the surviving files into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name, data in found.items():
        if data is None:
            (target / name).mkdir()
        else:
            (target / name).write_bytes(data)
