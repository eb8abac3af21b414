"""The service with one thing undone, or done another way; it is made by its own `create_app`.

What has to be replaced is patched for as long as the process lives. `patch` refuses a name that is
not there, so that a variant whose ground has moved fails at start-up, and never measures nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import structlog
from fastapi import FastAPI
from fastapi.routing import request_response
from fastapi_offline import FastAPIOffline
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.routing import BaseRoute

from benchmarks.variants import sessions
from service.database.calls import coalesce
from service.database.coalescer import Coalescer
from service.http.routing import StrictRoute
from service.main import create_app
from service.routers import item, system
from service.settings import Settings

Call = TypeVar("Call")
Answer = TypeVar("Answer")
Function = Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]]


def included() -> FastAPI:
    """Undoes: routes are given to the application, not to `include_router`."""
    app = create_app()
    ours = (*item.router.routes, *system.router.routes)
    others = [route for route in app.routes if route not in ours]
    assert len(others) + len(ours) == len(app.routes)
    app.router.routes.clear()
    app.include_router(item.router)
    app.include_router(system.router)
    app.router.routes.extend(others)
    return app


def called_by_fastapi() -> FastAPI:
    """Undoes: operations with plain parameters are called directly."""
    app = create_app()
    app.router.routes[:] = map(_with_fastapis_handler, app.routes)
    return app


def _with_fastapis_handler(route: BaseRoute) -> BaseRoute:
    if isinstance(route, StrictRoute):
        route = copy(route)
        route.app = request_response(route.get_route_handler())
    return route


def logged_through_structlog() -> FastAPI:
    """Undoes: the line about a request does without structlog's processors."""
    patch("service.main.request_logger", _structlogs_logger).start()
    return create_app()


def _structlogs_logger(settings: Settings) -> Callable[..., None]:
    return partial(structlog.get_logger("service.observability.logs").info, "request")


def with_telemetry() -> FastAPI:
    """Undoes: FastAPI does not ask with each request whether somebody traces it."""
    patch("service.main.FastAPIOffline", _traceable).start()
    return create_app()


def _traceable(**options: Any) -> FastAPI:
    del options["telemetry"]
    return FastAPIOffline(**options)


def sets_in_flight(most: int) -> FastAPI:
    """As many sets of each kind under way at once."""

    def bounded(
        engine: AsyncEngine,
        settings: Settings,
        function: "Function[Call, Answer]",
        **options: Any,
    ) -> Coalescer[Call, Answer]:
        return coalesce(engine, settings, function, **(options | {"max_sets": most}))

    patch("service.routers.item.coalesce", bounded).start()
    return create_app()


def each_alone() -> FastAPI:
    """Undoes: calls are joined to sets."""
    patch("service.routers.item.coalesce", _uncoalesced).start()
    return create_app()


def _uncoalesced(
    engine: AsyncEngine, settings: Settings, function: "Function[Call, Answer]", **options: Any
) -> Callable[[Call], Awaitable[Answer]]:
    async def run(call: Call) -> Answer:
        async with engine.connect() as conn:
            (answer,) = await function(conn, [call])
        return answer

    return run


def with_sessions() -> FastAPI:
    """Undoes: the hot operations hold no connection of their own."""
    app = create_app()
    app.router.routes[:0] = sessions.router.routes
    return app
