"""The routes of this project's own: predictions, features and the list of heads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from heads.service.answering import ImageFeatures, UnusableImage, found, predictions, unusable, work_of
from heads.service.documentation import IMAGES, answers
from heads.service.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from heads.service.reading import Reader

NPY = "application/x-npy"
_KINDS = ("application/json", NPY)


def native_routes(reader: Reader) -> APIRouter:
    """Return the routes."""
    routes, service = APIRouter(), reader.service

    @routes.post("/predict", summary="Classes and probabilities of images", **answers(200, **IMAGES))
    async def predict(
        request: Request,
        head: Annotated[list[str] | None, Query(description="Only these heads.")] = None,
        top: Annotated[int | None, Query(ge=1, description="Only so many classes of each head.")] = None,
    ) -> Response:
        served = service.heads.snapshot()
        if head:
            served = {name: service.heads.get(name) for name in head}
        elif not served:
            raise RequestError(503, "no_head", "no head is served; train one, or load one")
        images = await reader.features(request)
        work = work_of(served.values(), len(images))

        def answered() -> Response:
            results = predictions(images, served, service.recipe, top=top)
            return answer(images, {"recipe": service.fingerprint, "results": results})

        return await reader.computed(request, work, answered)

    @routes.post(
        "/features", summary="Feature vectors of images", **answers(200, 406, kinds=["application/json", NPY], **IMAGES)
    )
    async def features(
        request: Request,
        tap: Annotated[list[str] | None, Query(description="Only these taps.")] = None,
    ) -> Response:
        taps = tap or list(service.recipe.taps)
        for name in taps:
            if name not in service.recipe.taps:
                raise RequestError(
                    404, "unknown_name", f"there is no tap of this name; known: {', '.join(service.recipe.taps)}"
                )
        as_npy = NPY in request.headers.get("accept", "")
        if as_npy and len(taps) > 1:
            raise RequestError(406, "one_tap", f"an npy file holds one tap; add ?tap=, one of {', '.join(taps)}")
        images = await reader.features(request)
        if as_npy and not any(isinstance(image, UnusableImage) for image in images):
            return Response(await reader.in_thread(request, _npy, images, taps[0]), media_type=NPY)

        def answered() -> Response:
            results = _feature_lists(images, taps)
            if as_npy:
                return JSONResponse({"results": results}, 422)
            return answer(images, {"recipe": service.fingerprint, "results": results})

        return await reader.in_thread(request, answered)

    @routes.get("/heads", summary="The heads that are served", **answers(200))
    async def heads() -> Response:
        served = service.heads.snapshot().values()
        cache, faults = service.cache, service.faults()
        return JSONResponse(
            {
                "heads": [
                    {
                        "name": one.name,
                        "version": one.version,
                        "family": one.head.name,
                        "tap": one.head.tap,
                        "classes": list(one.head.classes),
                        "trained_rows": one.head.training.n_train,
                        "recipe": one.head.recipe.fingerprint,
                    }
                    for one in served
                ],
                "recipe": service.recipe.to_dict() | {"fingerprint": service.fingerprint},
                "cache": None
                if cache is None
                else {"rows": len(cache), "classes": list(cache.classes), "labelled": sum(cache.class_counts.values())},
                "ready": not faults,
                "faults": faults,
            }
        )

    return routes


def answer(images: Sequence[ImageFeatures | UnusableImage], body: dict[str, Any]) -> JSONResponse:
    """Return an answer about images: 422 if none of them can be used."""
    nothing = all(isinstance(image, UnusableImage) for image in images)
    return JSONResponse(body, 422 if nothing else 200)


def _feature_lists(images: Sequence[ImageFeatures | UnusableImage], taps: Sequence[str]) -> list[dict[str, Any]]:
    return [
        unusable(image)
        if isinstance(image, UnusableImage)
        else found(image) | {"features": {tap: image.rows[tap].tolist() for tap in taps}}
        for image in images
    ]


def _npy(images: Sequence[ImageFeatures], tap: str) -> bytes:
    """Return the features of a tap, shape (n, d), as a file of NumPy."""
    out = io.BytesIO()
    np.save(out, np.stack([image.rows[tap] for image in images]), allow_pickle=False)
    return out.getvalue()
