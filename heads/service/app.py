"""The HTTP application: its routes, its errors and the page; computes nothing."""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from featurecache.errors import FeatureCacheError
from featurecache.text import printable
from heads.service.access import Access, Rules, Traffic, error_response
from heads.service.cache_routes import cache_routes
from heads.service.corrections import Corrections
from heads.service.documentation import answers, page_of
from heads.service.errors import RequestError, as_request_error
from heads.service.metrics import CONTENT_TYPE
from heads.service.native_routes import native_routes
from heads.service.protocol_routes import protocol_routes
from heads.service.reading import Reader
from heads.service.training_routes import training_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from heads.service.assembly import Service

_WRONG_METHOD = 405
_TITLE = "featurecache head service"


def build_app(service: Service, rules: Rules, traffic: Traffic, log: Callable[[str], None] | None = None) -> ASGIApp:
    """Return the application.

    Parameters
    ----------
    service
        What answers.
    rules
        Who may ask, and how much.
    traffic
        Counts the requests in progress.
    log
        Called with a line of JSON for every request; None for no log.
    """
    app = FastAPI(title=_TITLE, docs_url=None, redoc_url=None, redirect_slashes=False)
    reader = Reader(service, rules, traffic)
    corrections = None if service.cache is None else Corrections(service.cache)
    for routes in (
        native_routes(reader),
        protocol_routes(reader),
        cache_routes(reader, corrections),
        training_routes(reader, corrections),
        _page_routes(app, service),
    ):
        app.include_router(routes)
    for kind in (FeatureCacheError, TimeoutError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer_to_error)

    async def unexpected(request: Request, error: Exception) -> Response:
        identifier = request.scope["exchange"].id
        service.notify(f"request {identifier} failed unexpectedly: {type(error).__name__}: {printable(str(error))}")
        return await _answer_to_error(request, error)

    app.add_exception_handler(Exception, unexpected)
    service.closing.append(reader.close)
    return Access(app, rules, traffic, service.metrics, log)


async def _answer_to_error(request: Request, error: Exception) -> Response:
    """Return the JSON answer to any error; without a thread, in which a plain function would run."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        found = RequestError(422, "bad_parameter", f"{where}: {first['msg']}")
    elif isinstance(error, HTTPException):
        code = {404: "unknown_route", 405: "wrong_method"}.get(error.status_code, "refused")
        text = {404: "there is no such route; GET /docs lists them", 405: "the route has another method; see GET /docs"}
        headers = dict(error.headers or {}) | (_allowed(request) if error.status_code == _WRONG_METHOD else {})
        found = RequestError(error.status_code, code, text.get(error.status_code, str(error.detail)), headers)
    else:
        found = as_request_error(error)
    return error_response(found, request.scope["exchange"], request.scope)


def _allowed(request: Request) -> dict[str, str]:
    """Return a header with the methods of all documented routes of a path; Starlette names those of the first one."""
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    methods = {
        method.upper()
        for path, operations in paths.items()
        if compile_path(path)[0].match(request.url.path)
        for method in operations
    }
    methods |= {"HEAD"} if "GET" in methods else set()
    return {"Allow": ", ".join(sorted(methods))} if methods else {}


def _page_routes(app: FastAPI, service: Service) -> APIRouter:
    """Return the page, its files, the counters and the documentation."""
    routes = APIRouter()
    folder = files("heads.service").joinpath("page")
    page = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}

    @routes.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @routes.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        return _file(name)

    def _file(name: str) -> Response:
        if name not in page:
            raise RequestError(404, "unknown_name", "the page has no such file")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(page[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @routes.get("/metrics", summary="Counters for Prometheus", **answers(200, kinds=["text/plain"]))
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @routes.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        document: dict[str, Any] = app.openapi()
        return HTMLResponse(page_of(document))

    return routes
