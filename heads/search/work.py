"""The directory ``SWEEP_DIR.work/`` of an unfinished sweep: its plan, the outcomes of tasks, and scratch files.

A run locks the directory, and continues the sweep in it only if the plan is the same.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featurecache.errors import OutputError
from featurecache.storage.directory_lock import lock_directory
from featurecache.storage.publish import make_directory, publish_once, remove_directory
from heads.notices import Code
from heads.search.grid import Candidate
from heads.search.tasks import Outcome, Task, decode
from heads.search.validation_plan import ValidationPlan

LEADERBOARD, TABLE, BEST = "leaderboard.json", "leaderboard.csv", "best"
"""What the directory of a finished sweep holds."""

_FORMAT, _FORMAT_VERSION = "featurecache-sweep-plan", 3  # version 1 had other folds, 2 tried all candidates
_MAX_BYTES = 2**28  # of a file that is read back


class Work:
    """The directory of an unfinished sweep, locked by this run.

    Parameters
    ----------
    directory
        ``SWEEP_DIR.work``; it exists.
    plan
        What the sweep is; see `plan_of`.

    Attributes
    ----------
    digest : str
        SHA-256 of the plan; every result file contains it.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory = directory
        text = json.dumps(plan, sort_keys=True, allow_nan=False)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._require_own(plan)
        publish_once(directory / "plan.json", f"{text}\n".encode())
        make_directory(directory / "results")
        for name in ("scratch", "finished", "before"):  # what a run that was killed has left
            remove_directory(directory / name)

    def result(self, task: Task) -> Path:
        """Return the file that keeps what comes of a task."""
        return self.directory / "results" / task.name

    def outcomes(self, task: Task) -> list[Outcome] | None:
        """Return the saved outcomes of a task; None if there are none, or their file is damaged."""
        found = self._saved(self.result(task))
        return found if found and len(found) == len(task.candidates) else None

    def count(self) -> int:
        """Return the number of tasks with saved outcomes."""
        return sum(1 for path in _results(self.directory) if self._saved(path))

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """Make a folder; it is removed at the end of the block, also after an error."""
        path = self.directory / name
        make_directory(path)
        try:
            yield path
        finally:
            remove_directory(path)

    def _saved(self, path: Path) -> list[Outcome] | None:
        try:
            with path.open("rb") as stream:
                return decode(stream.read(_MAX_BYTES), self.digest)
        except OSError:
            return None

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
def locked(directory: Path, plan: Mapping[str, Any]) -> Iterator[Work]:
    """Make and lock the directory of an unfinished sweep, for one run at a time.

    If the block fails before any result is there, nothing stays.

    Raises
    ------
    OutputError
        If another run is at work in it, it holds another sweep, or it cannot be made.
    """
    make_directory(directory)
    lock = lock_directory(directory)
    try:
        work = Work(directory, plan)
        try:
            yield work
        except BaseException:
            if not any(_results(directory)):
                remove_directory(directory)
            raise
    finally:
        if lock is not None:
            lock.close()


def _results(directory: Path) -> Iterator[Path]:
    """Return the files of outcomes, not those to which a process that was killed gave no final name."""
    return (directory / "results").glob("*.json")


def is_unfinished(directory: Path) -> bool:
    """Whether a directory holds the results of a sweep whose time was over, and nothing else."""
    try:
        if directory.is_symlink() or {path.name for path in directory.iterdir()} != {LEADERBOARD, TABLE, BEST}:
            return False
        with (directory / LEADERBOARD).open("rb") as stream:
            notes = json.loads(stream.read(_MAX_BYTES))["notes"]
        return any(note["code"] == Code.TIME_OVER for note in notes)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def plan_of(
    fingerprint: str,
    identity: str,
    validation: ValidationPlan,
    candidates: Sequence[Candidate],
    search: Mapping[str, Any],
) -> dict[str, Any]:
    """Return all that determines the result of a sweep, ready for JSON; ``search`` is what chooses candidates."""
    return {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "fingerprint": fingerprint,
        "rows": identity,
        "seed": validation.seed,
        "folds": validation.folds,
        "holdout": validation.holdout,
        "search": search,
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
    if not found and there.get("search") != wanted["search"]:
        found.append("which heads or values were asked for by name")
    return found


def _grid_difference(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    try:
        ours, theirs = (_by_head_and_tap(plan["candidates"]) for plan in (wanted, there))
    except (KeyError, TypeError, AttributeError):
        return "its candidates"
    for index, what in enumerate(("heads", "taps")):
        names = [list(dict.fromkeys(key[index] for key in keys)) for keys in (theirs, ours)]
        if set(names[0]) != set(names[1]):
            return f"{what} are {', '.join(names[0])} there and {', '.join(names[1])} here"
    changed = dict.fromkeys(head for (head, tap), tried in ours.items() if theirs.get((head, tap)) != tried)
    return f"the grid of {', '.join(changed)}" if changed else "the order of candidates"


def _by_head_and_tap(candidates: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    grouped: dict[tuple[str, str], list[Any]] = {}
    for candidate in candidates:
        grouped.setdefault((str(candidate["head"]), str(candidate["tap"])), []).append(candidate["params"])
    return grouped
