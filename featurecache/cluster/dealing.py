"""Deals units to workers: a state machine without clock, threads or network.

Its owner says which workers come, what they finish and which are lost; `Dealer.deal` says what a worker does next. The
same code deals to processes, to threads in tests, and to the thousand workers of a simulation.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from featurecache.errors import ClusterError
from featurecache.images.names import shown_name
from featurecache.run.units import Unit

UNIT_SECONDS = 20.0
"""The time that a unit is to take: what a lost worker costs, and how often it is known what a worker did."""

HELD = 2
"""Units that a worker holds: it reads and decodes the second one while the first one is in the network."""

KILLS = 3
"""Workers that end over an image until it is a failure."""

BATCH_KILLS = 6
"""Workers that end over a batch, after each of its images was decoded alone, until the run ends."""

_COPIES = 2  # workers that may be at work on the same unit
_SHARE = 2  # towards the end, a unit has at most this part of a worker's share of what waits

Batch = Mapping[str, str]
"""Hashes of contents to paths of images that have them."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The task to read and decode one image, with nothing beside it."""

    content: str
    path: str


Task = Unit | Probe


@dataclass(slots=True, eq=False)
class _Suspect:
    """Batches that a worker was lost over: their images are probed one by one, then they are computed alone.

    Parameters
    ----------
    batches
        The batches.
    probes
        Their images that have not been probed.
    losses
        Workers that were lost over them although all images had been probed.
    kills
        Workers that were lost over the first one of ``probes``, while it was decoded alone.
    worker
        The worker that cares for it.
    unit
        The unit that this worker computes when nothing is left to probe.
    """

    batches: tuple[Batch, ...]
    probes: deque[Probe]
    losses: int = 0
    kills: int = 0
    worker: str | None = None
    unit: Unit | None = None


class Dealer:
    """Decides which worker does what next.

    A worker gets units that take it about `UNIT_SECONDS`, and smaller ones towards the end. A worker that is idle
    at the end gets a copy of a unit that is under way, so that a slow worker costs at most one unit.

    The units of a lost worker become *suspects*: a worker that holds nothing else decodes their images one by one, then
    computes the unit. An image that ends `KILLS` workers is left out. A unit that ends workers although each of its
    images can be decoded is divided into its batches.

    Parameters
    ----------
    most
        Contents in a unit, at most, unless a batch has more.
    first
        The number of the first unit.

    Attributes
    ----------
    killers
        The images that ended `KILLS` workers: hash of the content to path.
    waiting_rows
        Contents that were added and that no worker has got.

    Examples
    --------
    >>> dealer = Dealer(most=4, first=1)
    >>> dealer.add_worker("a")
    >>> dealer.add({"c1": "1.png", "c2": "2.png"})
    >>> dealer.end()
    >>> unit = dealer.deal("a")
    >>> dealer.finish("a", unit, seconds=1.0), dealer.is_finished
    (True, True)
    """

    def __init__(self, *, most: int, first: int) -> None:
        self.killers: dict[str, str] = {}
        self._most = most
        self._next = first
        self._waiting: deque[Batch] = deque()
        self.waiting_rows = 0
        self._has_ended = False
        self._held: dict[str, list[Task]] = {}
        self._rates: dict[str, float] = {}  # contents a second, of workers that have finished a unit
        self._open: dict[int, Unit] = {}  # units under way, without those of suspects; the earliest first
        self._holders: Counter[int] = Counter()  # how many workers hold each of them
        self._suspects: list[_Suspect] = []
        self._ready: dict[str, None] = {}  # workers that may take a task, the one that waits longest first
        self._idle: list[str] = []  # workers that found none

    @property
    def is_finished(self) -> bool:
        """Whether every batch was added and computed."""
        return self._has_ended and not (self._waiting or self._open or self._suspects)

    @property
    def rows_left(self) -> int:
        """Contents that were added and are not computed yet."""
        suspects = sum(len(batch) for suspect in self._suspects for batch in suspect.batches)
        return self.waiting_rows + sum(map(len, self._open.values())) + suspects

    def held(self, worker: str) -> int:
        """Return how many tasks a worker holds."""
        return len(self._held[worker])

    def add(self, batch: Batch) -> None:
        """Add a batch to what waits."""
        self._waiting.append(batch)
        self.waiting_rows += len(batch)
        self._wake()

    def end(self) -> None:
        """Record that no further batch comes."""
        self._has_ended = True
        self._wake()

    def add_worker(self, worker: str) -> None:
        """Record a worker that is ready."""
        self._held[worker] = []
        self._ready[worker] = None

    def deal_all(self) -> Iterator[tuple[str, Task]]:
        """Yield workers and their next tasks, until nobody can take one more; first one for everybody."""
        while self._ready:
            worker = next(iter(self._ready))
            del self._ready[worker]
            task = self.deal(worker)
            if task:
                self._ready[worker] = None
                yield worker, task
            elif len(self._held[worker]) < HELD:
                self._idle.append(worker)

    def deal(self, worker: str) -> Task | None:
        """Return the next task of a worker; None if it has enough, or if there is nothing for it."""
        held = self._held[worker]
        task = self._task_of_suspect(worker)
        if task is None and self._suspect_of(worker) is None and len(held) < HELD:
            task = self._next_unit(worker)
        if task:
            held.append(task)
        return task

    def finish(self, worker: str, task: Task, seconds: float) -> bool:
        """Record that a worker has finished a task.

        Parameters
        ----------
        seconds
            The time of a unit's forward passes.

        Returns
        -------
        bool
            Whether it is a unit, and nobody had finished it before.
        """
        self._held[worker].remove(task)
        self._ready[worker] = None
        suspect = self._suspect_of(worker)
        if isinstance(task, Probe):
            if suspect:
                suspect.probes.popleft()
                suspect.kills = 0
            return False
        if seconds > 0:
            self._rates[worker] = len(task) / seconds
        if suspect and suspect.unit is task:
            self._suspects.remove(suspect)
            return True
        self._holders.pop(task.number, None)
        return self._open.pop(task.number, None) is not None

    def lose(self, worker: str) -> None:
        """Record that a worker has ended, with everything that it held.

        Raises
        ------
        ClusterError
            If `BATCH_KILLS` workers ended over a batch although each of its images can be decoded.
        """
        tasks, suspect = self._held.pop(worker), self._suspect_of(worker)
        self._rates.pop(worker, None)
        self._ready.pop(worker, None)
        self._wake()
        if suspect:
            suspect.worker = None
        for task in tasks:
            if isinstance(task, Probe):
                if suspect:
                    self._blame_image(suspect)
            elif task.number in self._open:
                self._holders[task.number] -= 1
                if not self._holders[task.number]:
                    probes = (Probe(*item) for batch in task.batches for item in batch.items())
                    self._suspects.append(_Suspect(self._open.pop(task.number).batches, deque(probes)))
            elif suspect and suspect.unit is task:
                self._blame_batches(suspect)

    def _wake(self) -> None:
        """Let workers that found nothing look again."""
        self._ready |= dict.fromkeys(worker for worker in self._idle if worker in self._held)
        self._idle.clear()

    def _suspect_of(self, worker: str) -> _Suspect | None:
        """Return the suspect that a worker cares for."""
        return next((suspect for suspect in self._suspects if suspect.worker == worker), None)

    def _task_of_suspect(self, worker: str) -> Task | None:
        """Return the next probe or unit of the suspect that a worker cares for, or for which nobody cares yet.

        A worker gets it when it holds nothing else, so that its end is the suspect's doing.
        """
        while suspect := self._suspect_of(worker) or self._suspect_of_nobody():
            suspect.worker = worker
            if self._held[worker]:
                return None
            if suspect.probes:
                return suspect.probes[0]
            batches = ({c: path for c, path in batch.items() if c not in self.killers} for batch in suspect.batches)
            suspect.batches = tuple(filter(None, batches))
            if suspect.batches:
                suspect.unit = self._unit(suspect.batches)
                return suspect.unit
            self._suspects.remove(suspect)
        return None

    def _suspect_of_nobody(self) -> _Suspect | None:
        return next((suspect for suspect in self._suspects if suspect.worker is None), None)

    def _blame_image(self, suspect: _Suspect) -> None:
        """Count a lost worker against the image that it decoded; one was lost over its unit before."""
        suspect.kills += 1
        if suspect.kills + 1 == KILLS:
            probe = suspect.probes.popleft()
            self.killers[probe.content] = probe.path
            suspect.kills = 0

    def _blame_batches(self, suspect: _Suspect) -> None:
        """Count a lost worker against batches whose images can be decoded."""
        suspect.losses += 1
        if len(suspect.batches) > 1:
            self._suspects.remove(suspect)
            self._suspects.extend(_Suspect((batch,), deque()) for batch in suspect.batches)
        elif suspect.losses == BATCH_KILLS:
            path = next(iter(suspect.batches[0].values()))
            raise ClusterError(
                f"{BATCH_KILLS} workers ended over the same batch of {len(suspect.batches[0])} images, "
                f"{shown_name(path)} and others, each of which can be decoded: the forward pass needs too much memory, "
                "or fails in native code; lower --batch-size, or give workers more memory"
            )

    def _next_unit(self, worker: str) -> Unit | None:
        """Return a unit of what waits, or at the end a copy of one under way."""
        unit: Unit | None = None
        if self._waiting:
            unit = self._unit(self._take(self._rows_for(worker)))
            self._open[unit.number] = unit
        elif self._has_ended and not self._held[worker]:
            unit = next((unit for unit in self._open.values() if self._holders[unit.number] < _COPIES), None)
        if unit:
            self._holders[unit.number] += 1
        return unit

    def _unit(self, batches: tuple[Batch, ...]) -> Unit:
        unit = Unit(self._next, batches)
        self._next += 1
        return unit

    def _rows_for(self, worker: str) -> int:
        """Return how many contents a worker's next unit may have."""
        rows = min(self._most, int(self._rates.get(worker, 0.0) * UNIT_SECONDS))
        return min(rows, self.waiting_rows // (_SHARE * len(self._held))) if self._has_ended else rows

    def _take(self, rows: int) -> tuple[Batch, ...]:
        """Take batches from what waits: one, and more while they have at most ``rows`` contents."""
        taken = [self._waiting.popleft()]
        self.waiting_rows -= len(taken[0])
        rows -= len(taken[0])
        while self._waiting and len(self._waiting[0]) <= rows:
            rows -= len(self._waiting[0])
            self.waiting_rows -= len(self._waiting[0])
            taken.append(self._waiting.popleft())
        return tuple(taken)
