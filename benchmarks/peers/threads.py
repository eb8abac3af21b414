"""The usual design with `def` endpoints: FastAPI runs them in its thread pool, on psycopg.

Each endpoint opens its own session. A session from a dependency would hold its connection while
the request waits for another thread. Under many requests, all threads then wait for connections
and all connections for threads, which is a deadlock.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import sessionmaker

from benchmarks.peers.common import (
    COUNT,
    POOL,
    THREADS,
    ItemIn,
    make_page,
    select_page,
    wire,
)
from service.models import Item
from service.settings import Settings, get_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application, on the database of the service's settings."""
    engine = create_engine(
        _psycopg_url(settings or get_settings()),
        connect_args={"application_name": "threads"},
        # A connection for each thread.
        **(POOL | {"max_overflow": THREADS - POOL["pool_size"]}),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan)
    app.state.sessions = sessionmaker(engine, expire_on_commit=False)
    wire(app, create_item, list_items, get_item)
    return app


def _psycopg_url(settings: Settings) -> URL:
    assert settings.database_url is not None
    url = make_url(settings.database_url.get_secret_value())
    return url.set(drivername="postgresql+psycopg")


def create_item(request: Request, body: ItemIn) -> Item:
    """Store an item; commit and refresh, as FastAPI's tutorial does."""
    item = Item(**body.model_dump())
    with request.app.state.sessions() as session:
        session.add(item)
        session.commit()
        session.refresh(item)
    return item


def list_items(
    request: Request,
    page: Annotated[int, Query(ge=1)] = 1,
    per_page: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """Return one page, with the exact count of all items."""
    with request.app.state.sessions() as session:
        total = session.scalar(COUNT)
        items = list(session.scalars(select_page(page, per_page)))
    return make_page(items, total or 0, page, per_page)


def get_item(request: Request, item_id: int) -> Item:
    """Return one item."""
    with request.app.state.sessions() as session:
        item: Item | None = session.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "Item not found")
    return item
