"""The usual design with `def` endpoints: FastAPI runs them in its thread pool, on psycopg.

Each opens its session itself. As a dependency it would hold a connection while its request waits
for another thread; under many requests all threads then wait for connections, and all connections
for threads: the worker stands still.
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
    """The application, on the database of the service's settings."""
    engine = create_engine(
        _psycopg_url(settings or get_settings()),
        connect_args={"application_name": "threads"},
        # No thread waits for a connection.
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
    """Commit and refresh, as FastAPI's tutorial does."""
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
    """One page, and the exact count of all."""
    with request.app.state.sessions() as session:
        total = session.scalar(COUNT)
        items = list(session.scalars(select_page(page, per_page)))
    return make_page(items, total or 0, page, per_page)


def get_item(request: Request, item_id: int) -> Item:
    """One item by its id."""
    with request.app.state.sessions() as session:
        item: Item | None = session.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "Item not found")
    return item
