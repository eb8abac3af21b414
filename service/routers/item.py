"""Items over HTTP. The slice to copy: this file, and `item.py` in each of the other layers."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from sqlalchemy.ext.asyncio import AsyncSession

from service.crud import item as crud
from service.database import get_db
from service.domain.item import Item
from service.errors import NotFound
from service.openapi import problems
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

router = APIRouter(prefix="/items", tags=["items"], route_class=StrictRoute)

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
async def create_item(body: ItemCreate, session: Session) -> Response:
    """Store an item. When the answer is 201 it is committed."""
    (item,) = await crud.create_many(session, [body.to_domain().to_dict()])
    return json_response(item, 201, {"Location": f"/items/{item.id}"})


@router.get(
    "",
    summary="List items",
    response_model=ItemList,
    response_description="One page of the items, and how many there are",
    responses=problems(422),
)
async def list_items(query: Annotated[ItemListQuery, Query()], session: Session) -> Response:
    """List the items that match, page by page. A page past the end is empty."""
    (page,) = await crud.list_pages(session, [query.to_domain()])
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
async def get_item(item_id: ItemId, session: Session) -> Response:
    """Read one item, active or not."""
    (item,) = await crud.get_many(session, [item_id])
    return json_response(_found(item))


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


def _found(item: Item | None) -> Item:
    if item is None:
        raise NotFound("There is no such item")
    return item
