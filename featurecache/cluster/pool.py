"""The interface of a pool: what starts workers, hands them tasks, and says what became of them."""

from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from featurecache.cluster.dealing import Task
from featurecache.cluster.worker import Introduction, Order, Report


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker has ended, with everything that it held."""

    reason: str


Outcome = Introduction | Report | Gone | Exception | None
"""What became of the start of a worker (an introduction), of a unit (a report) or of a probe (None)."""


@dataclass(frozen=True, slots=True)
class Event:
    """A worker has started, has finished a task, or has failed.

    Parameters
    ----------
    worker
        Its name.
    task
        The task that it had; None for its start.
    outcome
        What became of it; an exception if the worker goes on but could not do it.
    """

    worker: str
    task: Task | None
    outcome: Outcome


class Pool(Protocol):
    """Starts workers and hands them tasks; everything that happens to them comes as an event.

    Attributes
    ----------
    events
        What happened; other threads may add to it.
    needs
        What a worker takes, in words.
    patience
        Seconds that a run waits while there is no room for a worker.
    """

    events: SimpleQueue[Event]
    needs: str
    patience: float

    @property
    def size(self) -> int:
        """How many workers a run should have now: as many as there is room for, or as were asked for."""
        ...

    def start(self, order: Order) -> str:
        """Start a worker, when there is room for it; return its name. An event follows."""
        ...

    def give(self, worker: str, task: Task) -> None:
        """Hand a task to a worker. An event follows."""
        ...

    def stop(self, worker: str) -> None:
        """Let the units that a worker has begun end after the current batch. No event follows."""
        ...

    def give_up(self, worker: str) -> None:
        """End a worker, whatever it does. No event need follow."""
        ...

    def close(self) -> None:
        """End all workers, and everything that the pool has started."""
        ...
