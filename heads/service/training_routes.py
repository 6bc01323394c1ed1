"""The routes of trainings: what can be trained, starting one, watching and cancelling it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from heads.catalog import HEADS
from heads.errors import ParameterError
from heads.families.keras_head import is_keras_head
from heads.service.documentation import answers
from heads.service.training import Jobs, TrainingRequest, default_tap, matrix_of
from heads.service.uploads import JSON_TYPE, parsed
from heads.training import DEFAULT_HEAD, Training

if TYPE_CHECKING:
    from heads.service.corrections import Corrections
    from heads.service.reading import Reader


class TrainingBody(BaseModel):
    """What a client asks to train; see `TrainingRequest`."""

    model_config = ConfigDict(extra="forbid")

    family: str | None = None
    tap: str | None = None
    parameters: dict[str, bool | int | float | str | list[int]] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0, lt=2**32)
    holdout: float | None = Field(default=None, ge=0, le=0.9)
    corrections: bool = True
    rows: list[list[float]] | str | None = None
    labels: list[str | None] | None = None


def training_routes(reader: Reader, corrections: Corrections | None) -> APIRouter:
    """Return the routes."""
    routes, service = APIRouter(), reader.service
    jobs = Jobs(service, corrections)
    service.closing.append(jobs.close)

    @routes.get("/training", summary="Families and taps that heads can be trained of", **answers(200))
    async def training() -> Response:
        families = [{"name": spec.name, "summary": spec.summary} for spec in HEADS.values()]
        return JSONResponse(
            {
                "families": families,
                "taps": dict(service.recipe.taps if service.cache is None else service.cache.taps),
                "family": DEFAULT_HEAD,
                "tap": default_tap(service),
            }
        )

    @routes.post(
        "/heads/{name}/train",
        status_code=202,
        summary="Train a head in the background, and serve it",
        **answers(202),
        openapi_extra={"requestBody": {"content": {JSON_TYPE: {"schema": TrainingBody.model_json_schema()}}}},
    )
    async def train(
        request: Request, name: Annotated[str, Path(description="The head to exchange, or the name of a new one.")]
    ) -> Response:
        body = await reader.body(request)
        given = await reader.in_thread(request, parsed, TrainingBody, body or b"{}")
        served = service.heads.snapshot().get(name)
        family = given.family or (served.head.name if served else None)
        if family and is_keras_head(family):  # neither a client nor a file of a head imports a module
            raise ParameterError(
                f"family: {family} is code of your own, which a service does not run; train it with featurecache train"
            )
        training = Training.asked(
            family,
            params=given.parameters,
            seed=given.seed,
            holdout=given.holdout,
        )
        rows = None if given.rows is None else await reader.in_thread(request, matrix_of, given.rows)
        job = jobs.submit(name, TrainingRequest(training, given.tap, given.corrections, rows, given.labels))
        return JSONResponse(job.to_dict(), 202)

    @routes.get("/jobs", summary="Trainings", **answers(200))
    async def all_jobs() -> Response:
        return JSONResponse({"jobs": [job.to_dict() for job in jobs.all()]})

    @routes.get("/jobs/{job}", summary="A training", **answers(200))
    async def one_job(job: str) -> Response:
        return JSONResponse(jobs.get(job).to_dict())

    @routes.delete("/jobs/{job}", summary="Cancel a training", **answers(200))
    async def cancel(job: str) -> Response:
        return JSONResponse(jobs.cancel(job).to_dict())

    return routes
