"""The service with one thing undone; each application comes from the service's `create_app`.

What is replaced stays patched as long as the process lives. `patch` fails if a name is missing, so
a variant whose target was renamed fails at start-up.
"""

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from fastapi import FastAPI
from fastapi.routing import request_response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.routing import BaseRoute

from service.database.calls import coalesce
from service.database.coalescer import Coalescer
from service.http.routing import StrictRoute
from service.main import create_app
from service.routers import item
from service.settings import Settings

Call = TypeVar("Call")
Answer = TypeVar("Answer")
Function = Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]]


def included() -> FastAPI:
    """Return the service with its routes given to `include_router`."""
    app = create_app()
    app.router.routes[:] = [route for route in app.routes if not isinstance(route, StrictRoute)]
    app.include_router(item.router)
    return app


def called_by_fastapi() -> FastAPI:
    """Return the service with every operation called by FastAPI's own handler."""
    app = create_app()
    app.router.routes[:] = map(_with_fastapis_handler, app.routes)
    return app


def _with_fastapis_handler(route: BaseRoute) -> BaseRoute:
    if isinstance(route, StrictRoute):
        route = copy(route)
        route.app = request_response(route.get_route_handler())
    return route


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
