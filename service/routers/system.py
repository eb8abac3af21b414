"""Health and metrics, for people, load balancers and orchestrators."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import ConfigDict

from service import __version__
from service.database.revision import check_ready
from service.http.openapi import operation_id, problems
from service.observability.metrics import exposition
from service.schemas.base import Schema
from service.state import state_of

metrics_router = APIRouter()
router = APIRouter(
    prefix="/health",
    tags=["system"],
    generate_unique_id_function=operation_id,
)


class Health(Schema):
    """The service's state."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "ok"}})

    status: Literal["ok"]


class HealthOverview(Health):
    """The service's state at a glance."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "ok", "database": "ok", "version": __version__}}
    )

    database: Literal["ok"]
    version: str


@router.get(
    "",
    summary="Health at a glance",
    response_description="The service and its database work",
    responses=problems(takes_key=False),
)
async def health(request: Request) -> HealthOverview:
    """Return the service's state; 503 if its database does not answer."""
    await state_of(request).find_revision(None)
    return HealthOverview(status="ok", database="ok", version=__version__)


@router.get(
    "/live",
    summary="Whether the process is up",
    response_description="The process is up",
    responses=problems(takes_key=False),
)
async def live() -> Health:
    """Answer without asking the database, as a restart would not repair it."""
    return Health(status="ok")


@router.get(
    "/ready",
    summary="Whether to send traffic here",
    response_description="The service is ready",
    responses=problems(takes_key=False),
)
async def ready(request: Request) -> Health:
    """Return whether the database accepts writes, and has a schema that the code can use."""
    state = state_of(request)
    check_ready(await state.find_revision(None), state.revisions)
    return Health(status="ok")


@metrics_router.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """Return the metrics for Prometheus. In a thread, as it reads the files of all workers."""
    return Response(exposition(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
