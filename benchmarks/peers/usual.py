"""The usual FastAPI design of the popular templates: a session for each request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.peers.common import (
    COUNT,
    POOL,
    ItemIn,
    make_page,
    select_page,
    wire,
)
from service.models import Item
from service.settings import Settings, get_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application, on the database of the service's settings."""
    engine = create_async_engine(
        (settings or get_settings()).engine_url,
        connect_args={"server_settings": {"application_name": "usual"}},
        **POOL,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    wire(app, create_item, list_items, get_item)
    return app


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session for this request."""
    async with request.app.state.sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


async def create_item(body: ItemIn, session: Session) -> Item:
    """Store an item; commit and refresh, as FastAPI's tutorial does."""
    item = Item(**body.model_dump())
    session.add(item)
    await session.commit()
    await session.refresh(item)
    return item


async def list_items(
    session: Session,
    page: Annotated[int, Query(ge=1)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Return one page, with the exact count of all items."""
    total = await session.scalar(COUNT)
    items = await session.scalars(select_page(page, per_page))
    return make_page(list(items), total or 0, page, per_page)


async def get_item(item_id: int, session: Session) -> Item:
    """Return one item."""
    item = await session.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "Item not found")
    return item
