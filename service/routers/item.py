"""Items over HTTP. The slice to copy: this file, and `item.py` in each of the other layers."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from service.crud import item as crud
from service.database import coalesce, get_db
from service.domain.item import Item, ItemPage, ItemQuery
from service.errors import NotFound
from service.openapi import operation_id, problems
from service.responses import json_response
from service.routing import StrictRoute
from service.schemas.base import Int64
from service.schemas.item import (
    ItemCreate,
    ItemList,
    ItemListQuery,
    ItemRead,
    ItemReplace,
    ItemUpdate,
)
from service.settings import Settings


class ItemCalls:
    """The calls on items that are coalesced: those that are many, and each cheap.

    All in all they hold at most 6 connections of a worker's pool. One set of a kind at a time is
    fastest, as it grows the more; those of lists differ in cost, so a second may overtake.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        most = settings.queue_limit
        self.get = coalesce(engine, crud.get_many, max_sets=1, max_waiting=most, repeatable=True)
        self.create = coalesce(engine, crud.create_many, max_sets=1, max_waiting=most)
        self.list_cheap = coalesce(
            engine, crud.list_pages, shape=crud.shape, max_sets=2, max_waiting=most, repeatable=True
        )
        # Beside the others, and one by one: nobody who reads by id waits for a search.
        self.list_dear = coalesce(
            engine, crud.list_pages, max_set=1, max_sets=2, max_waiting=most, repeatable=True
        )

    async def list(self, query: ItemQuery) -> ItemPage:
        """One page of the items."""
        return await (self.list_dear if crud.is_dear(query) else self.list_cheap)(query)


router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=StrictRoute,
    generate_unique_id_function=operation_id,
)

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]
ItemId = Annotated[Int64, Path(description="The item's id", examples=[1])]


@router.post(
    "",
    summary="Create an item",
    response_model=ItemRead,
    status_code=201,
    response_description="The item, stored; `Location` is its address",
    responses=problems(413, 422),
)
async def create_item(request: Request, body: ItemCreate) -> Response:
    """Store an item. When the answer is 201 it is committed."""
    item = await _calls(request).create(body.to_domain().to_dict())
    return json_response(item, 201, {"Location": f"/items/{item.id}"})


@router.get(
    "",
    summary="List items",
    response_model=ItemList,
    response_description="One page of the items, and how many there are",
    responses=problems(422),
)
async def list_items(request: Request, query: Annotated[ItemListQuery, Query()]) -> Response:
    """List the items that match, page by page. A page past the end is empty."""
    page = await _calls(request).list(query.to_domain())
    return json_response(
        {
            "items": page.items,
            "page": query.page,
            "per_page": query.per_page,
            "total": page.total,
            "total_relation": "gte" if page.total_capped else "eq",
            "pages": -(-page.total // query.per_page),
        }
    )


@router.get(
    "/{item_id}",
    summary="Read an item",
    response_model=ItemRead,
    response_description="The item",
    responses=problems(404, 422),
)
async def get_item(request: Request, item_id: ItemId) -> Response:
    """Read one item, active or not."""
    return json_response(_found(await _calls(request).get(item_id)))


@router.put(
    "/{item_id}",
    summary="Replace an item",
    response_model=ItemRead,
    response_description="The item as it is now",
    responses=problems(404, 413, 422),
)
async def replace_item(item_id: ItemId, body: ItemReplace, session: Session) -> Response:
    """Replace an item's content in full: what is left out returns to its default."""
    (item,) = await crud.update_many(session, [item_id], body.to_domain().to_dict())
    return json_response(_found(item))


@router.patch(
    "/{item_id}",
    summary="Change an item",
    response_model=ItemRead,
    response_description="The item as it is now",
    responses=problems(404, 413, 422),
)
async def update_item(item_id: ItemId, body: ItemUpdate, session: Session) -> Response:
    """Change what is sent and nothing else; null clears `description` or `price`."""
    if changes := body.changes():
        (item,) = await crud.update_many(session, [item_id], changes)
    else:
        (item,) = await crud.get_many(session, [item_id])
    return json_response(_found(item))


@router.delete(
    "/{item_id}",
    summary="Delete an item",
    status_code=204,
    response_description="It is inactive, or gone",
    responses=problems(404, 422),
)
async def delete_item(
    item_id: ItemId,
    session: Session,
    permanent: Annotated[bool, Query(description="Remove it for good")] = False,
) -> Response:
    """Make an item inactive, which PATCH can undo, or remove it for good."""
    delete_many = crud.delete_many if permanent else crud.deactivate_many
    if item_id not in await delete_many(session, [item_id]):
        raise NotFound("There is no such item")
    return Response(status_code=204)


def _calls(request: Request) -> ItemCalls:
    calls: ItemCalls = request.app.state.items
    return calls


def _found(item: Item | None) -> Item:
    if item is None:
        raise NotFound("There is no such item")
    return item
