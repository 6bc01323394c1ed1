"""The routes of what the cache knows: similar images, thumbnails, and corrected labels."""

from __future__ import annotations

import asyncio
from functools import cache as computed_once
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from featurecache.images.decode import shrink
from featurecache.images.failures import Failure
from heads.report.thumbnails import SIDE, Originals, jpeg_of
from heads.service.answering import ImageFeatures, UnusableImage, found, unusable
from heads.service.corrections import LONGEST_LABEL, UnknownImageError
from heads.service.documentation import IMAGES, answers
from heads.service.errors import RequestError
from heads.service.native_routes import answer
from heads.service.training import default_tap
from heads.service.uploads import JSON_TYPE, images_of, parsed
from heads.similarity import SimilaritySearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featurecache.cache import FeatureCache
    from heads.service.corrections import Corrections
    from heads.service.reading import Reader

_MOST_SIMILAR = 1000

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="The SHA-256 of an image file.")]


class CorrectionBody(BaseModel):
    """A corrected label, as a client sends it."""

    model_config = ConfigDict(extra="ignore")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    label: str | None = Field(max_length=LONGEST_LABEL)


def cache_routes(reader: Reader, corrections: Corrections | None) -> APIRouter:
    """Return the routes; without a cache, which has ``corrections``, they answer 409."""
    routes, service = APIRouter(), reader.service

    def cache() -> FeatureCache:
        if service.cache is None:
            raise RequestError(409, "no_cache", "there is no cache; start the service with --cache CACHE.h5")
        return service.cache

    def table() -> Corrections:
        cache()
        assert corrections is not None  # noqa: S101 - there is a cache
        return corrections

    @computed_once
    def search(tap: str) -> SimilaritySearch:
        return SimilaritySearch(cache(), tap)

    @computed_once
    def originals() -> Originals:
        return Originals.from_cache(cache())

    @routes.post("/similar", summary="The most similar images of the cache", **answers(200, 422, **IMAGES))
    async def similar(
        request: Request,
        k: Annotated[int, Query(ge=1, le=_MOST_SIMILAR, description="Images per image.")] = 9,
        tap: Annotated[str | None, Query(description="Compare the features of this tap.")] = None,
    ) -> Response:
        chosen = cache().require_tap(tap or default_tap(service))
        images = await reader.features(request)
        results = await reader.searched(request, _similar, images, search(chosen), k)
        return answer(images, {"recipe": service.recipe.fingerprint, "tap": chosen, "results": results})

    @routes.get("/cached/{sha256}", summary="A small JPEG of an image of the cache", **answers(200))
    async def cached(request: Request, sha256: Digest) -> Response:
        opened = cache()

        def picture() -> bytes | None:
            row = service.cached.row_of(sha256) if service.cached is not None else None
            if row is not None:
                return originals().thumbnail(opened.paths[row]).jpeg
            data = table().stored_content(sha256)
            pixels = None if data is None else shrink(data, SIDE)
            return None if pixels is None or isinstance(pixels, Failure) else jpeg_of(pixels)

        jpeg = await reader.in_thread(request, picture)
        if jpeg is None:
            raise RequestError(404, "unknown_image", "the cache has no such image, or its file cannot be read any more")
        return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    @routes.get("/corrections", summary="The labels that people have corrected", **answers(200))
    async def all_corrections() -> Response:
        listed = await asyncio.to_thread(table().all)
        return JSONResponse({"corrections": [item._asdict() for item in listed]})

    @routes.post(
        "/corrections",
        summary="Correct the label of images",
        **answers(200, 422, body=IMAGES["body"] | {JSON_TYPE: {"schema": CorrectionBody.model_json_schema()}}),
    )
    async def correct(
        request: Request,
        label: Annotated[
            str | None, Query(max_length=LONGEST_LABEL, description="The class of images that are sent as bytes.")
        ] = None,
    ) -> Response:
        change = table().correct
        content_type = request.headers.get("content-type", "")
        body = await reader.body(request)
        if content_type.partition(";")[0].strip().lower() == JSON_TYPE:
            given = parsed(CorrectionBody, body)
            try:
                count = await asyncio.to_thread(change, given.sha256, given.label)
            except UnknownImageError:
                message = "neither the cache nor the corrections have this image; send its bytes, with ?label="
                raise RequestError(404, "unknown_image", message) from None
            return JSONResponse({"corrections": count})
        if label is None:
            raise RequestError(422, "no_label", "images that are sent as bytes need their class: add ?label=")
        files = await reader.in_thread(request, images_of, body, content_type)
        images = await reader.features_of(request, files)
        bad = [image for image in images if isinstance(image, UnusableImage)]
        if bad:
            return JSONResponse({"results": [unusable(image) for image in bad]}, 422)
        for image, file in zip(images, files, strict=True):
            count = await asyncio.to_thread(change, image.sha256, label, file.data)
        return JSONResponse({"corrections": count})

    return routes


def _similar(images: Sequence[ImageFeatures | UnusableImage], search: SimilaritySearch, k: int) -> list[dict[str, Any]]:
    """Return the most similar images of each image, ready for JSON."""
    usable = [image for image in images if isinstance(image, ImageFeatures)]
    queries = np.stack([image.rows[search.tap] for image in usable]) if usable else None
    neighbours = iter([] if queries is None else search.nearest(queries, k))
    return [
        unusable(image)
        if isinstance(image, UnusableImage)
        else found(image) | {"neighbours": [neighbour.to_dict() for neighbour in next(neighbours)]}
        for image in images
    ]
