"""Names this process so that others on the machine can tell, without a clock, whether it has ended."""

import json
import os
from pathlib import Path

_PROC = Path("/proc")


def this_process() -> str:
    """Return what identifies this process: its machine, since when, and its number, since when."""
    return json.dumps([_space(), os.getpid(), _start(os.getpid())])


def has_ended(identity: str) -> bool:
    """Return whether a process has certainly ended; False for processes of other machines and containers."""
    try:
        space, number, start = json.loads(identity)
    except ValueError:  # it is being written, or is not one
        return False
    here = _space()
    return bool(here) and space == here and _start(number) != start


def _space() -> list[str]:
    """Return the machine since its start and the space of process numbers; empty where they are not known."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return [boot, str((_PROC / "self/ns/pid").readlink())]
    except OSError:
        return []


def _start(number: int) -> str:
    """Return when a process started, in ticks since the start of the machine; empty if there is none."""
    try:
        return (_PROC / str(number) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
