"""The hot operations as they are without the coalescer: a session each, in a transaction."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from sqlalchemy.ext.asyncio import AsyncSession

from service.crud import item as crud
from service.errors import NotFound
from service.http.dependencies import get_db
from service.http.responses import versioned_response
from service.http.routing import StrictRoute
from service.routers.item import ItemId
from service.schemas.item import ItemCreate

router = APIRouter(prefix="/items", route_class=StrictRoute)

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]


@router.post("", status_code=201)
async def create_item(body: ItemCreate, session: Session) -> Response:
    """Store an item."""
    (item,) = await crud.create_many(session, [body.to_domain().to_dict()])
    return versioned_response(item, 201, [(b"location", f"/items/{item.id}".encode())])


@router.get("/{item_id}")
async def get_item(item_id: ItemId, session: Session) -> Response:
    """Read one item."""
    (item,) = await crud.get_many(session, [item_id])
    if item is None:
        raise NotFound("There is no such item")
    return versioned_response(item)
