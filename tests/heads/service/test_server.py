"""The service as a process: where it listens, whom it trusts, and how it ends."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from featurecache.backbones.fake import FakeBackbone
from featurecache.errors import OptionError
from heads import serve
from heads.errors import HeadError
from heads.service.connections import IDLE_SECONDS, SILENT_SECONDS, Connections
from heads.service.server import address_of

SCRIPT = """
import sys, time, json
import heads
from featurecache.backbones.fake import FakeBackbone
class Slow(FakeBackbone):
    def forward(self, images):
        time.sleep(SECONDS)
        return super().forward(images)
heads.serve(
    [HEADS], backbone=Slow({"features": 16, "predictions": 4}), port=0,
    listening=lambda served: print(json.dumps([served.address, served.heads]), flush=True), **OPTIONS
)
"""


@pytest.fixture
def start(dataset):
    """Return a function that starts a service in a process; all are killed in the end."""
    processes, clients = [], []

    def run(seconds=0.0, headers=None, **options):
        script = textwrap.dedent(SCRIPT).replace("SECONDS", str(seconds)).replace("HEADS", repr(str(dataset.heads)))
        process = subprocess.Popen(
            [sys.executable, "-c", script.replace("OPTIONS", repr(options))], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        address, names = json.loads(process.stdout.readline())
        assert names == ["blue", "red"]
        client = httpx.Client(base_url=address, timeout=30, headers=headers)
        clients.append(client)
        end = time.monotonic() + 60
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        return process, client

    yield run
    for client in clients:
        client.close()
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def waiting(client):
    """Return how many images wait for a pass."""
    return float(client.get("/metrics").text.split("\nfeaturecache_queue_images ")[1].split("\n")[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_everything_that_was_accepted_is_answered_before_the_end(start, png, wait_for, number):
    process, client = start(1.5, batch_size=1, grace=20)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.post, "/predict", content=png(seed)) for seed in range(4)]
        wait_for(lambda: waiting(client) == 3)
        process.send_signal(number)
        end = time.monotonic() + 60
        while (ready := httpx.get(client.base_url.join("/v2/health/ready"))).status_code == 200:
            assert time.monotonic() < end
        assert ready.json()["faults"] == ["the service is ending"]
        assert httpx.get(client.base_url.join("/v2/health/live")).status_code == 200
        refused = httpx.post(client.base_url.join("/predict"), content=png(9))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "ending")
        assert [one.result(20).status_code for one in asked] == [200] * 4
    assert process.wait(60) == 0


def test_the_service_ends_within_its_grace(start, png, wait_for):
    process, client = start(60.0, batch_size=1, grace=1)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/predict", content=png(seed)) for seed in range(2)]
        wait_for(lambda: waiting(client) == 1)
        began = time.monotonic()
        process.terminate()
        process.wait(50)
        assert time.monotonic() - began < 30
        for one in asked:
            assert one.exception(20) is not None or one.result().status_code >= 500


def test_a_second_signal_ends_the_service_at_once(start, png, wait_for):
    process, client = start(60.0, batch_size=1, grace=60)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, "/predict", content=png(seed)) for seed in range(2)]
        wait_for(lambda: waiting(client) == 1)
        process.terminate()
        wait_for(lambda: client.get("/v2/health/ready").status_code == 503)
        began = time.monotonic()
        process.terminate()
        process.wait(50)
        assert time.monotonic() - began < 30
        for one in asked:
            assert one.exception(20) is not None or one.result().status_code >= 500


def test_a_body_that_never_fits_is_too_large(start):
    _, client = start(queue_mb=1)
    refused = client.post("/predict", content=b"x" * 1_500_000)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert "more than 1,000,000 bytes" in refused.json()["error"]["message"]


def test_a_port_in_use_is_one_line(dataset):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1, port {port}: address already in use"):
            serve([dataset.heads], backbone=FakeBackbone(), port=port)


def test_an_address_of_another_machine_is_refused(dataset):
    with pytest.raises(OptionError, match=r"cannot listen on 192\.0\.2\.7"):
        serve([dataset.heads], backbone=FakeBackbone(), host="192.0.2.7", insecure=True)
    with pytest.raises(OptionError, match=r"cannot listen on 192\.168\.\.1"):
        serve([dataset.heads], backbone=FakeBackbone(), host="192.168..1", insecure=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])  # noqa: S104 - the point
def test_an_address_that_others_can_reach_needs_a_token(dataset, host, monkeypatch):
    monkeypatch.delenv("FEATURECACHE_TOKEN", raising=False)
    with pytest.raises(OptionError, match="give --token-file, or set FEATURECACHE_TOKEN, or pass --insecure"):
        serve([dataset.heads], backbone=FakeBackbone(), host=host)


def test_the_address_of_the_page_is_one_that_a_browser_opens():
    assert address_of("127.0.0.1", 80, is_secure=False) == "http://127.0.0.1:80/"
    assert address_of("::1", 8000, is_secure=True) == "https://[::1]:8000/"
    for host in ("0.0.0.0", "::", ""):  # noqa: S104 - the point
        assert address_of(host, 8000, is_secure=True) == f"https://{socket.gethostname()}:8000/"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: no such file"), (b"\n", "is empty"), (b"short\n", "has 5 characters, expected 16")],
)
def test_a_token_file_that_cannot_be_used_is_refused(dataset, tmp_path, content, message):
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OptionError, match=message):
        serve([dataset.heads], backbone=FakeBackbone(), token_file=file)


def test_a_token_comes_from_the_environment(start, png, monkeypatch):
    monkeypatch.setenv("FEATURECACHE_TOKEN", "0123456789abcdef")
    _, client = start(headers={"Authorization": "Bearer 0123456789abcdef"})
    assert client.post("/predict", content=png(1)).status_code == 200
    assert client.get("/heads", headers={"Authorization": "Bearer other"}).status_code == 401


def test_a_certificate_that_cannot_be_used_is_refused(dataset, tmp_path):
    with pytest.raises(OptionError, match="needs both --certificate and --key"):
        serve([dataset.heads], backbone=FakeBackbone(), certificate=tmp_path / "c")
    with pytest.raises(OptionError, match=r"the certificate .*c cannot be used with the key .*k: No such file"):
        serve([dataset.heads], backbone=FakeBackbone(), certificate=tmp_path / "c", key=tmp_path / "k")


def test_a_network_that_does_not_start_ends_the_service(dataset, monkeypatch):
    class Broken(FakeBackbone):
        @property
        def passes_at_once(self):
            raise RuntimeError("no device")

        @passes_at_once.setter
        def passes_at_once(self, value):
            pass

    with pytest.raises(HeadError, match="the network does not start: no device"):
        serve([dataset.heads], backbone=Broken({"features": 16, "predictions": 4}), port=0)


class Connection:
    def __init__(self, cycle=None, unread=0):
        self.cycle, self.transport, self.unread, self.is_closed = cycle, self, unread, False

    def get_write_buffer_size(self):
        return self.unread

    def abort(self):
        self.is_closed = True


class Cycle:
    def __init__(self, *, response_complete):
        self.response_complete = response_complete


def test_silent_connections_are_closed_and_busy_ones_are_not():
    connections = Connections(limit=100)
    new, idle = Connection(), Connection(Cycle(response_complete=True))
    busy = Connection(Cycle(response_complete=False))
    everyone = {new, idle, busy}
    assert connections.sweep(everyone, 0.0) == 0
    assert connections.sweep(everyone, SILENT_SECONDS) == 0
    assert connections.sweep(everyone, SILENT_SECONDS + 1) == 1
    assert new.is_closed
    assert connections.sweep({idle, busy}, IDLE_SECONDS + 1) == 1
    assert idle.is_closed
    assert not busy.is_closed


def test_connections_that_ask_or_take_their_answer_are_not_silent():
    connections = Connections(limit=100)
    asking, taking, stuck = Connection(), Connection(Cycle(response_complete=True), 10_000), Connection(unread=500)
    stuck.cycle = Cycle(response_complete=True)
    for second in range(0, 3 * IDLE_SECONDS, 10):
        asking.cycle = Cycle(response_complete=True)  # a request between two sweeps
        taking.unread -= 10
        connections.sweep([one for one in (asking, taking, stuck) if not one.is_closed], float(second))
    assert (asking.is_closed, taking.is_closed, stuck.is_closed) == (False, False, True)


def test_clients_that_do_not_take_their_answers_are_closed(run_server, raw_connection, wait_for):
    server = run_server()
    opened, limits = server.server.server_state.connections, server.server._connections
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(raw_connection(server.port, asked))
        wait_for(lambda: sum(one.transport.get_write_buffer_size() > 0 for one in list(opened)) == 4)
        limits.limit = 2
        wait_for(lambda: len(opened) <= 2)
        assert server.client.get("/v2/health/live").status_code == 200


def test_of_too_many_connections_the_longest_silent_ones_are_closed():
    connections = Connections(limit=3)
    everyone = [Connection(Cycle(response_complete=False)) for _ in range(2)]
    for second in range(4):
        everyone.append(Connection())
        connections.sweep([one for one in everyone if not one.is_closed], float(second))
    assert [one.is_closed for one in everyone] == [False, False, True, True, True, False]


def _silent_connections(start, png, count, limit):
    """Open connections that say nothing, and ask something meanwhile."""
    process, client = start(connections=limit)
    port = client.base_url.port
    opened = []
    try:
        for number in range(count):
            opened.append(socket.create_connection(("127.0.0.1", port), timeout=20))
            if len(opened) > limit + 300:  # this process may not have more open
                opened.pop(0).close()
            if number % 100 == 0:
                assert httpx.post(client.base_url.join("/predict"), content=png(number)).status_code == 200
        began = time.monotonic()
        assert client.post("/predict", content=png(0)).status_code == 200
        assert time.monotonic() - began < 20
        descriptors = Path(f"/proc/{process.pid}/fd")
        end = time.monotonic() + 60
        while len(list(descriptors.iterdir())) > limit + 100:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert _resident(process) < 500
    finally:
        for connection in opened:
            connection.close()


def test_connections_that_say_nothing_do_not_keep_others_out(start, png):
    _silent_connections(start, png, 600, 100)


@pytest.mark.slow
def test_ten_thousand_connections_that_say_nothing_do_not_keep_others_out(start, png):
    _silent_connections(start, png, 10_000, 400)


def _resident(process):
    """Return the resident memory of a process in MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize("count", [240, pytest.param(1200, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_images_that_never_repeat(start, png, count):
    process, client = start(content_cache_mb=0)
    sizes = []
    for number in range(count):
        assert client.post("/predict", content=png(number, (200, 200))).status_code == 200
        if number in {count // 3, count - 1}:
            sizes.append(_resident(process))
    assert sizes[1] - sizes[0] < 10, sizes


def test_https_is_served(dataset, tmp_path, monkeypatch):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        ],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    script = SCRIPT.replace("SECONDS", "0").replace("HEADS", repr(str(dataset.heads)))
    options = {"certificate": str(certificate), "key": str(key)}
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("OPTIONS", repr(options))], stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline()
        assert address.startswith('["https://127.0.0.1:')
        port = address.split(":")[2].split("/")[0]
        context = ssl.create_default_context(cafile=certificate)
        live = httpx.get(f"https://localhost:{port}/v2/health/live", verify=context)
        assert live.json() == {"live": True}
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
