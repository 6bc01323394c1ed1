"""How much memory this process uses, and how much it can still allocate."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from featurecache.control_groups import group_folders, words
from featurecache.storage.platform import peak_memory, resource_limits

_PROC = Path("/proc")
_KIB = 1024
# files of a control group's limit and usage in bytes, and the names of its cached files in memory.stat
_VERSIONS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
)
_SIZE, _RESIDENT, _DATA = 0, 1, 5  # places in /proc/self/statm
_LIMITED = {"RLIMIT_AS": _SIZE, "RLIMIT_DATA": _DATA}


def resident_memory() -> int:
    """Return the resident memory of this process in bytes, mapped files included.

    macOS tells only the most that it had; Windows tells nothing (0).
    """
    try:
        return _own(_RESIDENT)
    except OSError:
        return peak_memory()


def free_memory() -> int:
    """Return the bytes that this process can still allocate, at least 0.

    The machine, control groups (a container, a systemd unit, a Slurm job) and the limits of ``ulimit`` bound it. Cached
    files do not count as used: the system drops them when memory is needed.
    """
    return max(0, min([_available(), *_of_groups(), *_of_limits()]))


def _available() -> int:
    try:
        lines = (_PROC / "meminfo").read_text("ascii").splitlines()
    except OSError:  # a system that is not Linux does not tell
        return sys.maxsize
    return next(int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:"))


def _of_groups() -> Iterator[int]:
    for folder in group_folders("memory"):
        for limit_file, used_file, cached in _VERSIONS:
            limit, used = words(folder / limit_file), words(folder / used_file)
            if limit and used and limit != ["max"]:
                statistics = words(folder / "memory.stat")
                sizes = dict(zip(statistics[::2], statistics[1::2], strict=False))
                yield int(limit[0]) - int(used[0]) + sum(int(sizes.get(name, 0)) for name in cached)


def _of_limits() -> Iterator[int]:
    for kind, limit in resource_limits(*_LIMITED):
        with suppress(OSError):  # a system that is not Linux does not tell how much is used
            yield limit - _own(_LIMITED[kind])


def _own(place: int) -> int:
    return int((_PROC / "self" / "statm").read_text("ascii").split()[place]) * os.sysconf("SC_PAGE_SIZE")
