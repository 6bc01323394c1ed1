"""One extraction run whose forward passes workers do: the driver hashes, deals, and packs.

::

    manifest ─> inspect: known? hash ─> batches ─> deal units ─> load commits ─> pack
                └────── threads ──────┘             │      ↑ reports
                                             workers: read, decode, forward, publish below the work directory

No feature reaches the driver. It keeps nothing that the work directory does not have: after its end, the same command
makes the same batches again, without those that are committed.
"""

import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from queue import Empty
from typing import Any

from featurecache.cluster.dealing import KILLS, Dealer
from featurecache.cluster.pool import Event, Gone, Pool
from featurecache.cluster.worker import Introduction, Order, Report
from featurecache.errors import ClusterError, OutputError
from featurecache.format.file_records import FileRecord
from featurecache.images.decode import dark_images
from featurecache.images.failures import Failure
from featurecache.images.manifest import ImageEntry
from featurecache.prefetch import ahead
from featurecache.provenance import Environment
from featurecache.run.manifest_run import ManifestRun
from featurecache.run.progress import Member
from featurecache.run.units import Unit, shard_rows

_CRASHED = Failure("crashed", f"it ended the process that decoded it, {KILLS} times")
_VISIBLE_SECONDS = 60.0  # until a commit record that was reported must be seen in a shared folder
_STOP_SECONDS = 60.0  # until units that have begun must have ended after Ctrl-C
_WAITING_ROWS = 200_000  # images that wait for workers, at most, before more are hashed
_STARTS = 3  # workers that may end while they start, if none has ever started

_OWN = frozenset({"batch_size", "threads", "devices"})
"""Fields of an engine in which workers may differ: features do not depend on them."""


class ClusterRun(ManifestRun[str]):
    """One extraction run on the workers of a pool, made once by `make`.

    Parameters
    ----------
    pool
        Starts workers.
    network
        The arguments of `featurecache.named_backbone.source_of` that give the network.
    mixed
        Whether workers may differ in engine, versions and processor.
    notify
        Called with one-line status messages for the user.
    options
        Those of `featurecache.run.manifest_run.ManifestRun`.
    """

    def __init__(
        self,
        *options: Any,
        pool: Pool,
        mixed: bool,
        notify: Callable[[str], None],
        **keywords: Any,
    ) -> None:
        super().__init__(*options, **keywords)
        self._pool = pool
        self._mixed = mixed
        self._notify = notify
        self._dealer = Dealer(most=shard_rows(self._store.recipe), first=self._store.next_number)
        self._order: Order | None = None  # there is one when the first image has to go through the network
        self._batches_added = 0
        self._crew: dict[str, Member] = {}
        self._former: list[Member] = []
        self._refused = self._failed_starts = 0
        self._refusal: Exception | None = None
        self._reference: Environment | None = None
        self._alone_since: float | None = None
        self._failures: dict[str, FileRecord] = {}  # contents that workers could not decode
        self._reported: set[str] = set()  # names of commit records

    def _forward_new_images(self) -> None:
        inspected = ahead(self._inspect, self._manifest.entries, workers=self._workers, window=16 * self._workers)
        try:
            with closing(inspected):
                for batch in self._batches(inspected):
                    if batch:
                        self._batches_added += 1
                        self._dealer.add(batch)
                    self._work()
                    while self._dealer.waiting_rows > _WAITING_ROWS:
                        self._work(wait=0.5)
            self._dealer.end()
            while not self._dealer.is_finished:
                self._work(wait=0.5)
        except KeyboardInterrupt:
            self._let_end()
            raise
        finally:
            for worker in self._crew:
                self._pool.give_up(worker)
        self._committer.commit()
        self._committer.wait()
        self._wait_for_records()
        self._add_failures()
        self._progress.warnings = (*dark_images(set(self._dark)), *self._known.warnings)
        self._measure()

    def _inspect(self, entry: ImageEntry) -> tuple[FileRecord, str, str | None]:
        """Return the file record of an image, its content, and its path if it has to go through the network."""
        file_record, read = self._known.inspect(
            entry.path, self._manifest.source, max_bytes=self._rules.max_bytes, rehash=self._rehash
        )
        return file_record, file_record.sha256, None if read is None else entry.path

    def _start(self) -> None:
        """Prepare the work directory, and say what workers are to do."""
        if self._order:
            return
        self._require_space()
        directory = self._store.scratch().absolute()
        self._order = Order(
            recipe=self._store.recipe,
            network=self._source.arguments,
            images=self._manifest.source.anywhere(),
            example=self._manifest.entries[len(self._found) - 1].path,
            rules=self._rules,
            batch_size=self._plan.size or self._source.batch_size,
            directory=directory,
            token=self._store.token,
            part=self._part,
            views=self._manifest.views,
            frames=self._manifest.frames,
        )

    def _commit_later(self, file_record: FileRecord) -> None:
        """Keep what was found of known contents and of other parts; workers commit the rest, with what they find."""
        sha256 = file_record.sha256
        if file_record.reason or sha256 in self._known.places or self._known.is_elsewhere(sha256):
            self._committer.add_file_records([file_record])

    @property
    def _has_other_work(self) -> bool:
        return not self._pool.events.empty() or self._committer.seconds_left() == 0

    def _end(self) -> None:
        self._pool.close()
        self._committer.close()

    def _count(self, file_record: FileRecord, *, is_new: bool) -> None:
        if not is_new:
            self._progress.done += 1
            self._progress.failures += bool(file_record.reason)

    def _work(self, wait: float | None = None) -> None:
        """Take what has happened, replace workers, and deal.

        Parameters
        ----------
        wait
            Seconds to wait for an event; None not to wait.
        """
        with suppress(Empty):
            event = self._pool.events.get(timeout=wait) if wait else self._pool.events.get_nowait()
            while True:
                self._take(event)
                event = self._pool.events.get_nowait()
        if self._committer.seconds_left() == 0:
            self._committer.commit()
        self._start_workers()
        for worker, task in self._dealer.deal_all():
            self._pool.give(worker, task)
            self._crew[worker].tasks = self._dealer.held(worker)
        self._measure()
        self._report(self._progress)

    def _start_workers(self) -> None:
        """Start workers until there are as many as the pool has room for, and no more than batches so far.

        Raises
        ------
        ClusterError
            If there is no worker and no room for one; one that waits for room to start is none.
        """
        size = self._pool.size
        while self._order and len(self._crew) < min(size - self._refused, self._batches_added):
            self._crew[self._pool.start(self._order)] = Member()
        is_at_work = any(member.is_ready for member in self._crew.values()) or bool(self._crew and size)
        if is_at_work or not self._batches_added:
            self._alone_since = None
            return
        now = time.monotonic()
        self._alone_since = self._alone_since or now
        if self._refusal and self._reference is None:
            raise self._refusal
        if now - self._alone_since >= self._pool.patience:
            raise ClusterError(
                f"the cluster has no room for a worker of {self._pool.needs}; what is committed is kept: run the same "
                "command again, with or without --cluster"
            )

    def _take(self, event: Event) -> None:
        """Take one event; those of workers that were given up are ignored."""
        member, outcome = self._crew.get(event.worker), event.outcome
        if member is None:
            return
        if isinstance(outcome, Gone):
            self._lose(event.worker, outcome.reason)
        elif isinstance(outcome, Introduction):
            self._welcome(event.worker, outcome)
        elif isinstance(outcome, Exception):
            if event.task:
                raise outcome
            self._refuse(event.worker, outcome)
        elif isinstance(event.task, Unit) and outcome:
            self._credit(event.worker, event.task, outcome)
        elif event.task:
            self._dealer.finish(event.worker, event.task, 0.0)
            member.tasks = self._dealer.held(event.worker)

    def _welcome(self, worker: str, introduction: Introduction) -> None:
        """Let a worker take part, unless it computes otherwise than the first one, or than an unfinished run."""
        member = self._crew[worker]
        member.host, member.process = introduction.host, introduction.process
        unfinished = [part.environment for part in self._store.environments if part.environment.processor]
        reference = self._reference or (unfinished[-1] if unfinished else introduction.environment)
        difference = _difference(reference, introduction.environment)
        if difference and not self._mixed:
            self._refuse(
                worker,
                ClusterError(
                    f"{introduction.host}: {difference}; make the machines alike, or record the difference with "
                    "--mixed-workers"
                ),
            )
            return
        self._reference = self._reference or introduction.environment
        self._failed_starts = 0
        member.is_ready = True
        self._dealer.add_worker(worker)

    def _refuse(self, worker: str, error: Exception) -> None:
        """Go on without a worker that could not start, or that differs."""
        self._dismiss(worker, str(error))
        self._refused += 1
        if self._refusal is None or str(self._refusal) != str(error):
            self._notify(f"a worker was refused: {error}")
        self._refusal = error

    def _lose(self, worker: str, reason: str) -> None:
        """Return what a worker held to the dealer.

        Raises
        ------
        ClusterError
            If workers end again and again.
        """
        was_ready = self._crew[worker].is_ready
        self._dismiss(worker, reason)
        if not was_ready:
            self._failed_starts += 1
            if self._failed_starts >= _STARTS:
                raise ClusterError(
                    f"{_STARTS} workers one after another ended while they started ({reason}); they may have too "
                    "little memory: give them more, or start fewer with --workers"
                )
            return
        self._notify(f"a worker was lost: {reason}; its images are computed again")
        before = set(self._dealer.killers)
        self._dealer.lose(worker)
        for content in self._dealer.killers.keys() - before:
            number = self._found.numbers_of([content])[0]
            failed = replace(self._found.record(number, self._dealer.killers[content]), reason=_CRASHED.reason)
            self._failures[content] = failed
            self._committer.add_file_records([failed])
            self._progress.done += 1
            self._progress.failures += 1

    def _dismiss(self, worker: str, reason: str) -> None:
        member = self._crew.pop(worker)
        member.end = reason
        self._former.append(member)
        self._pool.give_up(worker)

    def _credit(self, worker: str, unit: Unit, report: Report) -> None:
        """Count what a worker did."""
        member, seconds = self._crew[worker], report.waiting + report.computing
        member.units += 1
        member.images += report.rows
        member.seconds += seconds
        member.computing += report.computing
        self._reported.add(report.record)
        if report.environment == self._reference:
            self._store.add_own(report.record)
        self._dark.extend(report.dark)
        is_first = self._dealer.finish(worker, unit, seconds)
        member.tasks = self._dealer.held(worker)
        if is_first:
            self._failures |= report.failures
            self._progress.forwarded += report.rows
            self._progress.done += len(unit)
            self._progress.failures += len(report.failures)

    def _let_end(self) -> None:
        """Let units under way end after their current batch, and wait for what is published."""
        busy = [name for name, member in self._crew.items() if member.is_ready and self._dealer.held(name)]
        for worker in busy:
            self._pool.stop(worker)
        deadline = time.monotonic() + _STOP_SECONDS
        while any(worker in self._crew and self._dealer.held(worker) for worker in busy):
            with suppress(Empty, Exception):
                self._take(self._pool.events.get(timeout=0.2))
            if time.monotonic() > deadline:
                break

    def _wait_for_records(self) -> None:
        """Wait until the commit records of workers are seen; a shared folder may show them late.

        Raises
        ------
        OutputError
            If one is not seen in time.
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        for name in self._reported - {""}:
            while not self._store.expect(name):
                if time.monotonic() > deadline:
                    raise OutputError(
                        f"{self._store.directory} does not show the commit record {name}, which a worker has "
                        "published: is it the same folder on all nodes?"
                    )
                time.sleep(0.1)

    def _add_failures(self) -> None:
        """Record at every path the failure that a worker has met."""
        for number in self._found.numbers_of(self._failures):
            if number not in self._found.reasons:
                failure = self._failures[self._found.sha256(number)]
                self._found.fail(number, failure.sha256, failure.reason)

    def _measure(self) -> None:
        members = [*self._former, *self._crew.values()]
        self._progress.seconds = time.monotonic() - self._started
        seconds = sum(member.seconds for member in members)
        computing = sum(member.computing for member in members)
        busy = sum(member.is_ready for member in self._crew.values()) or 1
        self._progress.computing, self._progress.waiting = computing / busy, (seconds - computing) / busy
        self._progress.workers = members

    def _environment(self) -> Environment:
        return self._reference or self._environment_with(None, self._rules.max_pixels)


def _difference(reference: Environment, found: Environment) -> str:
    """Return the first field in which a worker differs from the first one, in words; empty if there is none."""
    ours, theirs = _fields(reference), _fields(found)
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            is_package = name in {**(reference.versions or {}), **(found.versions or {})}
            lacking = "not installed" if is_package else "not known"
            its, others = (repr(fields[name]) if name in fields else lacking for fields in (theirs, ours))
            return f"its {name} is {its}, and that of the other workers is {others}"
    return ""


def _fields(environment: Environment) -> dict[str, object]:
    engine = {name: value for name, value in (environment.engine or {}).items() if name not in _OWN}
    return {**(environment.versions or {}), **engine, "processor": environment.processor}
