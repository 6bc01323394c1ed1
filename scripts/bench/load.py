"""Asks a service over many connections at once, from one thread that waits for all of them: costs little itself.

The child is ``python -m scripts.bench.load``: it reads an `Order` as JSON from standard input, and writes what it
measured.
"""

import base64
import json
import random
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any

OK, BUSY = 200, 429
_COMMENT = b"\xff\xfe\x00\x06"  # of a JPEG file, with four bytes
_BOUNDARY = b"a-boundary-that-no-image-has"
_PART = b'Content-Disposition: form-data; name="file"; filename="image.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
_WRAPPED = {  # content type, and what comes before and after an image
    "image": (b"image/jpeg", b"", b""),
    "form": (
        b"multipart/form-data; boundary=" + _BOUNDARY,
        b"--" + _BOUNDARY + b"\r\n" + _PART,
        b"\r\n--" + _BOUNDARY + b"--\r\n",
    ),
    "protocol": (
        b"application/json",
        b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["',
        b'"]}]}',
    ),
}
_CHUNK = 1 << 18
_PATIENCE = 60  # seconds for the last answers
_SPARE = 512  # connections of a load with a given rate


@dataclass(frozen=True, slots=True)
class Order:
    """What to ask.

    Parameters
    ----------
    port, path
        The service on this machine, and its route.
    folder
        A folder of JPEG files.
    seconds
        How long to ask. Answers of the first ``warm_seconds`` do not count.
    clients
        Connections, each with one request at a time; ignored if there is a ``rate``.
    rate
        Requests a second, at random times, whether or not there are answers; 0 to ask whenever a client has its answer.
        A client that is refused waits as long as it is told; with a rate, it does not come again.
    first
        The number of the first image that nobody has seen before: each is a file with its number in a comment. None for
        the files as they are, again and again.
    body
        ``"image"``: the image alone; ``"form"``: a file of a form; ``"protocol"``: base64 in the JSON of the Open
        Inference Protocol.
    warm_seconds
        See ``seconds``.
    """

    port: int
    path: str
    folder: str
    seconds: float
    clients: int = 1
    rate: float = 0.0
    first: int | None = None
    body: str = "image"
    warm_seconds: float = 0.0


def ask(order: Order) -> dict[str, Any]:
    """Carry an order out in a process of its own, and return what it measured; see `_Load.measured`."""
    command = [sys.executable, "-m", "scripts.bench.load"]
    done = subprocess.run(command, input=json.dumps(asdict(order)), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"the client failed: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _requests(order: Order) -> Iterator[bytes]:
    """Yield requests without end."""
    images = [path.read_bytes() for path in sorted(Path(order.folder).rglob("*.jpg"))]
    if order.first is None:
        yield from cycle([_request(order, image) for image in images])
    for number in count(order.first or 0):
        image = images[number % len(images)]
        yield _request(order, b"".join((image[:2], _COMMENT, number.to_bytes(4, "big"), image[2:])))


def _request(order: Order, image: bytes) -> bytes:
    kind, before, after = _WRAPPED[order.body]
    if order.body == "protocol":
        image = base64.b64encode(image)
    length = len(before) + len(image) + len(after)
    head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return b"".join((head % (order.path.encode(), order.port, kind, length), before, image, after))


@dataclass(eq=False, slots=True)
class _Connection:
    """A connection, what is still to be sent, what has arrived of the answer, and when the request was due."""

    socket: socket.socket
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    arrived: bytearray = field(default_factory=bytearray)
    due: float = 0.0
    is_free: bool = True

    def send(self) -> bool:
        """Send what the system takes; return whether that was all."""
        with suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]
        return not self.unsent

    def answer(self) -> tuple[int, dict[bytes, bytes]] | None:
        """Return status and headers if the whole answer has arrived."""
        end = self.arrived.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(self.arrived[:end]).split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if len(self.arrived) < end + 4 + int(headers.get(b"content-length", b"0")):
            return None
        return int(first.split()[1]), headers


class _Load:
    """Carries an order out."""

    def __init__(self, order: Order) -> None:
        self._order, self._requests = order, _requests(order)
        self._selector = selectors.DefaultSelector()
        self._free: deque[_Connection] = deque()
        self._resting: deque[tuple[float, _Connection]] = deque()
        self._seconds: dict[int, list[float]] = {OK: [], BUSY: []}
        self._statuses: Counter[int] = Counter()
        self._asked = self._busy = self._counted = 0
        self._began = self._end = self._counts_from = self._first = self._last = 0.0

    def measured(self) -> dict[str, Any]:
        """Ask, and return counts, the rate of answers, quantiles of their times, and the client's processor share."""
        order, random_times = self._order, random.Random(0)  # noqa: S311 - times of arrival
        for _ in range(order.clients if not order.rate else 0):
            self._free.append(self._connected())
        next(self._requests)  # builds all
        processors = time.process_time()
        self._began = due = time.perf_counter()
        self._end, self._counts_from = due + order.seconds, due + order.warm_seconds
        self._first = due  # answers come in batches: the rate is that from the end of one to the end of another
        while (now := time.perf_counter()) < self._end:
            wait = self._end - now
            if order.rate:
                while due <= now:
                    self._ask_at(due)
                    due += random_times.expovariate(order.rate)
                wait = min(wait, due - now)
            else:
                while self._resting and self._resting[0][0] <= now:
                    self._free.append(self._resting.popleft()[1])
                while self._free:
                    self._ask(self._free.pop(), now)
                if self._resting:
                    wait = min(wait, self._resting[0][0] - now)
            self._work(max(0.0, wait))
        took, worked = time.perf_counter() - self._began, time.process_time() - processors
        while self._busy and time.perf_counter() < self._end + _PATIENCE:
            self._work(1.0)
        return {
            "asked": self._asked,
            "answered": self._statuses[OK],
            "refused": self._statuses[BUSY],
            "failed": self._asked - self._statuses[OK] - self._statuses[BUSY],
            "rate": self._counted / (self._last - self._first) if self._counted else 0.0,
            "client_share": worked / took,
            **{f"{name}_ms": _at(self._seconds[OK], share) for name, share in (("p50", 0.5), ("p99", 0.99))},
            **{f"refused_{name}_ms": _at(self._seconds[BUSY], share) for name, share in (("p50", 0.5), ("p99", 0.99))},
        }

    def _opened(self) -> socket.socket:
        opened = socket.create_connection(("127.0.0.1", self._order.port))
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.setblocking(False)
        return opened

    def _connected(self) -> _Connection:
        connection = _Connection(self._opened())
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _ask_at(self, due: float) -> None:
        """Ask on a free connection or a new one; without either, the request counts as not answered."""
        if not self._free and self._busy >= _SPARE:
            self._asked += 1
            return
        self._ask(self._free.pop() if self._free else self._connected(), due)

    def _ask(self, connection: _Connection, due: float) -> None:
        connection.unsent, connection.due, connection.is_free = memoryview(next(self._requests)), due, False
        self._asked += 1
        self._busy += 1
        if not connection.send():
            self._selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _work(self, wait: float) -> None:
        """Send and receive for a moment."""
        for key, events in self._selector.select(wait):
            connection: _Connection = key.data
            if events & selectors.EVENT_WRITE and connection.send():
                self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ:
                self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(_CHUNK)
        except OSError:
            data = b""
        connection.arrived += data
        answer = connection.answer()
        if answer is None and data:
            return
        status, headers = answer or (0, {})
        if not connection.is_free:
            self._note(connection, status, float(headers.get(b"retry-after", b"0")))
        if not data or headers.get(b"connection") == b"close":
            self._replace(connection)

    def _note(self, connection: _Connection, status: int, retry_after: float) -> None:
        """Count an answer, and free its connection."""
        now = time.perf_counter()
        self._busy -= 1
        self._statuses[status] += 1
        if now >= self._counts_from and status in self._seconds:
            self._seconds[status].append(now - connection.due)
        if status == OK and now < self._counts_from:
            self._first = now
        elif status == OK and now <= self._end:
            self._counted, self._last = self._counted + 1, now
        connection.is_free = True
        connection.arrived.clear()
        if status == BUSY and not self._order.rate:
            self._resting.append((now + retry_after, connection))
        else:
            self._free.append(connection)

    def _replace(self, connection: _Connection) -> None:
        """Connect again where the service has closed a connection."""
        self._selector.unregister(connection.socket)
        connection.socket.close()
        connection.socket = self._opened()
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)


def _at(seconds: list[float], share: float) -> float | None:
    """Return a quantile in milliseconds; None without values."""
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None


if __name__ == "__main__":
    json.dump(_Load(Order(**json.load(sys.stdin))).measured(), sys.stdout)
