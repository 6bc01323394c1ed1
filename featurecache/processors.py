"""How many processors this process may use, and of which class they are."""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from featurecache.control_groups import group_folders, words

_PROCESSORS = Path("/proc/cpuinfo")
_INSTRUCTIONS = frozenset(
    {"avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni"}
    | {"amx_tile", "amx_bf16", "amx_int8", "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"}
)
"""Instructions for which libraries have their own code, which may round otherwise."""


def processor_count() -> int:
    """Return how many processors this process may use, at least 1.

    This is the number of processors in the process's affinity mask, or less if a control group (a container, a
    systemd unit, a Slurm job) grants a smaller share of processor time. A share is rounded up to whole processors.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(share) for share in _shares())]))


def processor_class() -> str:
    """Return the architecture and the instructions that decide which code libraries compute with.

    Examples
    --------
    >>> processor_class().split()[0] == platform.machine()
    True
    """
    try:
        lines = _PROCESSORS.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    flags = next((line for line in lines if line.partition(":")[0].strip() in {"flags", "Features"}), "")
    return " ".join([platform.machine(), *sorted(_INSTRUCTIONS.intersection(flags.partition(":")[2].split()))])


def _shares() -> Iterator[float]:
    """Yield the processor shares that the control groups of this process grant; none where there is no limit."""
    for folder in group_folders("cpu"):
        yield from _share(words(folder / "cpu.max"))
        yield from _share(words(folder / "cpu.cfs_quota_us") + words(folder / "cpu.cfs_period_us"))


def _share(numbers: list[str]) -> Iterator[float]:
    """Yield quota divided by period, both in microseconds; nothing if the quota is unlimited (``max`` or -1)."""
    try:
        quota, period = map(int, numbers)
    except ValueError:
        return
    if quota > 0 and period > 0:
        yield quota / period
