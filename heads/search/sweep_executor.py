"""Execution of the tasks of a sweep, one tap and part after the other."""

import time
from collections.abc import Callable, Sequence
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

    def run(self, cache_rows: CacheRows, workers: Workers) -> None:
        """Run the missing tasks. The prepared rows of one tap and part exist at a time."""
        groups: dict[Kind, list[Task]] = {}
        for task in self.missing:
            groups.setdefault(task.kind, []).append(task)
        for kind, tasks in groups.items():
            folds = cache_rows.validation.folds
            doing = f"{kind.tap}, fold {kind.part + 1} of {folds}" if folds else kind.tap
            self.report(f"preparing {doing}")
            with self.work.folder("scratch") as folder:
                began = time.perf_counter()
                rows = workers.call(prepare, cache_rows, kind, folder)
                self.preparing += time.perf_counter() - began
                # many candidates take long: begun first, they do not keep one worker busy while the others have nothing
                tasks.sort(key=lambda task: -len(task.candidates))
                calls = {task.name: (task, rows, self.work.result(task), self.work.digest) for task in tasks}
                self.report(doing)
                for name, outcomes in workers.each(publish_task, calls):
                    self.outcomes[name] = outcomes
                    self.report(doing)

    def report(self, doing: str) -> None:
        """Report the progress of the sweep."""
        total = sum(len(task.candidates) for task in self.tasks)
        self.progress(SweepProgress(total, sum(map(len, self.outcomes.values())), doing))

    def by_candidate(self) -> list[list[Outcome]]:
        """Return the outcomes of each candidate in plan order, those of one candidate in the order of the parts."""
        found: dict[int, list[Outcome]] = {}
        for task in sorted(self.tasks, key=lambda task: task.part):
            for number, outcome in zip(task.numbers, self.outcomes[task.name], strict=True):
                found.setdefault(number, []).append(outcome)
        return [found[number] for number in sorted(found)]
