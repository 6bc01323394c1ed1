"""Workers as actors of Ray: starts or joins a cluster, and ends what it has started.

Ray is imported here alone, and when a cluster is asked for.
"""

import json
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from itertools import count
from queue import SimpleQueue
from typing import Any

from featurecache.cluster.dealing import HELD, Probe, Task
from featurecache.cluster.pool import Event, Gone
from featurecache.cluster.worker import Order, Report, Worker
from featurecache.errors import ClusterError
from featurecache.options import LOCAL
from featurecache.processors import processor_count
from featurecache.run.units import Unit
from featurecache.text import counted

_HEAD_SECONDS = 5  # until the loss of the head ends a cluster that was started here; Ray's default is a minute
_STORE_BYTES = 80 << 20  # the object store stays empty; Ray does not start with less than 75 MiB
_COUNT_SECONDS = 5.0  # how often the nodes of the cluster are counted
_PATIENCE = 60.0  # nodes may come: an autoscaler's, or repaired ones
_ANSWER_SECONDS = 10.0
_FOLDER_BYTES = 17  # of 103 that a socket's path may have on macOS, 107 on Linux; Ray and our own folder take 86
_GIVE_ANOTHER = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on its nodes"
_START = "start one with ray start --head, see docs/scale.md"
_CPUS = 4  # of a worker without a GPU, unless a node has fewer
_THREADS = ("TF_NUM_INTRAOP_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
"""Variables that keep the libraries of a worker on its own processors."""


class RayWorker(Worker):
    """A worker whose units arrive packed: Ray puts larger arguments into its object store."""

    def do_packed(self, packed: bytes) -> Report:
        """Compute a unit; see `Worker.do`."""
        number, batches = json.loads(zlib.decompress(packed))
        return self.do(Unit(number, tuple(batches)))


class RayPool:
    """A pool of actors, see `featurecache.cluster.pool.Pool`. `close` it, whatever happens.

    In a program that uses Ray already, its cluster is used, whatever the address, and stays.

    Parameters
    ----------
    address
        `LOCAL`: a cluster on this machine, which is started here and ended by `close`; or the address of a head
        node, ``HOST:PORT``; or ``"auto"``: that of the variable ``RAY_ADDRESS``, else the one that ``ray start``
        started or joined last on this machine.
    workers
        Workers to start; as many as there is room for if None.
    gpus
        GPUs of a worker; one where the cluster has GPUs if None.
    cpus
        Processors of a worker; if None 4, or an equal share of a node's processors for each GPU.

    Raises
    ------
    ClusterError
        If Ray is not installed, or there is no cluster of the same versions at the address.
    """

    def __init__(self, address: str, *, workers: int | None, gpus: int | None, cpus: int | None) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._asked = workers
        self._names = (f"worker {number}" for number in count(1))
        self._actors: dict[str, Any] = {}
        self._room, self._counted_at = 0, -math.inf
        self._folder: str | None = None
        self._ray = _import_ray()
        self._is_ours = not self._ray.is_initialized()
        self.patience = 0.0 if self._is_ours and address == LOCAL else _PATIENCE
        try:
            if self._is_ours:
                self._connect(address, workers, cpus)
            nodes = self._nodes()
            self.gpus = int(any(node.get("GPU") for node in nodes)) if gpus is None else gpus
            self.cpus = cpus or _fair_cpus(nodes, self.gpus, workers or 1)
        except BaseException:
            self.close()
            raise
        words = [counted(self.cpus, "processor")] + ([counted(self.gpus, "GPU")] if self.gpus else [])
        self.needs = " and ".join(words)

    @property
    def size(self) -> int:
        """How many workers there is room for, and at most as many as were asked for."""
        now = time.monotonic()
        if now - self._counted_at > _COUNT_SECONDS:
            self._room = sum(_room(node, self.cpus, self.gpus) for node in self._nodes())
            self._counted_at = now
        return self._room if self._asked is None else min(self._room, self._asked)

    @property
    def device(self) -> str:
        """What workers compute on, where it is not said: ``"gpu"`` or ``"cpu"``."""
        return "gpu" if self.gpus else "cpu"

    @property
    def is_open(self) -> bool:
        """Whether several machines talk to each other without a token."""
        raylet = import_module("ray._raylet")
        mode = raylet.get_authentication_mode()
        return len(self._nodes()) > 1 and bool(mode != raylet.AuthenticationMode.TOKEN)

    def start(self, order: Order) -> str:
        """Start an actor where there is room; return its name."""
        name = next(self._names)
        actor = self._ray.remote(RayWorker).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_concurrency=HELD + 1,  # and `stop`
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": dict.fromkeys(_THREADS, str(self.cpus)) | {"PYTHONSAFEPATH": "1"}},
        )
        self._actors[name] = actor.remote(order, self.cpus)
        self._follow(self._actors[name].start.remote(), name, None)
        return name

    def give(self, worker: str, task: Task) -> None:
        """Hand a task to an actor."""
        actor = self._actors[worker]
        if isinstance(task, Probe):
            self._follow(actor.probe.remote(task), worker, task)
        else:
            packed = zlib.compress(
                json.dumps([task.number, [dict(batch) for batch in task.batches]]).encode("ascii"), 1
            )
            self._follow(actor.do_packed.remote(packed), worker, task)

    def stop(self, worker: str) -> None:
        """Let the units of an actor end after the current batch."""
        self._actors[worker].stop.remote()

    def give_up(self, worker: str) -> None:
        """End an actor."""
        with suppress(Exception):  # it has ended, or its node has
            self._ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        """End all actors; leave the cluster, and end it if it was started here."""
        for name in list(self._actors):
            self.give_up(name)
        if self._is_ours:
            self._ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _connect(self, address: str, workers: int | None, cpus: int | None) -> None:
        """Start or join a cluster, without a dashboard, autoscaler, usage reports and output of workers.

        One that is started has room for as many workers as were asked for, even if they must share processors.
        """
        address = _found_address() if address == "auto" else address
        _require_answer(address)
        options: dict[str, Any] = {
            "address": address,
            "log_to_driver": False,
            "configure_logging": False,
            "logging_level": logging.ERROR,
            "job_config": _job_config(),
        }
        if address == LOCAL:
            self._folder = tempfile.mkdtemp(prefix="featurecache-", dir=_folder_of_sockets())
            options |= {
                "num_cpus": max(processor_count(), (workers or 1) * (cpus or 1)),
                "include_dashboard": False,
                "object_store_memory": _STORE_BYTES,
                "_system_config": {
                    "gcs_rpc_server_reconnect_timeout_s": _HEAD_SECONDS,
                    "prestart_worker_first_driver": False,  # for each processor one, which ours would not be
                },
                "_temp_dir": self._folder,
            }
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray would write one into the home folder
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        logging.getLogger("ray").setLevel(logging.ERROR)
        # Ray prints its remarks about lost workers on standard output, which has the result
        vars(import_module("ray._private.worker"))["print_to_stdstream"] = lambda *_, **__: None
        try:
            with _same_signals(), _without_services():
                self._ray.init(**options)
        except Exception as e:
            raise ClusterError(_words_of(e, address)) from e

    def _nodes(self) -> list[Mapping[str, float]]:
        """Return the resources of the nodes that are alive."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _follow(self, ref: Any, worker: str, task: Task | None) -> None:  # noqa: ANN401 - an ObjectRef
        """Let an event follow when the result of a call is there."""
        ref.future().add_done_callback(partial(self._tell, worker, task))

    def _tell(self, worker: str, task: Task | None, future: Future[Any]) -> None:
        """Turn the result of a call into an event; called in a thread of Ray."""
        error = future.exception()
        exceptions = self._ray.exceptions
        if error is None:
            outcome = future.result()
        elif isinstance(error, exceptions.RayTaskError):
            outcome = error.cause if isinstance(error.cause, Exception) else error
        else:
            has_no_memory = isinstance(error, exceptions.OutOfMemoryError) or "NODE_OUT_OF_MEMORY" in str(error)
            outcome = Gone("its machine ran out of memory" if has_no_memory else _reason_of(error))
        self.events.put(Event(worker, task, outcome))


def _import_ray() -> Any:  # noqa: ANN401 - a module
    try:
        import ray
    except ImportError as e:
        raise ClusterError("Ray is not installed, which --cluster needs: pip install 'featurecache[ray]'") from e
    return ray


def _folder_of_sockets() -> str:
    """Return the folder for temporary files, or /tmp where the paths of Ray's sockets would be too long in it."""
    folder, short = tempfile.gettempdir(), "/tmp"  # noqa: S108 - a folder with a random name is made there
    is_short = len(folder.encode(errors="surrogateescape")) <= _FOLDER_BYTES
    return folder if is_short or not os.access(short, os.W_OK | os.X_OK) else short


def _found_address() -> str:
    """Return the address that ``auto`` stands for; Ray itself would take the private cluster of another run, too."""
    given = os.environ.get("RAY_ADDRESS", "auto") or "auto"
    if given != "auto":
        return given
    found = import_module("ray._private.services").find_bootstrap_address(None)
    if not found:
        raise ClusterError(f"no cluster was started on this machine, and RAY_ADDRESS names none; {_START}")
    return str(found)


def _require_answer(address: str) -> None:
    """Raise `ClusterError` unless something listens at an address; Ray itself would wait for minutes."""
    if address == LOCAL:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ClusterError(f"{address!r} is no address of a cluster: give HOST:PORT of its head, or auto, or nothing")
    try:
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()
    except OSError as e:
        raise ClusterError(f"no cluster answers at {address} ({e.strerror or e}); {_START}") from e


def _job_config() -> Any:  # noqa: ANN401 - a class of Ray
    """Return the settings of a job whose workers do not import from the current folder."""
    from ray.job_config import JobConfig

    class Isolated(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True  # else Ray adds the current folder and the program's to the path of workers

    return Isolated()


@contextmanager
def _without_services() -> Iterator[None]:
    """Let a cluster start without dashboard, autoscaler and reader of logs; Ray has no options for it, and waits."""
    node = import_module("ray._private.node").Node
    services = [name for name in ("start_api_server", "start_monitor", "start_log_monitor") if hasattr(node, name)]
    before = {name: getattr(node, name) for name in services}
    for name in services:
        setattr(node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(node, name, start)


@contextmanager
def _same_signals() -> Iterator[None]:
    """Keep the handlers of signals: Ray takes SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fair_cpus(nodes: Sequence[Mapping[str, float]], gpus: int, workers: int) -> int:
    """Return how many processors a worker gets: its share of a node's where it has a GPU, else a few.

    Parameters
    ----------
    workers
        How many there are to be, at least.
    """
    if gpus:
        return max(
            1, min((int(node.get("CPU", 0) * gpus / node["GPU"]) for node in nodes if node.get("GPU")), default=1)
        )
    numbers = [int(node["CPU"]) for node in nodes if node.get("CPU")]
    return max(1, min([_CPUS, sum(numbers) // workers, *numbers]))


def _room(node: Mapping[str, float], cpus: int, gpus: int) -> int:
    """Return how many workers a node has room for."""
    room = int(node.get("CPU", 0) // cpus)
    return min(room, int(node.get("GPU", 0) // gpus)) if gpus else room


def _words_of(error: Exception, address: str) -> str:
    """Return in one line why there is no cluster."""
    text = " ".join(str(error).split())
    if "AF_UNIX" in text:
        return (
            f"the folder for temporary files has too long a name for Ray's sockets; set TMPDIR to a shorter one: {text}"
        )
    if "ersion mismatch" in text:
        return f"the cluster at {address} has other versions than this machine, and both must be the same: {text}"
    if "authentication" in text.lower() or "token" in text.lower():
        return f"the cluster at {address} wants another token: {_GIVE_ANOTHER}"
    if isinstance(error, ConnectionError) or "Failed to connect" in text or "GCS" in text:
        # Ray gives this error for a wrong token, too
        return f"no cluster answers at {address}, or it wants another token: {_GIVE_ANOTHER}, or {_START}"
    return f"no cluster at {address}: {text}"


def _reason_of(error: BaseException) -> str:
    """Return in a few words why an actor has ended."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines)
    if "creation task" in text or "failed to import" in text:
        return lines[-1]
    return "its machine is gone" if "node has died" in text or "node died" in text else "its process has ended"
