"""Creating many items in one request."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from service.access.scopes import takes_scope
from service.crud import item as crud
from service.http.idempotency import idempotency_key, once
from service.http.openapi import operation_id, problems, takes_headers
from service.http.responses import json_response
from service.http.routing import BulkRoute
from service.schemas.item import ItemBulk, ItemsCreated
from service.state import state_of

router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=BulkRoute,
    generate_unique_id_function=operation_id,
)


@router.post(
    "/bulk",
    summary="Create many items",
    response_model=ItemsCreated,
    status_code=201,
    response_description="The stored items, in the order of the request",
    responses=problems(400, 409, 413, 422),
    openapi_extra=takes_scope("items:write") | takes_headers("Idempotency-Key"),
)
async def create_items(request: Request, body: ItemBulk) -> Response:
    """Store up to 1,000 items, all or none. With a 201 they are committed."""
    rows = [item.to_domain().to_dict() for item in body.items]

    async def create(session: AsyncSession) -> Response:
        return json_response({"items": await crud.create_many(session, rows)}, 201)

    if key := idempotency_key(request):
        return await once(request, key, rows, create)
    async with state_of(request).sessions.begin() as session:
        return await create(session)
