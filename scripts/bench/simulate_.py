"""A simulation of a thousand workers that fail and lag, dealt to by the planner of real runs."""

import heapq
import random
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from featurecache.cluster.dealing import Dealer, Probe, Task

_AHEAD = 4  # shards for every worker that wait at least, until all images were added


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated.

    Parameters
    ----------
    images, batch, shard
        Images of the run, in a batch, and in a unit at most.
    workers
        Workers at a time: a lost one is replaced.
    rate, spread
        Images a second of a worker, and the deviation of its logarithm between workers.
    stragglers, slowness
        The share of workers that are slow, and by which factor.
    lifetime, restart
        Mean seconds until a worker is lost, and seconds until the one in its place is ready.
    killers
        Images that end every worker that decodes them.
    probe, latency
        Seconds to decode an image alone, and until a worker hears of a task.
    """

    images: int = 100_000_000
    batch: int = 64
    shard: int = 512
    workers: int = 1_000
    rate: float = 250.0
    spread: float = 0.1
    stragglers: float = 0.02
    slowness: float = 10.0
    lifetime: float = 4 * 3600.0
    restart: float = 60.0
    killers: int = 20
    probe: float = 0.01
    latency: float = 0.005


class _Images(Mapping[str, str]):
    """A batch of consecutive images that keeps no names."""

    def __init__(self, first: int, number: int) -> None:
        self.first, self._number = first, number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[str]:
        return map(str, range(self.first, self.first + self._number))

    def __getitem__(self, content: str) -> str:
        return f"{content}.jpg"


@dataclass(slots=True)
class _Worker:
    """A worker: its images a second, and when it has done all that it holds."""

    rate: float
    free: float


def simulate(scene: Scene, seed: int = 0, slow: int = 0) -> dict[str, Any]:  # noqa: PLR0915 - one loop over events
    """Simulate a run until every image is computed or a failure; the first ``slow`` workers are slow in any case.

    Returns
    -------
    dict
        ``seconds`` of the run, ``ideal_seconds`` of the first workers, if none is ever lost or idle, contents
        ``computed`` in all and ``useful`` ones, workers ``lost``, ``killers`` found, and the planner's own
        ``decision_us`` for a task.
    """
    draw = random.Random(seed)  # noqa: S311 - nothing is secret
    killers = sorted(draw.sample(range(scene.images), scene.killers))
    dealer = Dealer(most=scene.shard, first=1)
    workers: dict[str, _Worker] = {}
    events: list[tuple[float, int, str, Task | None, str]] = []
    order, names, added = count(), count(), 0
    lost = computed = useful = decisions = handed = 0
    planning = now = 0.0
    rates: list[float] = []

    def come(at: float) -> None:
        heapq.heappush(events, (at, next(order), f"w{next(names)}", None, "comes"))

    def kills(task: Task) -> bool:
        if isinstance(task, Probe):
            return _among(killers, int(task.content), 1)
        return any(
            _among(killers, batch.first, len(batch))
            if isinstance(batch, _Images)
            else any(_among(killers, int(content), 1) for content in batch)
            for batch in task.batches
        )

    def fill() -> None:
        nonlocal added
        while added < scene.images and added - handed < _AHEAD * scene.shard * scene.workers:
            number = min(scene.batch, scene.images - added)
            dealer.add(_Images(added, number))
            added += number
            if added == scene.images:
                dealer.end()

    for _ in range(scene.workers):
        come(0.0)
    while not dealer.is_finished:
        now, _, name, task, what = heapq.heappop(events)
        if what == "comes":
            factor = scene.slowness if draw.random() < scene.stragglers or len(rates) < slow else 1.0
            rates.append(scene.rate * draw.lognormvariate(0.0, scene.spread) / factor)
            workers[name] = _Worker(rates[-1], now)
            dealer.add_worker(name)
            heapq.heappush(events, (now + draw.expovariate(1 / scene.lifetime), next(order), name, None, "ends"))
        elif name not in workers:
            continue  # it was lost before
        elif what in {"ends", "kills"}:
            del workers[name]
            dealer.lose(name)
            lost += 1
            come(now + scene.restart)
        elif task is not None:
            rows = 0 if isinstance(task, Probe) else len(task)
            computed += rows
            useful += rows * dealer.finish(name, task, rows / workers[name].rate)
        fill()
        began = time.perf_counter()
        dealt = list(dealer.deal_all())
        planning += time.perf_counter() - began
        decisions += len(dealt)
        for worker, given in dealt:
            rows = 0 if isinstance(given, Probe) else len(given)
            handed += rows
            seconds = rows / workers[worker].rate or scene.probe
            workers[worker].free = max(workers[worker].free, now + scene.latency) + seconds
            heapq.heappush(
                events, (workers[worker].free, next(order), worker, given, "kills" if kills(given) else "does")
            )
    return {
        "seconds": round(now, 1),
        "ideal_seconds": round(scene.images / sum(rates[: scene.workers]), 1),
        "computed": computed,
        "useful": useful,
        "lost": lost,
        "killers": len(dealer.killers),
        "decision_us": round(planning / decisions * 1e6, 1),
    }


def _among(numbers: list[int], first: int, length: int) -> bool:
    """Whether one of the sorted numbers is in a range."""
    place = bisect_left(numbers, first)
    return place < len(numbers) and numbers[place] < first + length


def run() -> dict[str, Any]:
    """Simulate the run that ``docs/scale.md`` estimates, without and with what goes wrong."""
    calm = Scene(stragglers=0.0, lifetime=1e12, killers=0)
    scenes = {
        "nothing goes wrong": calm,
        "workers are lost after 4 h on average": Scene(stragglers=0.0, killers=0),
        "one in 50 is ten times slower": Scene(lifetime=1e12, killers=0),
        "both, and 20 images that end workers": Scene(),
    }
    rows = []
    for name, scene in scenes.items():
        found = simulate(scene)
        rows.append({"scene": name} | found | {"over_percent": round(_over(found), 2)})
    return {"images": calm.images, "workers": calm.workers, "images_per_second_of_a_worker": calm.rate, "scenes": rows}


def _over(found: Mapping[str, Any]) -> float:
    return (float(found["seconds"]) / float(found["ideal_seconds"]) - 1) * 100
