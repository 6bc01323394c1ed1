"""Execution of the tasks of a sweep, one tap and part after the other."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from heads.search.prepared import CacheRows, Kind, prepare
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
        All of them, in plan order.
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

    tasks: Sequence[Task]
    work: Work
    progress: Callable[[SweepProgress], object]
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)
    preparing: float = 0.0

    @property
    def missing(self) -> list[Task]:
        """The tasks without an outcome."""
        return [task for task in self.tasks if task.name not in self.outcomes]

    def recall(self) -> None:
        """Load the outcomes that an earlier run has saved."""
        known = {task.name: self.work.outcomes(task) for task in self.tasks}
        self.outcomes = {name: outcomes for name, outcomes in known.items() if outcomes is not None}

    def run(self, cache_rows: CacheRows, workers: Workers, cost: Callable[[Task], float], *, cheap_first: bool) -> None:
        """Run the missing tasks. The prepared rows of one tap and part exist at a time.

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
        for kind, tasks in groups_of(self.missing, costs, cheap_first=cheap_first):
            folds = cache_rows.validation.folds
            doing = f"{kind.tap}, fold {kind.part + 1} of {folds}" if folds else kind.tap
            self.report(f"preparing {doing}")
            with self.work.folder("scratch") as folder:
                began = time.perf_counter()
                rows = workers.call(prepare, cache_rows, kind, folder)
                self.preparing += time.perf_counter() - began
                calls = {task.name: (task, rows, self.work.result(task), self.work.digest) for task in tasks}
                self.report(doing)
                for name, outcomes in workers.each(publish_task, calls):
                    self.outcomes[name] = outcomes
                    self.report(doing)

    def report(self, doing: str) -> None:
        """Report the progress of the sweep."""
        total = sum(len(task.candidates) for task in self.tasks)
        self.progress(SweepProgress(total, sum(map(len, self.outcomes.values())), doing))

    def by_candidate(self) -> dict[int, list[Outcome]]:
        """Return the outcomes of the candidates that are done on all parts, by number: in plan order, then by part."""
        unfinished = {number for task in self.missing for number in task.numbers}
        found: dict[int, list[Outcome]] = {}
        for task in sorted(self.tasks, key=lambda task: task.part):
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
