"""How far an extraction run is, and what it did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featurecache.notices import Notice, to_dicts
from featurecache.text import counted


@dataclass(slots=True)
class Member:
    """A worker of a run, and what it has done.

    Parameters
    ----------
    host, process
        Its machine and process; empty until it has started.
    tasks
        What it holds now.
    units, images
        What it has finished, including copies.
    seconds, computing
        The time that its units took in the network, and that of the forward passes in it.
    end
        Why it ended, if it did before the run.
    is_ready
        Whether it has started.
    """

    host: str = ""
    process: int = 0
    tasks: int = 0
    units: int = 0
    images: int = 0
    seconds: float = 0.0
    computing: float = 0.0
    end: str = ""
    is_ready: bool = False

    @property
    def rate(self) -> float:
        """Images per second, 0.0 before its first unit."""
        return self.images / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what it has done, ready for JSON."""
        return {
            "host": self.host,
            "process": self.process,
            "units": self.units,
            "images": self.images,
            "images_per_second": round(self.rate, 2),
            "ended": self.end or None,
        }


@dataclass(slots=True)
class Progress:
    """How far a run is, and when it has ended, what it did.

    Parameters
    ----------
    total, done
        Images to handle, and images handled so far.
    failures
        Handled images that give no row.
    elsewhere
        Handled images whose contents are in another part; see ``part`` of `featurecache.extract`.
    forwarded
        Images that went through the network in this run.
    seconds
        Wall time since the run began, including the start of the network.
    waiting, computing
        Seconds that the network was idle and busy since it was started.
    warnings
        Warnings about images of this run; complete at the end.
    workers
        The workers of a run with a cluster, those that have ended first.

    Examples
    --------
    >>> progress = Progress(total=100, done=100, failures=1, forwarded=40, seconds=8.0, waiting=1.0, computing=6.0)
    >>> progress.bound
    'compute'
    >>> progress.to_dict()["reused"]
    59
    """

    total: int
    done: int = 0
    failures: int = 0
    elsewhere: int = 0
    forwarded: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    computing: float = 0.0
    warnings: tuple[Notice, ...] = ()
    workers: Sequence[Member] = ()

    @property
    def bound(self) -> str:
        """``"decode"`` if the network waited longer than it worked, else ``"compute"``."""
        return "decode" if self.waiting >= self.computing else "compute"

    @property
    def doing(self) -> str:
        """What the workers do, in a few words; empty without a cluster."""
        if not self.workers:
            return ""
        present = [worker for worker in self.workers if not worker.end]
        at_work = sum(worker.tasks > 0 for worker in present)
        starting = sum(not worker.is_ready for worker in present)
        counts = {"at work": at_work, "starting": starting, "idle": len(present) - at_work - starting}
        lost = len(self.workers) - len(present)
        words = [f"{count} {word}" for word, count in (counts | {"lost": lost}).items() if count]
        slowest = min((worker for worker in present if worker.rate), key=lambda worker: worker.rate, default=None)
        named = f"; slowest {slowest.host} with {slowest.rate:.1f} images/s" if slowest and len(present) > 1 else ""
        return f"{counted(len(present), 'worker')}: {', '.join(words)}{named}"

    @property
    def rate(self) -> float:
        """Images per second that the network forwards, without its start; 0.0 before the first batch."""
        seconds = self.waiting + self.computing
        return self.forwarded / seconds if self.computing else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the run's counts: images, rows, failures, forward passes spent and saved, speed, and workers.

        Images of other parts do not count. ``seconds`` includes the start of the network, ``images_per_second`` does
        not.
        """
        rows = self.done - self.failures - self.elsewhere
        return {
            "images": self.total - self.elsewhere,
            "rows": rows,
            "failures": self.failures,
            "forwarded": self.forwarded,
            "reused": rows - self.forwarded,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.rate, 2),
            "bound": self.bound,
            "warnings": to_dicts(self.warnings),
        } | ({"workers": [worker.to_dict() for worker in self.workers]} if self.workers else {})
