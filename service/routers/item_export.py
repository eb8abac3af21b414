"""All matching items in one streamed response."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from service.access.limits import limiter, reads
from service.access.scopes import requires
from service.crud import item as crud
from service.domain.item import Item
from service.http.export import EXPORTED, export
from service.http.openapi import operation_id, problems
from service.http.routing import StrictRoute
from service.schemas.item_list import ItemExportQuery

router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=StrictRoute,
    generate_unique_id_function=operation_id,
)


@router.get(
    "/export",
    summary="Export items",
    response_class=StreamingResponse,
    response_description="All by id: one JSON object a line, or CSV with a header line",
    responses=problems(406, 422) | EXPORTED,
    dependencies=[requires("items:read")],
)
@limiter.shared_limit(reads, scope="read")
async def export_items(request: Request, query: Annotated[ItemExportQuery, Query()]) -> Response:
    """Send all matching items in one consistent snapshot."""
    wanted = query.to_filter()
    return await export(
        request, "items", Item, query.format, lambda conn: crud.export_items(conn, wanted)
    )
