"""Execution of the tasks of a sweep, one tap and part after the other."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from heads.search.prepared import CacheRows, Kind, Prepared, prepare
from heads.search.ranking import CandidateResult
from heads.search.tasks import Outcome, Task, publish_task
from heads.search.work import Work
from heads.search.workers import Workers


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Progress of a sweep.

    Parameters
    ----------
    total, done
        Fits to make, and made so far: one for each candidate and part.
    doing
        The current step, as text.
    """

    total: int
    done: int
    doing: str


@dataclass(slots=True)
class SweepExecutor:
    """The tasks of a sweep and their outcomes.

    Parameters
    ----------
    tasks
        Those that are known so far.
    work
        The directory of the unfinished sweep.
    progress
        Called when a step begins or a task has finished.

    Attributes
    ----------
    outcomes : dict
        Task name to the outcome of each of its candidates.
    preparing : float
        Seconds spent on preparing rows.
    """

    tasks: list[Task]
    work: Work
    progress: Callable[[SweepProgress], object]
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    preparing: float = 0.0
    _kept: tuple[Prepared, ExitStack] | None = None

    @property
    def missing(self) -> list[Task]:
        """The tasks without an outcome."""
        return [task for task in self.tasks if task.name not in self.outcomes]

    def add(self, tasks: Sequence[Task]) -> int:
        """Add tasks; load the outcomes that an earlier run has saved, and return how many there were."""
        known = {task.name: self.work.outcomes(task) for task in tasks}
        found = {name: outcomes for name, outcomes in known.items() if outcomes is not None}
        self.tasks += tasks
        self.outcomes |= found
        return len(found)

    def close(self) -> None:
        """Remove the prepared rows."""
        if self._kept is not None:
            self._kept[1].close()
        self._kept = None

    def run(self, cache_rows: CacheRows, workers: Workers, cost: Callable[[Task], float], *, cheap_first: bool) -> None:
        """Run the missing tasks. The prepared rows of one tap and part exist at a time, also until the next call.

        Parameters
        ----------
        cache_rows
            The rows.
        workers
            Run the tasks.
        cost
            About how much work a task is.
        cheap_first
            Whether cheap tasks come before others, since there may be no time for all. Otherwise the costly ones of a
            tap and part come first: so none keeps one worker busy at the end, while the others have nothing.

        Raises
        ------
        TimeOverError
            If the time of the workers is over.
        """
        costs = {task.name: cost(task) for task in self.missing}
        groups = list(groups_of(self.missing, costs, cheap_first=cheap_first))
        kept = self._kept and self._kept[0].kind
        if not cheap_first:
            groups.sort(key=lambda group: group[0] != kept)
        for kind, tasks in groups:
            folds = cache_rows.validation.folds
            doing = f"{kind.tap}, fold {kind.part + 1} of {folds}" if folds else kind.tap
            doing += ", a sample of the rows" if kind.sampled else ""
            rows = self._prepared(cache_rows, kind, workers, doing)
            calls = {task.name: (task, rows, self.work.result(task), self.work.digest) for task in tasks}
            self.report(doing)
            for name, outcomes in workers.each(publish_task, calls):
                self.outcomes[name] = outcomes
                self.report(doing)

    def _prepared(self, cache_rows: CacheRows, kind: Kind, workers: Workers, doing: str) -> Prepared:
        """Return the rows of a kind: those that were prepared last, or new ones."""
        if self._kept is not None and self._kept[0].kind == kind:
            return self._kept[0]
        self.close()
        self.report(f"preparing {doing}")
        began = time.perf_counter()
        with ExitStack() as stack:
            rows = workers.call(prepare, cache_rows, kind, stack.enter_context(self.work.folder("scratch")))
            self._kept = rows, stack.pop_all()
        self.preparing += time.perf_counter() - began
        return rows

    def results(self, *, sampled: bool) -> dict[int, CandidateResult]:
        """Return what came of the candidates that are done on all parts, by number."""
        found = self.by_candidate(sampled=sampled)
        return {number: CandidateResult.from_outcomes(outcomes) for number, outcomes in found.items()}

    def seconds_by_head(self) -> dict[str, float]:
        """Return the seconds of all trainings by head, the longest first."""
        seconds: dict[str, float] = {}
        for task in self.tasks:
            head = task.candidates[0].head
            spent = sum(outcome.seconds for outcome in self.outcomes.get(task.name, ()))
            seconds[head] = seconds.get(head, 0.0) + spent
        return dict(sorted(seconds.items(), key=lambda item: -item[1]))

    def report(self, doing: str) -> None:
        """Report the progress of the sweep."""
        total = sum(len(task.candidates) for task in self.tasks)
        self.progress(SweepProgress(total, sum(map(len, self.outcomes.values())), doing))

    def by_candidate(self, *, sampled: bool) -> dict[int, list[Outcome]]:
        """Return the outcomes of the candidates that are done on all parts, by number: in plan order, then by part.

        Parameters
        ----------
        sampled
            Whether to return those of trainings on the sample, or on all rows.
        """
        unfinished = {number for task in self.missing for number in task.numbers if task.sampled == sampled}
        found: dict[int, list[Outcome]] = {}
        for task in sorted((task for task in self.tasks if task.sampled == sampled), key=lambda task: task.part):
            for number, outcome in zip(task.numbers, self.outcomes.get(task.name, ()), strict=False):
                found.setdefault(number, []).append(outcome)
        return {number: found[number] for number in sorted(found.keys() - unfinished)}


def groups_of(
    tasks: Iterable[Task], costs: Mapping[str, float], *, cheap_first: bool
) -> Iterable[tuple[Kind, list[Task]]]:
    """Return tasks that take the same rows, in the order in which to run them.

    Tasks are equally cheap where their costs agree up to a factor of 4, so that rows are not prepared too often.
    """
    groups: dict[tuple[int, Kind], list[Task]] = {}
    for task in sorted(tasks, key=lambda task: costs[task.name]) if cheap_first else tasks:
        size = math.frexp(costs[task.name])[1] // 2 if cheap_first else 0
        groups.setdefault((size, task.kind), []).append(task)
    if not cheap_first:
        for group in groups.values():
            group.sort(key=lambda task: -costs[task.name])
    return ((kind, group) for (_, kind), group in groups.items())
