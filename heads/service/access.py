"""Who may ask, how much, and what is written about it: pure ASGI, around every route."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from heads.service.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from heads.service.metrics import Metrics

REQUEST_ID = b"x-request-id"
_LINGER_SECONDS = 2
_GOOD_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/", "/v2/health/live"})
OPEN_FOLDER = "/static/"
_ALWAYS = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})  # also when the service can take no more
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)


@dataclass(slots=True)
class Traffic:
    """All requests in progress.

    Parameters
    ----------
    max_bytes
        Bound of their bodies together.
    max_requests
        How many there may be while no image can be accepted; more are refused before their bodies are read.
    refuses_more
        Returns whether no image can be accepted now.
    requests, bytes
        How many there are, and the size of their bodies so far.
    is_ending
        Whether the service ends: then new requests are refused.
    """

    max_bytes: int
    max_requests: int
    refuses_more: Callable[[], bool]
    requests: int = 0
    bytes: int = 0
    is_ending: bool = False

    def take(self, count: int) -> None:
        """Count bytes that have arrived.

        Raises
        ------
        RequestError
            With status 429 if they are too many.
        """
        if self.bytes + count > self.max_bytes:
            raise RequestError(
                429,
                "overloaded",
                f"requests in progress have {self.bytes:,} bytes, {self.max_bytes:,} are allowed; ask again later",
                {"Retry-After": "1"},
            )
        self.bytes += count


@dataclass(slots=True)
class Exchange:
    """One request and its answer, for the log and the limits; routes find it in the scope under ``exchange``.

    Parameters
    ----------
    id
        The request's id, the client's own if it has a good one.
    method
        The method of the request.
    deadline
        The time of the event loop at which the answer is due.
    taken
        Bytes of the budget that it holds.
    status, sent
        Status and bytes of the answer so far.
    images
        The number of images in the request.
    is_read
        Whether the whole body has arrived.
    """

    id: str
    method: str
    deadline: float
    taken: int = 0
    status: int = 0
    sent: int = 0
    images: int = 0
    is_read: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may ask, and how much.

    Parameters
    ----------
    token_sha256
        SHA-256 of the token that a client must send; empty if none is needed.
    request_bytes
        Bound of a request's body.
    timeout
        Seconds until a request is answered or fails.
    local_only
        Whether the service listens on this machine alone and has no token: then a page of another site, also one that
        gives its name this machine's address, may not use the browser to ask.
    """

    token_sha256: bytes
    request_bytes: int
    timeout: float
    local_only: bool


class Access:
    """Middleware: request id, token, foreign pages, security headers, counters and the access log.

    Parameters
    ----------
    app
        The application.
    rules
        Who may ask, and how much.
    traffic
        All requests in progress.
    metrics
        Receives the count of requests.
    log
        Called with one JSON object per request; None for no log.
    """

    def __init__(
        self, app: ASGIApp, rules: Rules, traffic: Traffic, metrics: Metrics, log: Callable[[str], None] | None
    ) -> None:
        self._app, self._rules, self._traffic, self._metrics, self._log = app, rules, traffic, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        given = headers.get(REQUEST_ID, b"")
        request_id = given.decode("ascii") if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        due = asyncio.get_running_loop().time() + self._rules.timeout
        exchange = Exchange(request_id, scope["method"], due)
        exchange.is_read = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        scope["exchange"] = exchange
        if exchange.method == "HEAD":  # answered as GET; the server leaves the body out
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (REQUEST_ID, request_id.encode("ascii"))]
                if not exchange.is_read:
                    message["headers"].append((b"connection", b"close"))
            elif message["type"] == "http.response.body":
                exchange.sent += len(message.get("body", b""))
                if not exchange.is_read and not message.get("more_body", False):
                    await send({**message, "more_body": True})
                    await _drop_rest(receive)
                    message = {"type": "http.response.body", "body": b""}
            await send(message)

        refusal = self._refusal(scope, headers)
        self._traffic.requests += 1
        try:
            if refusal is not None:
                await error_response(refusal, exchange, scope)(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            self._traffic.bytes -= exchange.taken
            self._traffic.requests -= 1
            self._note(scope, exchange, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: dict[bytes, bytes]) -> RequestError | None:
        """Return why a request may not be answered; None if it may."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self._rules.local_only and _host_name(f"//{host}") not in _LOCAL:
            return RequestError(
                403, "foreign_host", "this service answers to localhost alone; give it a token to use another name"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and scope["method"] not in _SAFE_METHODS and origin.partition("://")[2] != host:
            return RequestError(403, "foreign_page", "a page of another site may not use this service")
        path = scope["path"]
        if self._traffic.is_ending and not path.startswith("/v2/health/"):
            return RequestError(503, "ending", "the service is ending; ask another one", {"Retry-After": "1"})
        traffic = self._traffic
        if traffic.requests >= traffic.max_requests and path not in _ALWAYS and traffic.refuses_more():
            message = f"{traffic.requests} requests are in progress; ask again later"
            return RequestError(429, "overloaded", message, {"Retry-After": "1"})
        if not self._rules.token_sha256 or path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        return self._fault_of_token(headers)

    def _fault_of_token(self, headers: dict[bytes, bytes]) -> RequestError | None:
        """Return what is wrong with the token of a request; None if it is right."""
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not token:
            return RequestError(
                401, "token_missing", "send the header Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )
        if not hmac.compare_digest(hashlib.sha256(token.strip()).digest(), self._rules.token_sha256):
            return RequestError(401, "token_wrong", "the token is wrong", {"WWW-Authenticate": "Bearer"})
        return None

    def _note(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        """Count a request that has ended, and write it to the log."""
        route = getattr(scope.get("route"), "path", "") or "other"
        self._metrics.requests.labels(route, str(exchange.status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        if self._log is not None:
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": exchange.id,
                "method": exchange.method,
                "route": route,
                "status": exchange.status,
                "seconds": round(seconds, 6),
                "bytes_in": exchange.taken,
                "bytes_out": exchange.sent,
                "images": exchange.images,
            }
            self._log(json.dumps(line))


_READ = frozenset({b"host", b"origin", b"authorization", b"content-length", b"transfer-encoding", REQUEST_ID})


def _host_name(url: str) -> str | None:
    """Return the name of the host in a URL; None if there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # an open bracket, for example
        return None


async def _drop_rest(receive: Receive) -> None:
    """Read and drop what still arrives of a body, for a moment.

    Otherwise the system would reset the connection, and many clients would see the reset and not the answer.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def error_response(error: RequestError, exchange: Exchange, scope: Scope) -> JSONResponse:
    """Return the answer to an error; the Open Inference Protocol wants text where the others have an object."""
    body: dict[str, Any] = {"error": {"code": error.code, "message": str(error)}, "request": exchange.id}
    if scope["path"].startswith("/v2"):
        body = {"error": str(error), "code": error.code, "request": exchange.id}
    return JSONResponse(body, error.status, error.headers)


async def read_body(scope: Scope, receive: Receive, rules: Rules, traffic: Traffic) -> bytes:
    """Return the body of a request, counted while it arrives.

    Raises
    ------
    RequestError
        With 413 if it is too large, 429 if all requests together are, 408 if it takes too long, 400 if it is cut off.
    """
    exchange: Exchange = scope["exchange"]
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if declared.isdigit() and int(declared) > rules.request_bytes:
        raise _too_large(rules)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(exchange.deadline):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestError(400, "cut_off", "the request ended before its body did")
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > rules.request_bytes:
                    raise _too_large(rules)
                traffic.take(len(chunk))
                exchange.taken += len(chunk)
                chunks.append(chunk)
                more = message.get("more_body", False)
        exchange.is_read = True
    except TimeoutError as e:
        raise RequestError(408, "body_too_slow", "the body did not arrive in time") from e
    return b"".join(chunks)


def _too_large(rules: Rules) -> RequestError:
    return RequestError(
        413,
        "too_large",
        f"the body has more than {rules.request_bytes:,} bytes; send fewer images at a time, or raise --request-mb "
        "and --queue-mb",
    )
