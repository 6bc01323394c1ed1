"""A pool whose workers are threads of the test: they can die, be given up and finish all the same, or be slow."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from threading import Event as Flag

from featurecache.cluster.dealing import HELD, Probe
from featurecache.cluster.pool import Event, Gone
from featurecache.cluster.worker import Worker


class Death(BaseException):
    """The worker's process would end here."""


class ThreadWorker(Worker):
    """A worker in threads.

    Parameters
    ----------
    deadly
        The names of images whose decoding ends the process.
    seconds
        The time of a unit, in addition to that of its computation.
    """

    def __init__(self, order, threads, *, deadly=(), seconds=0.0, processor=None, host=None):
        super().__init__(order, threads)
        self._deadly, self._seconds, self._processor, self._host = deadly, seconds, processor, host

    def start(self):
        introduction = super().start()
        return replace(introduction, host=self._host or introduction.host, environment=self._environment())

    def do(self, unit):
        time.sleep(self._seconds)
        return super().do(unit)

    def _load(self, dark, item):
        if item[1].rpartition("/")[2] in self._deadly:
            raise Death
        return super()._load(dark, item)

    def _environment(self):
        environment = super()._environment()
        return replace(environment, processor=self._processor) if self._processor else environment


class ThreadPool:
    """A pool of threads; `make` takes an order and the number of the worker, from 0."""

    needs, patience, gpus, device, is_open = "a thread", 0.0, 0, "cpu", False

    def __init__(self, size, make=lambda order, _: ThreadWorker(order, 2)):
        self.events, self.size = SimpleQueue(), size
        self.given, self.closed = [], Flag()
        self._make, self._workers, self._threads, self._held = make, {}, {}, {}

    def start(self, order):
        name = f"thread {len(self._workers)}"
        self._workers[name] = self._make(order, len(self._workers))
        self._threads[name] = ThreadPoolExecutor(HELD + 1)
        self._held[name] = []
        self._submit(name, None)
        return name

    def give(self, worker, task):
        self.given.append((worker, task))
        self._submit(worker, task)

    def stop(self, worker):
        self._workers[worker].stop()

    def give_up(self, worker):
        self._held.pop(worker, None)

    def close(self):
        self.closed.set()
        for name in list(self._held):
            self.give_up(name)
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)  # as a process that is killed, it does not delay the end

    def lose(self, worker, reason="its process has ended"):
        """Say that a worker is gone, with everything that it holds; it may go on all the same."""
        for task in self._held.pop(worker, []):
            self.events.put(Event(worker, task, Gone(reason)))

    def _submit(self, name, task):
        self._held[name].append(task)
        self._threads[name].submit(self._run, name, task)

    def _run(self, name, task):
        worker = self._workers[name]
        try:
            outcome = (
                worker.start() if task is None else worker.probe(task) if isinstance(task, Probe) else worker.do(task)
            )
        except Death:
            self.lose(name)
            return
        except Exception as e:  # noqa: BLE001 - the driver shall see it
            outcome = e
        if name in self._held and task in self._held[name]:
            self._held[name].remove(task)
            self.events.put(Event(name, task, outcome))
