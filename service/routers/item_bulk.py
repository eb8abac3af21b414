"""Creating many items in one request."""

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from service.access.limits import limiter, writes
from service.access.scopes import requires
from service.crud import item as crud
from service.http.dependencies import IdempotencyKey, SessionsOf
from service.http.idempotency import once
from service.http.openapi import operation_id, problems, sends, takes_headers
from service.http.responses import json_response
from service.http.routing import BulkRoute
from service.schemas.item import ItemBulk, ItemsCreated

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
    responses=problems(409, 413, 422) | {201: sends("Idempotency-Replayed")},
    dependencies=[requires("items:write")],
    openapi_extra=takes_headers("Idempotency-Key"),
)
@limiter.shared_limit(writes, scope="write")
async def create_items(
    request: Request, body: ItemBulk, key: IdempotencyKey, sessions: SessionsOf
) -> Response:
    """Store up to 1,000 items, all or none. With a 201 they are committed."""
    rows = [item.to_domain().to_dict() for item in body.items]

    async def create(session: AsyncSession) -> Response:
        return json_response({"items": await crud.create_many(session, rows)}, 201)

    if key is None:
        return await sessions.transaction(create)
    return await once(request, key, rows, create)
