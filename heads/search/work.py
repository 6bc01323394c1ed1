"""What an unfinished sweep keeps in ``SWEEP_DIR.work/``: its plan, what came of each task, and scratch files.

A run claims the directory, and goes on with what is in it only if the plan is its own.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurecache.errors import OutputError
from featurecache.publish import claim_directory, make_directory, publish_once, remove_directory
from heads.search.grid import Candidate
from heads.search.judging import Judging
from heads.search.tasks import Outcome, Task, decode

_FORMAT, _FORMAT_VERSION = "featurecache-sweep-plan", 1
_MAX_BYTES = 2**28  # of a file that is read back


class Work:
    """The directory of an unfinished sweep, claimed by this run.

    Parameters
    ----------
    directory
        ``SWEEP_DIR.work``; it is there.
    plan
        What the sweep is; see `plan_of`.

    Attributes
    ----------
    digest : str
        SHA-256 of the plan, which every result bears.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory = directory
        text = json.dumps(plan, sort_keys=True, allow_nan=False)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._require_own(plan)
        publish_once(directory / "plan.json", f"{text}\n".encode())
        make_directory(directory / "results")
        for name in ("scratch", "finished"):  # what a run that was killed has left
            remove_directory(directory / name)

    def result(self, task: Task) -> Path:
        """Return the file that keeps what comes of a task."""
        return self.directory / "results" / task.name

    def outcomes(self, task: Task) -> list[Outcome] | None:
        """Return what came of a task; None if nothing is known of it, or what is known is damaged."""
        try:
            with self.result(task).open("rb") as stream:
                found = decode(stream.read(_MAX_BYTES), self.digest)
        except OSError:
            return None
        return found if found and len(found) == len(task.candidates) else None

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Make a folder that is gone when the block ends, however it ends."""
        path = self.directory / name
        make_directory(path)
        try:
            yield path
        finally:
            remove_directory(path)

    def _require_own(self, plan: Mapping[str, Any]) -> None:
        """Raise `OutputError` if the directory holds another plan, naming what differs."""
        try:
            there = json.loads((self.directory / "plan.json").read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError):
            there = None
        if not isinstance(there, dict) or there.get("format") != _FORMAT:
            raise OutputError(
                f"{self.directory / 'plan.json'} is damaged, or no plan of a sweep; remove {self.directory}"
            )
        if there != json.loads(json.dumps(plan)):
            raise OutputError(
                f"{self.directory} holds an unfinished sweep of another kind: {'; '.join(_differences(there, plan))}; "
                "finish it with the command that began it, remove it, or choose another directory"
            )


@contextmanager
def claimed(directory: Path, plan: Mapping[str, Any]) -> Iterator[Work]:
    """Make and claim the directory of an unfinished sweep, for one run at a time.

    If the block fails before any result is there, nothing stays.

    Raises
    ------
    OutputError
        If another run is at work in it, it holds another sweep, or it cannot be made.
    """
    make_directory(directory)
    claim = claim_directory(directory)
    try:
        work = Work(directory, plan)
        try:
            yield work
        except BaseException:
            if not any((directory / "results").iterdir()):
                remove_directory(directory)
            raise
    finally:
        if claim is not None:
            os.close(claim)


def plan_of(fingerprint: str, identity: str, judging: Judging, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Return all that decides what a sweep finds, ready for JSON."""
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fingerprint": fingerprint,
        "rows": identity,
        "seed": judging.seed,
        "folds": judging.folds,
        "holdout": judging.holdout,
        "candidates": [candidate.to_dict() for candidate in candidates],
    }


def _differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return what differs between two plans, in words."""
    words = {
        "format_version": "the version of this program",
        "fingerprint": "the recipe of the features",
        "rows": "the images, labels or splits",
    }
    found = [what for name, what in words.items() if there.get(name) != wanted[name]]
    found += [
        f"{name} is {there.get(name)} there and {wanted[name]} here"
        for name in ("seed", "folds", "holdout")
        if there.get(name) != wanted[name]
    ]
    if there.get("candidates") != wanted["candidates"]:
        found.append(_grid_difference(there, wanted))
    return found


def _grid_difference(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    try:
        ours, theirs = (_by_head_and_tap(plan["candidates"]) for plan in (wanted, there))
    except (KeyError, TypeError, AttributeError):
        return "its candidates"
    for index, what in enumerate(("heads", "taps")):
        names = [list(dict.fromkeys(key[index] for key in each)) for each in (theirs, ours)]
        if set(names[0]) != set(names[1]):
            return f"{what} are {', '.join(names[0])} there and {', '.join(names[1])} here"
    changed = dict.fromkeys(head for (head, tap), tried in ours.items() if theirs.get((head, tap)) != tried)
    return f"the grid of {', '.join(changed)}" if changed else "the order of candidates"


def _by_head_and_tap(candidates: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    grouped: dict[tuple[str, str], list[Any]] = {}
    for each in candidates:
        grouped.setdefault((str(each["head"]), str(each["tap"])), []).append(each["params"])
    return grouped
