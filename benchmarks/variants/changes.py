"""The service with one thing undone; each application comes from the service's `create_app`.

What is replaced stays patched as long as the process lives. `patch` fails if a name is missing, so
a variant whose target was renamed fails at start-up.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database.calls import coalesce
from service.database.coalescer import Coalescer
from service.main import create_app
from service.settings import Settings

Call = TypeVar("Call")
Answer = TypeVar("Answer")
Function = Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]]


def called_by_fastapi() -> FastAPI:
    """Return the service with every operation found and called by FastAPI's router."""
    patch("service.main.Dispatcher", lambda app: app.router.app).start()
    return create_app()


def logged_through_structlog() -> FastAPI:
    """Return the service with its access log passing structlog's processors."""
    patch("service.main.request_logger", _structlogs_logger).start()
    return create_app()


def _structlogs_logger(settings: Settings) -> Callable[..., None]:
    return partial(structlog.get_logger("service.observability.logs").info, "request")


def sets_in_flight(maximum: int) -> FastAPI:
    """Return the service with up to `maximum` sets of each kind in flight."""

    def bounded(
        engine: AsyncEngine,
        settings: Settings,
        function: "Function[Call, Answer]",
        **options: Any,
    ) -> Coalescer[Call, Answer]:
        return coalesce(engine, settings, function, **(options | {"max_sets": maximum}))

    patch("service.routers.calls.coalesce", bounded).start()
    return create_app()


def not_coalesced() -> FastAPI:
    """Return the service with a statement and a connection for each call."""
    patch("service.routers.calls.coalesce", _uncoalesced).start()
    return create_app()


def _uncoalesced(
    engine: AsyncEngine, settings: Settings, function: "Function[Call, Answer]", **options: Any
) -> Callable[[Call], Awaitable[Answer]]:
    async def run(call: Call) -> Answer:
        async with engine.connect() as conn:
            (answer,) = await function(conn, [call])
        return answer

    return run
