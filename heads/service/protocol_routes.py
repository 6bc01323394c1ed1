"""The routes of the Open Inference Protocol: health, heads as models, inference, and the repository of heads."""

from __future__ import annotations

import asyncio
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from featurecache.errors import UnknownNameError
from heads.predictor import row_answers
from heads.rows import first_not_finite
from heads.service import protocol
from heads.service.answering import ImageFile, UnusableImage, work_of
from heads.service.documentation import INFER, JSON_BODY, answers
from heads.service.errors import RequestError
from heads.service.waiting_room import LARGEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heads.service.models import ServedHead
    from heads.service.protocol import InferRequest
    from heads.service.reading import Reader


_KINDS = ("application/json", "application/octet-stream")


def protocol_routes(reader: Reader) -> APIRouter:
    """Return all routes."""
    routes = APIRouter()
    for part in (_health(reader), _models(reader), _repository(reader)):
        routes.include_router(part)
    return routes


def _health(reader: Reader) -> APIRouter:
    routes, service = APIRouter(), reader.service

    @routes.get("/v2", summary="Name, version and extensions of the service", **answers(200))
    async def server() -> Response:
        return JSONResponse(
            {"name": "featurecache", "version": version_of("featurecache"), "extensions": list(protocol.EXTENSIONS)}
        )

    @routes.get("/v2/health/live", summary="Whether the service runs", **answers(200))
    async def live() -> Response:
        return JSONResponse({"live": True})

    @routes.get("/v2/health/ready", summary="Whether the service can answer", **answers(200, 503))
    async def ready() -> Response:
        faults = ["the service is ending"] if reader.traffic.is_ending else service.faults()
        return JSONResponse({"ready": not faults, "faults": faults}, 503 if faults else 200)

    return routes


def _models(reader: Reader) -> APIRouter:
    routes, service = APIRouter(prefix="/v2/models/{name}"), reader.service

    def served(name: str, version: str | None) -> ServedHead:
        found = service.heads.get(name)
        if version is not None and version != found.version:
            raise UnknownNameError("version", version, [found.version])
        return found

    async def metadata(name: str, version: str | None = None) -> Response:
        found = served(name, version)
        head = found.head
        return JSONResponse(protocol.metadata(name, found.version, head.model.width, len(head.classes)))

    async def ready(name: str, version: str | None = None) -> Response:
        served(name, version)
        fault = service.batcher.fault(service.options.timeout)
        return JSONResponse({"name": name, "ready": not fault}, 503 if fault else 200)

    async def infer(request: Request, name: str, version: str | None = None) -> Response:
        found = served(name, version)
        body = await reader.body(request)
        length, most = request.headers.get(protocol.HEADER_LENGTH), max(LARGEST, service.batcher.room.largest)
        asked = await reader.computed(request, len(body), protocol.parse, body, length, most)
        rows = await _rows(reader, request, asked, found)
        return await reader.computed(request, work_of([found], len(rows)), _answer, asked, found, rows)

    @routes.get("", summary="Inputs and outputs of a head", **answers(200))
    async def metadata_of_head(name: str) -> Response:
        return await metadata(name)

    @routes.get("/versions/{version}", summary="Inputs and outputs of a version of a head", **answers(200))
    async def metadata_of_version(name: str, version: str) -> Response:
        return await metadata(name, version)

    @routes.get("/ready", summary="Whether a head can answer", **answers(200, 503))
    async def ready_of_head(name: str) -> Response:
        return await ready(name)

    @routes.get("/versions/{version}/ready", summary="Whether a version of a head can answer", **answers(200, 503))
    async def ready_of_version(name: str, version: str) -> Response:
        return await ready(name, version)

    @routes.post("/infer", summary="Answers of a head", **answers(200, body=INFER, kinds=_KINDS))
    async def infer_by_head(request: Request, name: str) -> Response:
        return await infer(request, name)

    @routes.post("/versions/{version}/infer", summary="Answers of a version", **answers(200, body=INFER, kinds=_KINDS))
    async def infer_by_version(request: Request, name: str, version: str) -> Response:
        return await infer(request, name, version)

    return routes


async def _rows(reader: Reader, request: Request, asked: InferRequest, served: ServedHead) -> NDArray[Any]:
    """Return the features that a request gives, or those of its images, shape (n, d)."""
    width = served.head.model.width
    if asked.features is not None:
        if asked.features.shape[1] != width:
            raise RequestError(
                400, "wrong_width", f"features have {asked.features.shape[1]} columns, the head takes {width}"
            )
        bad = first_not_finite(asked.features)
        if bad is not None:
            raise RequestError(422, "not_finite", f"row {bad} of the features is not finite")
        return asked.features
    images = await reader.features_of(request, [ImageFile(data) for data in asked.images or ()])
    rows = []
    for number, image in enumerate(images):
        if isinstance(image, UnusableImage):
            raise RequestError(422, image.code, f"image {number} of {len(images)} cannot be used: {image.reason}")
        rows.append(image.rows[served.head.tap])
    return np.stack(rows) if rows else np.empty((0, width), np.float32)


def _answer(asked: InferRequest, served: ServedHead, rows: NDArray[Any]) -> Response:
    """Compute the answers of a head, and render them."""
    head = served.head
    probabilities = row_answers(head, rows)
    body, length = protocol.answer(asked, served.name, served.version, head.classes, probabilities)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={protocol.HEADER_LENGTH: str(length)})


def _repository(reader: Reader) -> APIRouter:
    routes, service = APIRouter(prefix="/v2/repository"), reader.service

    @routes.post("/index", summary="All heads, served or not", **answers(200, body=JSON_BODY))
    async def index(request: Request) -> Response:
        only_ready = protocol.json_object(await reader.body(request)).get("ready", False)
        states = await asyncio.to_thread(service.heads.states)
        return JSONResponse(
            [
                {
                    "name": state.name,
                    "version": state.version or "",
                    "state": "READY" if state.version else "UNAVAILABLE",
                    "reason": state.reason,
                }
                for state in states
                if state.version or only_ready is not True
            ]
        )

    @routes.post("/models/{name}/load", summary="Load a head, or load it again", **answers(200, 409, body=JSON_BODY))
    async def load(request: Request, name: str) -> Response:
        parameters = protocol.json_object(await reader.body(request)).get("parameters")
        if parameters:
            raise RequestError(400, "unsupported", "a head is loaded from its directory; send no parameters")
        found = await asyncio.to_thread(service.heads.load, name)
        return JSONResponse({"name": found.name, "version": found.version, "state": "READY"})

    @routes.post("/models/{name}/unload", summary="Serve a head no more", **answers(200, body=JSON_BODY))
    async def unload(request: Request, name: str) -> Response:
        await reader.body(request)
        service.heads.unload(name)
        return JSONResponse({"name": name, "state": "UNAVAILABLE"})

    return routes
