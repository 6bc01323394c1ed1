"""The control groups (containers, systemd units, Slurm jobs) that limit this process, as folders of files."""

from collections.abc import Iterator
from pathlib import Path

_PROCESS = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def group_folders(controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of this process and of their parents, of either version of cgroups.

    Parameters
    ----------
    controller
        What they limit: ``"cpu"`` or ``"memory"``.
    """
    try:
        lines = _PROCESS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            yield from _with_parents(_CGROUPS, group)
        elif controller in controllers.split(","):  # version 1
            yield from _with_parents(_CGROUPS / controller, group)


def words(file: Path) -> list[str]:
    """Return the words of a file of a control group; none if it is not there."""
    try:
        return file.read_text("ascii").split()
    except (OSError, ValueError):
        return []


def _with_parents(root: Path, group: str) -> Iterator[Path]:
    """Yield the folder of a control group and of its parents; inside a container only the root may be visible."""
    names = [name for name in group.split("/") if name not in {"", ".", ".."}]
    for depth in range(len(names), -1, -1):
        yield root.joinpath(*names[:depth])
