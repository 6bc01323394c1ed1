"""How far a command is, on standard error: a bar on a terminal, elsewhere one line a minute for the log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from featurecache.cli.console.output import say

FIRST_SECONDS = 5.0
"""The time from the first result to the first line: short commands say nothing, long ones their time left early."""
LINE_SECONDS = 60.0
_MINUTE = 60
_UNKNOWN = "-:--:--"


class _State(NamedTuple):
    """What was reported last, with the number of results and the time at the start of this phase of the work."""

    done: int
    total: int
    doing: str
    rate: float | None
    at: float
    first_done: int
    first_at: float


class Pace:
    """Count, rate and time left of a command's work, as text.

    Parameters
    ----------
    what
        The work: ``"extracting"``.
    unit
        What is counted, in the singular: ``"image"``.
    clock
        Returns seconds.
    limit
        Seconds after which the work ends in any case; None for no limit.
    """

    def __init__(
        self, what: str, unit: str, clock: Callable[[], float] = time.monotonic, limit: float | None = None
    ) -> None:
        self._what = what
        self._unit = unit
        self._clock = clock
        self._limit = limit
        self._began = clock()
        self._state: _State | None = None  # replaced as a whole, because another thread reads it

    def update(self, done: int, total: int, doing: str = "", *, rate: float | None = None) -> None:
        """Record how much is done.

        Parameters
        ----------
        done, total
            Results so far, and in the end. If the total changes or there are fewer than before, a new phase begins.
        doing
            The current step.
        rate
            Results per second, 0 if unknown; measured since the start of the phase if None.
        """
        now, before = self._clock(), self._state
        if before and before.total == total and before.done <= done:
            self._state = _State(done, total, doing, rate, now, before.first_done, before.first_at)
        else:
            self._state = _State(done, total, doing, rate, now, done, now)

    @property
    def rate_text(self) -> str:
        """The rate per second, or per minute if that is below 1; a dash if it is unknown."""
        rate = self._rate()
        if not rate:
            return "-"
        return f"{rate:.1f} {self._unit}s/s" if rate >= 1 else f"{rate * _MINUTE:.1f} {self._unit}s/min"

    @property
    def left_text(self) -> str:
        """The time left; dashes if it is unknown."""
        rate, state = self._rate(), self._state
        left = [(state.total - state.done) / rate] if state and rate else []
        if self._limit is not None:
            left.append(max(0.0, self._began + self._limit - self._clock()))
        return _duration(min(left)) if left else _UNKNOWN

    def line(self) -> str:
        """Return everything that is known, in one line."""
        state, elapsed = self._state, _duration(self._clock() - self._began)
        if state is None:
            return f"{self._what}: {elapsed} so far"
        rate, left = self.rate_text, self.left_text
        doing = f" ({state.doing})" if state.doing else ""
        counts = f"{state.done:,} of {state.total:,} {self._unit}s{doing} after {elapsed}"
        known = (f", {rate}" if rate != "-" else "") + (f", {left} left" if left != _UNKNOWN else "")
        return f"{self._what}: {counts}{known}"

    def _rate(self) -> float | None:
        """Return results per second; None or 0 if unknown."""
        state = self._state
        if state is None:
            return None
        if state.rate is not None:
            return state.rate
        seconds = state.at - state.first_at
        return (state.done - state.first_done) / seconds if seconds else None


@contextmanager
def progress(
    what: str,
    unit: str = "step",
    *,
    bar: bool = True,
    clock: Callable[[], float] = time.monotonic,
    limit: float | None = None,
) -> Iterator[Callable[..., None]]:
    """Show on standard error how far the block is; it calls the yielded function as `Pace.update`.

    Parameters
    ----------
    what, unit, clock, limit
        As in `Pace`.
    bar
        Whether to show a bar on a terminal; not where the block prints results while it works.
    """
    pace = Pace(what, unit, clock, limit)
    if not sys.stderr.isatty():
        with _lines(pace) as update:
            yield update
    elif bar:
        with _bar(what, pace) as update:
            yield update
    else:
        yield lambda *_, **__: None


@contextmanager
def _lines(pace: Pace) -> Iterator[Callable[..., None]]:
    """Say the first line soon after the first update, and one a minute; a thread does it, whatever the work does."""
    wakes: SimpleQueue[bool] = SimpleQueue()  # True: the work has begun; False: it has ended

    def speak() -> None:
        seconds = LINE_SECONDS
        while True:
            try:
                if not wakes.get(timeout=seconds):
                    return
                seconds = FIRST_SECONDS
            except Empty:
                with suppress(OSError):  # nobody reads the log any more
                    say(pace.line())
                seconds = LINE_SECONDS

    has_begun = False

    def update(done: int, total: int, doing: str = "", *, rate: float | None = None) -> None:
        nonlocal has_begun
        pace.update(done, total, doing, rate=rate)
        if not has_begun:
            has_begun = True
            wakes.put(True)

    speaker = Thread(target=speak, name="progress", daemon=True)
    speaker.start()
    try:
        yield update
    finally:
        wakes.put(False)
        speaker.join()


@contextmanager
def _bar(what: str, pace: Pace) -> Iterator[Callable[..., None]]:
    """Show a bar with count, rate, time and the current step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    class LeftColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            del task
            return Text(f"{pace.left_text} left")  # also between two updates

    columns = (
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        LeftColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, rate="-")

        def update(done: int, total: int, doing: str = "", *, rate: float | None = None) -> None:
            pace.update(done, total, doing, rate=rate)
            bar.update(task, total=total, completed=done, description=doing, rate=pace.rate_text)

        yield update


def _duration(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
