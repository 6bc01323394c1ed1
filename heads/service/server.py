"""Starts and ends the service: address, TLS, token, connections and signals."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from featurecache.errors import FeatureCacheError, OptionError
from featurecache.options import ServiceOptions
from featurecache.storage.files import open_regular
from featurecache.storage.platform import on_signals, own_address
from heads.errors import HeadError
from heads.service.access import Rules, Traffic
from heads.service.app import build_app
from heads.service.assembly import MEGABYTE, Service, assemble
from heads.service.connections import Connections, allow_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from featurecache.backbones.protocol import Backbone

TOKEN_VARIABLE = "FEATURECACHE_TOKEN"  # noqa: S105 - the name of a variable
_TOKEN_BYTES = 4096
_SHORTEST_TOKEN = 16
_BACKLOG = 2048
_IDLE_SECONDS = 75  # a connection between two requests
_SWEEP_SECONDS, _CROWDED_SWEEP_SECONDS = 1.0, 0.1
_MORE_AT_ONCE = 32  # requests that are read, refused or answered while others wait for a pass
_LAST_SECONDS = 1  # for a pass that nobody waits for any more, and for a network that starts
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared alone
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Served:
    """What a service tells when it listens.

    Parameters
    ----------
    address
        Where the page is.
    heads
        The names of the heads that are served.
    """

    address: str
    heads: tuple[str, ...]


def serve(
    directories: Iterable[str | os.PathLike[str]] = (),
    *,
    cache: str | os.PathLike[str] | None = None,
    content_cache_file: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    insecure: bool = False,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    max_pixels: int | None = None,
    backbone: Backbone | None = None,
    log: Callable[[str], None] | None = None,
    listening: Callable[[Served], None] = lambda _: None,
    notify: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> None:
    """Serve heads over HTTP until SIGTERM or Ctrl-C; answer what was accepted before returning.

    Parameters
    ----------
    directories
        Directories of heads, and directories whose subdirectories are heads. All have the recipe of the first one.
    cache
        A cache of the same recipe: its images need no pass.
    content_cache_file
        An SQLite file that keeps the features of images that were seen, across restarts.
    token_file
        A file with the token that clients must send; without one, the environment variable ``FEATURECACHE_TOKEN``.
    insecure
        Allow an address that other machines can reach without a token.
    certificate, key
        PEM files for HTTPS.
    weights, device, engine, max_pixels, backbone
        As in `heads.Predictor`.
    log
        Called with a line of JSON for every request.
    listening
        Called when the service listens.
    notify
        Called with one-line messages for the user.
    options
        The fields of `featurecache.options.ServiceOptions`.

    Raises
    ------
    HeadError
        If there is nothing to serve, the address cannot be used, or the network does not start.
    ArtifactError, MismatchError
        If a head is damaged, or has another recipe.
    OptionError
        If an option is out of its range, or an open address has no token.
    """
    chosen = ServiceOptions(**options)
    token = _token(token_file)
    if chosen.host not in _LOOPBACK and not token and not insecure:
        raise OptionError(
            f"other machines can reach {chosen.host}: give --token-file, or set {TOKEN_VARIABLE}, or pass --insecure"
        )
    context = _tls(certificate, key)
    listener = _bound(chosen.host, chosen.port)
    with listener:
        service = assemble(
            [Path(path) for path in directories],
            chosen,
            cache=None if cache is None else Path(cache),
            content_cache_file=None if content_cache_file is None else Path(content_cache_file),
            weights=weights,
            device=device,
            engine=engine,
            max_pixels=max_pixels,
            backbone=backbone,
            notify=notify,
        )
        rules = Rules(
            hashlib.sha256(token).digest() if token else b"",
            min(chosen.request_mb, chosen.queue_mb) * MEGABYTE,
            chosen.timeout,
            local_only=chosen.host in _LOOPBACK and not token,
        )
        server = Server(service, rules, context=context, log=log)
        address = address_of(chosen.host, listener.getsockname()[1], is_secure=context is not None)
        listening(Served(address, tuple(service.heads.snapshot())))
        server.run_until_ended(listener)


def address_of(host: str, port: int, *, is_secure: bool) -> str:
    """Return the address of the page; a service that listens everywhere is reached by the name of this machine."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    return f"{'https' if is_secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}/"


def _token(file: str | os.PathLike[str] | None) -> bytes:
    """Return the token from a file or from the environment; empty if there is none."""
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip().encode("utf-8", "surrogateescape")
    else:
        try:
            with open_regular(Path(file)) as stream:
                token = stream.read(_TOKEN_BYTES).strip()
        except OSError as e:
            raise OptionError(f"the token file {file} cannot be read: {(e.strerror or str(e)).lower()}") from e
        if not token:
            raise OptionError(f"the token file {file} is empty; write a long random text into it")
    if token and len(token) < _SHORTEST_TOKEN:
        raise OptionError(f"the token has {len(token)} characters, expected {_SHORTEST_TOKEN} or more")
    return token


def _tls(certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """Return the context of HTTPS; None without a certificate."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise OptionError("HTTPS needs both --certificate and --key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as e:
        raise OptionError(f"the certificate {certificate} cannot be used with the key {key}: {e.strerror or e}") from e
    return context


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address, before anything is loaded."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        try:
            own_address(listener)
            listener.bind(address)
            listener.listen(_BACKLOG)  # of two services on one port, both may bind, and one can listen
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as e:  # a name that cannot be looked up is no text for the system, perhaps
        reason = (e.strerror if isinstance(e, OSError) else None) or str(e)
        raise OptionError(
            f"cannot listen on {host}, port {port}: {reason.lower()}; choose another --port or --host"
        ) from e
    return listener


class Server(uvicorn.Server):
    """Uvicorn, with our own end: not ready at once, then everything that was accepted is answered.

    Parameters
    ----------
    service
        What answers; closed at the end.
    rules
        Who may ask, and how much.
    context
        The context of HTTPS; None for HTTP.
    log
        Called with a line of JSON for every request; None for no log.
    """

    def __init__(
        self,
        service: Service,
        rules: Rules,
        *,
        context: ssl.SSLContext | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._service = service
        batcher = service.batcher
        at_once = 2 * batcher.batch_size + _MORE_AT_ONCE  # of those, images wait for a pass or are in one
        self._traffic = Traffic(service.options.queue_mb * MEGABYTE, at_once, batcher.refuses_more)
        service.metrics.show("queue_bytes", "Size of all requests in progress", lambda: self._traffic.bytes)
        config = uvicorn.Config(
            build_app(service, rules, self._traffic, log),
            http="h11",  # bounds the head of a request; httptools, where it is installed, does not
            access_log=False,
            log_level="critical",
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            ws="none",
            backlog=_BACKLOG,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        config.load()
        if context is not None:
            config.ssl = context
        super().__init__(config)
        self._deadline = 0.0  # of the end, once it has begun
        self._connections = Connections(service.options.connections)

    def run_until_ended(self, listener: socket.socket) -> None:
        """Serve until a signal, or `end`, ends the service.

        Raises
        ------
        HeadError
            If the network does not start.
        """
        try:
            asyncio.run(self._run(listener))
        finally:
            self._service.close(min(_LAST_SECONDS, max(0.0, self._deadline - time.monotonic())))
        failure = self._service.batcher.failure
        if failure is not None:
            raise (
                failure
                if isinstance(failure, FeatureCacheError)
                else HeadError(f"the network does not start: {failure}; see: featurecache backbones")
            )

    def end(self) -> None:
        """Begin to end the service; the second call ends it at once. Any thread may call it."""
        if self._traffic.is_ending:
            self.should_exit = self.force_exit = True
            self._deadline = 0.0
        self._traffic.is_ending = True

    async def _run(self, listener: socket.socket) -> None:
        allow_descriptors(2 * self._service.options.connections)  # a burst comes between two sweeps
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            on_signals(loop, self.end)
        self._service.batcher.start()
        watching = asyncio.ensure_future(self._watch())
        try:
            await self.serve([listener])
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        """Close silent connections until the service ends; then wait for the last answers, and stop the server."""
        began, swept, has_started = time.monotonic(), 0.0, False
        while not self._traffic.is_ending and self._service.batcher.failure is None:
            if not has_started and not self._service.batcher.fault(self._service.options.timeout):
                has_started = True
                self._service.notify(f"the network has started after {time.monotonic() - began:.0f} s")
            now, connections = time.monotonic(), self.server_state.connections
            if now >= swept + _SWEEP_SECONDS or len(connections) > self._service.options.connections:
                self._connections.sweep(connections, now)
                swept = now
            await asyncio.sleep(_CROWDED_SWEEP_SECONDS)
        self._traffic.is_ending = True
        self._deadline = time.monotonic() + self._service.options.grace
        while self._traffic.requests and time.monotonic() < self._deadline and not self.should_exit:
            await asyncio.sleep(_CROWDED_SWEEP_SECONDS)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us: Uvicorn would close connections at once, and raise the signal again."""
        yield
