"""The use case: try heads on cached features, choose the best without a look at test rows, and keep it."""

from __future__ import annotations

import errno
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurecache.errors import OutputError
from featurecache.publish import name_directory, publish, remove_directory, require_place
from heads.errors import ParameterError, TrainingError
from heads.search.grid import FLOOR, candidates_of
from heads.search.judging import Judging, identity, labelled_images, parts_of
from heads.search.notes import notes_on
from heads.search.prepared import Source
from heads.search.ranking import ranked, to_csv
from heads.search.tasks import tasks_of
from heads.search.trying import SweepProgress, Trying
from heads.search.work import claimed, plan_of
from heads.search.workers import Workers
from heads.training import DEFAULT_HOLDOUT, train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from featurecache.cache import FeatureCache
    from heads.artifact import TrainedHead
    from heads.search.grid import Grids
    from heads.search.ranking import Entry
    from heads.search.work import Work


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """What a sweep found.

    Parameters
    ----------
    leaderboard
        Every candidate, best first, those that failed last.
    best
        The first of them, trained again on all training rows.
    notes
        What the user must know, one line each.
    seconds
        What the time went into: ``total``, ``preparing``, ``final``, and ``heads``, name to seconds, those of all
        workers added up.
    """

    leaderboard: tuple[Entry, ...]
    best: TrainedHead
    notes: tuple[str, ...]
    seconds: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "leaderboard": [entry.to_dict() for entry in self.leaderboard],
            "best": self.leaderboard[0].to_dict() | {"trained": self.best.to_dict()},
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def sweep(
    cache: FeatureCache,
    sweep_dir: str | PathLike[str],
    *,
    heads: Sequence[str] = (),
    taps: Sequence[str] = (),
    grids: Grids | None = None,
    folds: int = 0,
    holdout: float = DEFAULT_HOLDOUT,
    seed: int = 0,
    jobs: int | None = None,
    notify: Callable[[str], object] = lambda _: None,
    progress: Callable[[SweepProgress], object] = lambda _: None,
) -> Sweep:
    """Try heads, taps and parameters on the training rows of a cache, and keep the best as a trained head.

    The rows of the valid split judge; where there is none, training rows are held out as `heads.train` does it; with
    folds, every training row is judged by a head that has not seen it. Rows of the test split are not touched; of a
    float16 cache, whose taps are converted as a whole for the last training, their features are converted with the
    rest.

    An interrupted sweep goes on where it was if it is called again in the same way.

    Parameters
    ----------
    cache
        The features.
    sweep_dir
        The directory to make: ``leaderboard.json``, ``leaderboard.csv``, and the best head in ``best``. What is
        finished meanwhile is kept in ``SWEEP_DIR.work`` beside it.
    heads
        Names in the catalogue; none for all. ``majority`` is tried in any case, as the floor.
    taps
        Layers of the cache; none for all.
    grids
        Head to parameter to the values to try; the catalogue has values for what is not named.
    folds
        Number of folds that take the place of valid rows; 0 for none.
    holdout
        The part of the training rows that is held out where the cache has no valid split.
    seed
        What all random choices follow from.
    jobs
        Number of processes that work at a time, each with its share of the processors; one a processor if not given.
        With 1, this process does the work itself.
    notify
        Called with messages for the person who waits.
    progress
        Called whenever something has been finished.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter does not exist or cannot take its value, or a number is out of its range.
    TrainingError
        If the rows cannot train and judge heads.
    OutputError
        If the directory exists already or cannot be written, another run is at work on it, or it holds an unfinished
        sweep of another kind.
    """
    began = time.perf_counter()
    directory = Path(sweep_dir)
    _require_free(directory)
    judging = Judging(folds, holdout, seed)
    if jobs is not None and jobs < 1:
        raise ParameterError(f"jobs is {jobs}, expected at least 1")
    taps = list(dict.fromkeys(cache.require_tap(tap) for tap in taps or cache.taps))
    candidates = candidates_of(heads, taps, grids or {})
    if folds and any(each.params.get("patience") or each.params.get("keep") == "best" for each in candidates):
        raise ParameterError("patience and keep=best choose an epoch by valid rows, and with folds there are none")
    images = labelled_images(cache, taps[0])
    rows = identity(images, judging)
    plan = plan_of(images.fingerprint, rows, judging, candidates)
    with claimed(directory.with_name(f"{directory.name}.work"), plan) as work:
        trying = Trying(tasks_of(candidates, judging.parts), work, progress)
        trying.recall()
        if trying.outcomes:
            notify(f"known from before and kept: {len(trying.outcomes)} of {len(trying.tasks)} tasks")
        if trying.missing:
            with Workers(jobs, most=len(trying.missing)) as workers:
                parts = workers.call(parts_of, images, judging)  # of folds, by scikit-learn, which we need not load
                trying.run(Source(cache.path, judging, rows, images.classes, images.y, parts), workers)
        leaderboard = ranked(candidates, trying.by_candidate())
        best, final = _trained(leaderboard, cache, judging, trying)
        seconds = {"total": time.perf_counter() - began, "preparing": trying.preparing, "final": final}
        notes = notes_on(leaderboard, best, images, judging)
        found = Sweep(leaderboard, best, tuple(notes), seconds | {"heads": _seconds_by_head(leaderboard)})
        _publish(found, work, directory)
        remove_directory(work.directory)
    return found


def _trained(
    leaderboard: Sequence[Entry], cache: FeatureCache, judging: Judging, trying: Trying
) -> tuple[TrainedHead, float]:
    """Train the best candidate again, on all training rows; return the seconds that it took besides."""
    first = leaderboard[0]
    head, tap, params = first.candidate.head, first.candidate.tap, first.candidate.params
    asked = [entry for entry in leaderboard if entry.candidate.head != FLOOR] or leaderboard
    if all(entry.error for entry in asked):
        failed = asked[0]
        raise TrainingError(
            f"none of {len(asked)} candidates could be trained; {failed.candidate.head}: {failed.error}"
        )
    trying.report(f"training {head} on {tap} again")
    began = time.perf_counter()
    # what folds have judged needs no rows held out
    holdout = 0.0 if judging.folds else judging.holdout
    best = train(cache, head, tap=tap, params=params, seed=judging.seed, holdout=holdout)
    return best, time.perf_counter() - began


def _seconds_by_head(leaderboard: Sequence[Entry]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for entry in leaderboard:
        head = entry.candidate.head
        seconds[head] = seconds.get(head, 0.0) + entry.seconds
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def _publish(found: Sweep, work: Work, directory: Path) -> None:
    """Give the directory its final name, with all that it holds."""
    with work.folder("finished") as finished:
        text = json.dumps(found.to_dict(), indent=2, allow_nan=False)
        publish(finished / "leaderboard.json", f"{text}\n".encode("ascii"))
        publish(finished / "leaderboard.csv", to_csv(found.leaderboard).encode())
        found.best.save(finished / "best")
        try:
            name_directory(finished, directory)
        except FileExistsError as e:
            raise _exists(directory) from e


def _require_free(directory: Path) -> None:
    """Raise `OutputError` if the directory cannot be made, before any work is spent on it."""
    require_place(directory)
    if directory.exists() or directory.is_symlink():
        raise _exists(directory)


def _exists(directory: Path) -> OutputError:
    error = OutputError(f"{directory} exists already; remove it or choose another directory for the sweep")
    error.errno = errno.EEXIST
    return error
