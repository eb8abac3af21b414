"""What the usual designs share: schemas, statements, middleware and log."""

import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from math import ceil
from time import perf_counter
from typing import Any
from uuid import uuid4

import structlog
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, func, select
from starlette.middleware.base import BaseHTTPMiddleware

from service.models import Item

logger = structlog.get_logger("access")

POOL: dict[str, Any] = {"pool_size": 20, "max_overflow": 10, "pool_pre_ping": True}
# Maximum number of connections of a worker.
POOL_SIZE: int = POOL["pool_size"] + POOL["max_overflow"]
THREADS = 40  # that FastAPI runs in a worker
COUNT = select(func.count()).select_from(Item)


class ItemIn(BaseModel):
    """An item as a client sends it."""

    name: str = Field(min_length=1, max_length=255)
    description: str | None = Field(None, max_length=10_000)
    price: Decimal | None = Field(None, ge=0, max_digits=12, decimal_places=2)
    is_active: bool = True


class ItemOut(BaseModel):
    """A stored item. FastAPI serialises it, as it deprecates ORJSONResponse."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    description: str | None
    price: float | None
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime


class PageOut(BaseModel):
    """One page of items, and the number of all items."""

    items: list[ItemOut]
    page: int
    per_page: int
    total: int
    pages: int


def select_page(page: int, per_page: int) -> Select[Item]:
    """Return the statement for one page; the first page is 1."""
    return select(Item).order_by(Item.id).limit(per_page).offset((page - 1) * per_page)


def make_page(items: list[Item], total: int, page: int, per_page: int) -> dict[str, Any]:
    """Return the mapping that FastAPI validates as a PageOut."""
    return {
        "items": items,
        "page": page,
        "per_page": per_page,
        "total": total,
        "pages": ceil(total / per_page),
    }


class AccessLogMiddleware(BaseHTTPMiddleware):
    """Gives each request an id and a line in the log."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Serve one request."""
        request_id = request.headers.get("X-Request-ID") or str(uuid4())
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = perf_counter()
        response = await call_next(request)
        logger.info(
            "request",
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            duration_ms=round((perf_counter() - started) * 1000, 3),
            client=request.client.host if request.client else None,
        )
        response.headers["X-Request-ID"] = request_id
        return response


def wire(
    app: FastAPI,
    create_item: Callable[..., Any],
    list_items: Callable[..., Any],
    get_item: Callable[..., Any],
) -> None:
    """Add the routes to `app`, and log each request as a line of JSON on stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    app.add_middleware(AccessLogMiddleware)
    app.post("/items", status_code=201, response_model=ItemOut)(create_item)
    app.get("/items", response_model=PageOut)(list_items)
    app.get("/items/{item_id}", response_model=ItemOut)(get_item)
