"""Items over HTTP."""

from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from service.access.limits import limiter, reads, writes
from service.access.scopes import require_scope, requires
from service.crud import item as crud
from service.domain.item import Item
from service.errors import NotFound, PreconditionFailed
from service.http.conditional import check_version, is_unmodified
from service.http.dependencies import ExpectedVersions, IdempotencyKey, SessionsOf
from service.http.idempotency import once
from service.http.openapi import operation_id, problems, sends, takes_headers, takes_merge_patch
from service.http.paging import decode_cursor, page_response
from service.http.responses import created_response, not_modified, versioned_response
from service.http.routing import StrictRoute
from service.routers.calls import Calls
from service.schemas.item import ItemCreate, ItemList, ItemRead, ItemReplace, ItemUpdate
from service.schemas.item_list import ItemListQuery
from service.schemas.types import Int64
from service.settings import Settings
from service.state import state_of


def create_calls(engine: AsyncEngine, settings: Settings) -> Calls[Item]:
    """Return the coalesced calls on items."""
    return Calls(
        engine,
        settings,
        get_many=crud.get_many,
        create_many=crud.create_many,
        list_pages=crud.list_pages,
        search_pages=crud.search_pages,
        is_expensive=crud.is_expensive,
    )


async def get_calls(request: Request) -> Calls[Item]:
    """Return the coalesced calls on items of the application."""
    return state_of(request).items


router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=StrictRoute,
    generate_unique_id_function=operation_id,
)

# OpenAPI links from an item to its operations.
LINKS = {
    name: {"operationId": name, "parameters": {"item_id": "$response.body#/id"}}
    for name in [f"{verb}_item" for verb in ("get", "replace", "update", "delete")]
}
NO_SUCH_ITEM = "There is no item with this id"

ItemCalls = Annotated[Calls[Item], Depends(get_calls)]
ItemId = Annotated[Int64, Path(description="The item's id", examples=[1])]


@router.post(
    "",
    summary="Create an item",
    response_model=ItemRead,
    status_code=201,
    response_description="The stored item; `Location` is its address",
    responses=problems(409, 413, 422)
    | {201: {"links": LINKS, **sends("ETag", "Location", "Idempotency-Replayed")}},
    dependencies=[requires("items:write")],
    openapi_extra=takes_headers("Idempotency-Key"),
)
@limiter.shared_limit(writes, scope="write")
async def create_item(
    request: Request, body: ItemCreate, calls: ItemCalls, key: IdempotencyKey
) -> Response:
    """Store an item. With a 201 it is committed."""
    row = body.to_domain().to_dict()
    if key is None:
        return created_response(request, await calls.create(row))

    async def create(session: AsyncSession) -> Response:
        return created_response(request, *await crud.create_many(session, [row]))

    return await once(request, key, row, create)


@router.get(
    "",
    summary="List items",
    response_model=ItemList,
    response_description="One page of items; `Link` has the pages around it",
    responses=problems(422) | {200: sends("Link")},
    dependencies=[requires("items:read")],
)
@limiter.shared_limit(reads, scope="read")
async def list_items(
    request: Request, query: Annotated[ItemListQuery, Query()], calls: ItemCalls
) -> Response:
    """List the matching items, page by page. A page past the end is empty."""
    asked = query.to_domain()
    if query.cursor is not None:
        asked.after = decode_cursor(query.cursor, asked, query.position)
    return page_response(request, asked, await calls.list(asked), query.deepest_page)


@router.get(
    "/{item_id:id}",
    summary="Read an item",
    response_model=ItemRead,
    response_description="The item; `ETag` is its version",
    responses=problems(404, 422)
    | {
        200: sends("ETag"),
        304: {"description": "The client has the current version", **sends("ETag")},
    },
    dependencies=[requires("items:read")],
    openapi_extra=takes_headers("If-None-Match"),
)
@limiter.shared_limit(reads, scope="read")
async def get_item(request: Request, item_id: ItemId, calls: ItemCalls) -> Response:
    """Read one item."""
    found = await calls.get(item_id)
    if found is None:
        raise NotFound(NO_SUCH_ITEM)
    return (
        not_modified(found) if is_unmodified(request, found.version) else versioned_response(found)
    )


@router.put(
    "/{item_id:id}",
    summary="Replace an item",
    response_model=ItemRead,
    response_description="The item after the change",
    responses=problems(404, 409, 412, 413, 422, 428) | {200: sends("ETag")},
    dependencies=[requires("items:write")],
    openapi_extra=takes_headers("If-Match"),
)
@limiter.shared_limit(writes, scope="write")
async def replace_item(
    item_id: ItemId,
    body: ItemReplace,
    versions: ExpectedVersions,
    sessions: SessionsOf,
    calls: ItemCalls,
) -> Response:
    """Replace an item's content; omitted fields return to their defaults."""
    values = body.to_domain().to_dict()
    (found,) = await sessions.run(crud.update_many, [item_id], values, versions)
    return versioned_response(found) if found else await _refuse(calls, item_id, versions)


@router.patch(
    "/{item_id:id}",
    summary="Change an item",
    response_model=ItemRead,
    response_description="The item after the change",
    responses=problems(404, 409, 412, 413, 415, 422, 428) | {200: sends("ETag")},
    dependencies=[requires("items:write")],
    openapi_extra=takes_headers("If-Match") | takes_merge_patch("ItemUpdate"),
)
@limiter.shared_limit(writes, scope="write")
async def update_item(
    item_id: ItemId,
    body: ItemUpdate,
    versions: ExpectedVersions,
    sessions: SessionsOf,
    calls: ItemCalls,
) -> Response:
    """Change the fields that are sent; null clears a nullable field."""
    if values := body.changes():
        (found,) = await sessions.run(crud.update_many, [item_id], values, versions)
    else:
        found = await calls.get(item_id)
        check_version(found, versions)
    return versioned_response(found) if found else await _refuse(calls, item_id, versions)


@router.delete(
    "/{item_id:id}",
    summary="Delete an item",
    status_code=204,
    response_description="The item is inactive, or deleted",
    responses=problems(404, 409, 412, 422, 428),
    dependencies=[requires("items:write")],
    openapi_extra=takes_headers("If-Match"),
)
@limiter.shared_limit(writes, scope="write")
async def delete_item(
    request: Request,
    item_id: ItemId,
    versions: ExpectedVersions,
    sessions: SessionsOf,
    calls: ItemCalls,
    permanent: Annotated[
        bool, Query(description="Delete it; requires the scope `items:delete`")
    ] = False,
) -> Response:
    """Deactivate an item, which PATCH can undo, or delete it permanently."""
    if permanent:
        require_scope(request, "items:delete")
    delete_many = crud.delete_many if permanent else crud.deactivate_many
    if item_id not in await sessions.run(delete_many, [item_id], versions):
        await _refuse(calls, item_id, versions)
    return Response(status_code=204)


async def _refuse(calls: Calls[Item], item_id: int, versions: list[int] | None) -> NoReturn:
    """Raise the reason why a write found nothing: no such id, or another version."""
    if versions is not None and await calls.get(item_id):
        raise PreconditionFailed
    raise NotFound(NO_SUCH_ITEM)
