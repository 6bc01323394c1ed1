"""The use case ``sweep``: try heads on cached features, select the best without test rows, and save it."""

from __future__ import annotations

import errno
import json
import math
import time
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featurecache.errors import OutputError
from featurecache.processors import processor_count
from featurecache.storage.output_errors import require_place
from featurecache.storage.publish import name_directory, publish, remove_directory
from featurecache.text import counted
from heads.catalog import head_spec
from heads.errors import ParameterError, TrainingError
from heads.notices import to_dicts
from heads.search.grid import BASELINE, candidates_of
from heads.search.notices import notices_on
from heads.search.prepared import CacheRows
from heads.search.ranking import ranked, to_csv
from heads.search.refinement import Refinement, long_parameters
from heads.search.sweep_executor import SweepExecutor, SweepProgress
from heads.search.tasks import tasks_of
from heads.search.validation_plan import ValidationPlan, identity, parts_of, sample_of, validation_groups
from heads.search.work import BEST, LEADERBOARD, TABLE, is_unfinished, locked, plan_of
from heads.search.workers import TimeOverError, Workers, single_threaded
from heads.splits import DEFAULT_HOLDOUT, labelled_images, together_numbers
from heads.training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike
    from types import TracebackType

    from featurecache.cache import FeatureCache
    from heads.artifact import TrainedHead
    from heads.notices import Notice
    from heads.search.grid import Candidate, Grids
    from heads.search.ranking import Entry
    from heads.search.tasks import Task
    from heads.search.work import Work


_SAMPLE_SHARE = 0.25  # about the part of the training rows that a sample is


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The result of a sweep.

    Parameters
    ----------
    leaderboard
        Every candidate that there was time for, best first, those that failed last.
    best
        The first of them, trained again on all training rows.
    notes
        Notices for the user.
    seconds
        Seconds by step: ``total``, ``preparing``, ``final``, and ``heads``: head to seconds, summed over the workers.
    """

    leaderboard: tuple[Entry, ...]
    best: TrainedHead
    notes: tuple[Notice, ...]
    seconds: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the result, ready for JSON."""
        return {
            "leaderboard": [entry.to_dict() for entry in self.leaderboard],
            "best": self.leaderboard[0].to_dict() | {"trained": self.best.to_dict()},
            "notes": to_dicts(self.notes),
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
    seconds: float | None = None,
    notify: Callable[[str], object] = lambda _: None,
    progress: Callable[[SweepProgress], object] = lambda _: None,
) -> Sweep:
    """Try heads, taps and parameters on the training rows of a cache; save the best as a trained head.

    Of parameters with many values in the catalogue's grid, a few are tried first, then others around the best. With
    more than 4,000 training rows, costly heads are tried on a sample of them first, and those that are worse than
    others beyond noise are stopped, unless ``heads`` names them. Values in ``grids`` are all tried.

    Candidates are validated on the valid split; where there is none, training rows are held out as in `heads.train`.
    With folds, every training row is predicted by a head that was not trained on it. Groups
    (`featurecache.FeatureCache.with_groups`) are never on both sides. Rows of the test split are never used.

    An interrupted sweep continues if it is called again with the same arguments. So does one whose time was over; its
    time may be another one, and its results replace those in ``sweep_dir``.

    Parameters
    ----------
    cache
        The features.
    sweep_dir
        The directory to make: ``leaderboard.json``, ``leaderboard.csv``, and the best head in ``best``. What is
        finished meanwhile is kept in ``SWEEP_DIR.work`` beside it.
    heads
        Names in the catalogue; none for all, or for all that take weights if the rows have some. ``majority`` is tried
        in any case, as the majority baseline.
    taps
        Layers of the cache; none for all.
    grids
        Head to parameter to the values to try; the catalogue has values for what is not named.
    folds
        Number of folds that take the place of valid rows; 0 for none.
    holdout
        The part of the training rows that is held out where the cache has no valid split.
    seed
        Seed of all random choices.
    jobs
        Number of processes that work at a time, each with its share of the processors; one a processor if not given.
        With 1, this process does the work itself, with one thread.
    seconds
        The time for trying candidates, cheap ones first; None for no limit. When it is over, trainings under way are
        given up, and the best of the candidates that are done is trained again.
    notify
        Called with one-line status messages for the user.
    progress
        Called when a task has finished.

    Raises
    ------
    UnknownNameError
        If there is no such head or tap.
    ParameterError
        If a parameter does not exist or cannot take its value, or a number is out of its range.
    TrainingError
        If the rows cannot train and validate heads, or the time was over before any candidate was done.
    OutputError
        If the directory exists already or cannot be written, another run is at work on it, or it holds an unfinished
        sweep of another kind.
    """
    began = time.monotonic()
    directory = Path(sweep_dir)
    unfinished = directory.with_name(f"{directory.name}.work")
    _require_free(directory, unfinished)
    validation = ValidationPlan(folds, holdout, seed)
    if jobs is not None and jobs < 1:
        raise ParameterError(f"jobs is {jobs}, expected at least 1")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ParameterError(f"seconds is {seconds}, expected a number above 0")
    taps = list(dict.fromkeys(cache.require_tap(tap) for tap in taps or cache.taps))
    candidates = candidates_of(heads, taps, grids or {}, weighted=cache.weights is not None)
    if folds and any(each.params.get("patience") or each.params.get("keep") == "best" for each in candidates):
        raise ParameterError("patience and keep=best choose an epoch by valid rows, and with folds there are none")
    images = labelled_images(cache, taps[0])
    rows = identity(images, validation)
    given = {each.head: (grids or {}).get(each.head, {}) for each in candidates}
    refined = {head: long_parameters(head_spec(head), values) for head, values in given.items()}
    plan = plan_of(images.fingerprint, rows, validation, candidates, {"stops": not heads, "refined": refined})
    threads = single_threaded() if (jobs or processor_count()) == 1 else nullcontext()
    with threads, locked(unfinished, plan) as work:
        parts = parts_of(images, validation)
        n, k = int(np.count_nonzero(parts >= 0)), len(images.classes)
        sample = sample_of(images, parts, validation, k)
        source = CacheRows(
            cache.path,
            validation,
            rows,
            images.classes,
            images.y,
            parts,
            images.groups,
            images.weights,
            sample,
            images.is_view,
            together_numbers(images),
        )
        costs, at_once = _sizes(candidates, cache.taps, n, k)
        groups = validation_groups(images, validation)
        search = Refinement(candidates, grids or {}, costs, sampled=sample is not None, stops=not heads, groups=groups)
        executor = SweepExecutor([], work, progress)
        until = None if seconds is None else began + seconds
        if known := work.count():
            notify(f"known from before and kept: {counted(known, 'task')}")
        with suppress(TimeOverError), _Pools(jobs, until) as pools, closing(executor):
            while any(wanted := search.after(executor.results(sampled=True), executor.results(sampled=False))):
                for sampled, chosen in zip((True, False), wanted, strict=True):
                    executor.add(tasks_of(candidates, validation.parts, chosen, sampled=sampled, together=at_once))
                if executor.missing:
                    workers = pools.workers(len(executor.missing))
                    executor.run(source, workers, partial(_cost, costs), cheap_first=until is not None)
        done = dict(sorted((executor.by_candidate(sampled=True) | executor.by_candidate(sampled=False)).items()))
        if not done:
            raise TrainingError(f"no candidate was done after {seconds:g} s; give the sweep more time")
        leaderboard = ranked([candidates[number] for number in done], list(done.values()), groups)
        best, final = _trained(leaderboard, cache, validation, executor)
        spent = {"total": time.monotonic() - began, "preparing": executor.preparing, "final": final}
        stopped = search.stopped(executor.results(sampled=True))
        notes = notices_on(leaderboard, best, images, validation, left=executor.missing, stopped=stopped)
        found = Sweep(leaderboard, best, tuple(notes), spent | {"heads": executor.seconds_by_head()})
        _publish(found, work, directory)
        if not executor.missing:
            remove_directory(work.directory)
    return found


def _trained(
    leaderboard: Sequence[Entry], cache: FeatureCache, validation: ValidationPlan, executor: SweepExecutor
) -> tuple[TrainedHead, float]:
    """Train the best candidate on all training rows; return the head and the seconds that this took."""
    first = leaderboard[0]
    head, tap, params = first.candidate.head, first.candidate.tap, first.candidate.params
    asked = [entry for entry in leaderboard if entry.candidate.head != BASELINE] or leaderboard
    if all(entry.error for entry in asked):
        failed = asked[0]
        raise TrainingError(
            f"none of {len(asked)} candidates could be trained; {failed.candidate.head}: {failed.error}"
        )
    executor.report(f"training {head} on {tap} again")
    began = time.monotonic()
    # validation with folds needs no rows held out
    holdout = 0.0 if validation.folds else validation.holdout
    best = train(cache, head, tap=tap, params=params, seed=validation.seed, holdout=holdout)
    return best, time.monotonic() - began


def _sizes(
    candidates: Sequence[Candidate], taps: Mapping[str, int], n: int, k: int
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Return how much work a training of each head and tap is, and how many of them it pays to train together."""
    widths = {(each.head, each.tap): taps[each.tap] for each in candidates}
    specs = {pair: head_spec(pair[0]) for pair in widths}
    costs = {pair: spec.cost(n, widths[pair], k) for pair, spec in specs.items()}
    return costs, {pair: spec.together(n, widths[pair], k) for pair, spec in specs.items()}


def _cost(costs: Mapping[tuple[str, str], float], task: Task) -> float:
    """Return about how many products a task takes, up to what all tasks have in common."""
    first = task.candidates[0]
    return costs[first.head, first.tap] * len(task.candidates) * (_SAMPLE_SHARE if task.sampled else 1)


class _Pools:
    """The worker processes of a sweep, started when they are needed; a context manager.

    A single task is computed by this process, with all threads, if it needs not be given up.
    """

    def __init__(self, jobs: int | None, until: float | None) -> None:
        self._jobs, self._until = jobs, until
        self._stack = ExitStack()
        self._started: Workers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def workers(self, tasks: int) -> Workers:
        """Return workers for this number of tasks."""
        if tasks == 1 and self._until is None:
            return self._stack.enter_context(Workers(1))
        if self._started is None:
            self._started = self._stack.enter_context(Workers(self._jobs, until=self._until))
        return self._started


def _publish(found: Sweep, work: Work, directory: Path) -> None:
    """Write the results and give the directory its final name."""
    with work.folder("finished") as finished, work.folder("before") as before:
        text = json.dumps(found.to_dict(), indent=2, allow_nan=False)
        publish(finished / LEADERBOARD, f"{text}\n".encode("ascii"))
        publish(finished / TABLE, to_csv(found.leaderboard).encode())
        found.best.save(finished / BEST)
        try:
            if is_unfinished(directory):
                name_directory(directory, before)
            name_directory(finished, directory)
        except FileExistsError as e:
            raise _exists(directory) from e


def _require_free(directory: Path, work: Path) -> None:
    """Raise `OutputError` if the directory cannot be made, before any work is spent on it."""
    require_place(directory)
    if (directory.exists() or directory.is_symlink()) and not (work.is_dir() and is_unfinished(directory)):
        raise _exists(directory)


def _exists(directory: Path) -> OutputError:
    error = OutputError(f"{directory} exists already; remove it or choose another directory for the sweep")
    error.errno = errno.EEXIST
    return error
