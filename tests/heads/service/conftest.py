"""Services on the fake backbone: their parts without HTTP, and real servers on a free port."""

import hashlib
import io
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import featurecache
from featurecache.backbones.fake import FakeBackbone
from featurecache.options import ServiceOptions
from heads import train
from heads.service.access import Rules
from heads.service.assembly import assemble
from heads.service.server import Server

WIDTHS = {"features": 16, "predictions": 4}


def png(seed, size=(40, 32)):
    """Return the bytes of an image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class SlowBackbone(FakeBackbone):
    """The fake backbone, with passes that last, can be held and are recorded."""

    def __init__(self, seconds=0.0, widths=None):
        super().__init__(widths or WIDTHS)
        self.seconds, self.passes = seconds, []
        self.may_pass = threading.Event()
        self.may_pass.set()
        self.is_in_pass = threading.Event()
        self.fault = None

    def forward(self, images):
        self.is_in_pass.set()
        self.may_pass.wait(60)
        time.sleep(self.seconds)
        self.passes.append(len(images))
        self.is_in_pass.clear()
        if self.fault is not None:
            raise self.fault
        return super().forward(images)


@dataclass(frozen=True)
class Dataset:
    """Images of two classes, their cache, and a folder with two heads: ``blue`` and ``red``."""

    images: Path
    cache: Path
    heads: Path

    @property
    def files(self):
        return sorted(self.images.glob("*/*/*.png"))


@pytest.fixture(scope="session")
def dataset(made_once):
    def fill(folder):
        (folder / "heads").mkdir()
        for number in range(40):
            path = folder / "images" / "train" / ("dark", "light")[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
        cache = featurecache.extract(folder / "images", folder / "cache.h5", backbone=FakeBackbone(WIDTHS))
        train(cache, "logreg", tap="features", holdout=0).save(folder / "heads" / "blue")
        train(cache, "centroid", tap="features", holdout=0).save(folder / "heads" / "red")

    folder = made_once("service", fill)
    return Dataset(folder / "images", folder / "cache.h5", folder / "heads")


@pytest.fixture
def make_service(dataset):
    """Return a function that assembles a service, started; all are closed in the end."""
    services = []

    def make(*directories, cache=None, backbone=None, start=True, content_cache_file=None, **options):
        service = assemble(
            directories or [dataset.heads],
            ServiceOptions(**options),
            cache=cache,
            content_cache_file=content_cache_file,
            backbone=backbone or FakeBackbone(WIDTHS),
        )
        services.append(service)
        if start:
            service.batcher.start()
        return service

    yield make
    for service in services:
        service.close()


class Running:
    """A server in a thread, and a client of it."""

    def __init__(self, service, rules, log, headers):
        self.service, self.headers = service, headers
        self.server = Server(service, rules, log=log)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        with self._listener:
            self.server.run_until_ended(self._listener)

    def wait_until_ready(self):
        wait_for(lambda: self.client.get("/v2/health/ready", headers=self.headers).status_code == 200)

    def end(self):
        self.client.close()
        self.server.end()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def run_server(dataset):
    """Return a function that starts a server; all are ended in the end."""
    running = []

    def run(
        *directories,
        cache=None,
        backbone=None,
        token=b"",
        log=None,
        ready=True,
        content_cache_file=None,
        notify=lambda _: None,
        **options,
    ):
        service = assemble(
            directories or [dataset.heads],
            ServiceOptions(**options),
            cache=cache,
            content_cache_file=content_cache_file,
            backbone=backbone or FakeBackbone(WIDTHS),
            notify=notify,
        )
        chosen = service.options
        digest = hashlib.sha256(token).digest() if token else b""
        rules = Rules(digest, chosen.request_mb * 10**6, chosen.timeout, local_only=not token)
        headers = {"Authorization": f"Bearer {token.decode()}"} if token else {}
        running.append(Running(service, rules, log, headers))
        if ready:
            running[-1].wait_until_ready()
        return running[-1]

    yield run
    for server in running:
        server.end()


def wait_for(condition, seconds=60):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for


@pytest.fixture(name="png")
def _png():
    return png


@pytest.fixture
def slow_backbone():
    return SlowBackbone


@pytest.fixture
def raw_connection():
    """Return a context manager: a connection that sends bytes as they are."""

    @contextmanager
    def connect(port, *parts):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            for part in parts:
                connection.sendall(part)
            yield connection

    return connect
