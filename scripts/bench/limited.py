"""Runs a program under a limit of memory, and measures what it read and allocated."""

import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from featurecache.control_groups import group_folders

_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of both versions of control groups
_INTERVAL = 0.02
_SECTOR = 512
_KIB = 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What a program did.

    Parameters
    ----------
    output
        What it printed.
    seconds
        From its start to its end.
    processor_seconds
        What its threads computed.
    read_bytes
        What it had read from the disk; what was in memory already does not count.
    anonymous_bytes
        The most memory that it had allocated at a time: without mapped files.
    limited_by
        ``"control group"``, which limits cached files, too, or ``"ulimit"``, which limits allocated memory alone.
    """

    output: str
    seconds: float
    processor_seconds: float
    read_bytes: int
    anonymous_bytes: int
    limited_by: str


def run_limited(command: Sequence[str], limit: int) -> Measured:
    """Run a program with at most ``limit`` bytes of memory.

    Raises
    ------
    RuntimeError
        If it fails; with the end of what it said.
    """
    with _control_group(limit) as folder:

        def enter() -> None:
            if folder is None:
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
            else:
                (folder / "cgroup.procs").write_text(str(os.getpid()), "ascii")

        began = time.perf_counter()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(list(command), stdout=out, stderr=err, preexec_fn=enter)  # noqa: S603, PLW1509
            peak = _Peak(process.pid)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.perf_counter() - began
            peak.stop()
            out.seek(0)
            err.seek(0)
            output, said = out.read(), err.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said[-2000:]}")
    limited_by = "ulimit" if folder is None else "control group"
    computed = used.ru_utime + used.ru_stime
    return Measured(output, seconds, computed, used.ru_inblock * _SECTOR, peak.bytes, limited_by)


@contextmanager
def _control_group(limit: int) -> Iterator[Path | None]:
    """Make a control group below that of this process; None where that is not allowed."""
    folder = next(iter(group_folders("memory")), Path("/nowhere")) / f"featurecache-{os.getpid()}"
    is_made = is_limited = False
    with suppress(OSError, StopIteration):
        folder.mkdir()
        is_made = True
        file = next(folder / name for name in _LIMITS if (folder / name).exists())
        file.write_text(str(limit), "ascii")
        is_limited = True
    try:
        yield folder if is_limited else None
    finally:
        if is_made:
            folder.rmdir()


class _Peak:
    """Watches the anonymous memory of a process in a thread, every 20 milliseconds."""

    def __init__(self, process: int) -> None:
        self.bytes = 0
        self._status, self._stopped = Path(f"/proc/{process}/status"), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                lines = self._status.read_text("ascii", errors="replace").splitlines()
            except OSError:
                return
            sizes = [int(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon:")]
            self.bytes = max([self.bytes, *sizes])
