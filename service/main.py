"""The application: everything is wired here, explicitly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from service import __version__, telemetry
from service.database import Sessions, close_engine, coalesce, create_engine
from service.gate import create_gate
from service.hosts import AllowedHosts
from service.log import configure_logging, request_logger
from service.metrics import RequestStatistics, sample
from service.middleware import RequestMiddleware
from service.openapi import complete_openapi
from service.overload import Room
from service.problem import add_error_handlers
from service.revision import find_revisions, load_revisions
from service.routers import item, item_bulk, item_export, system
from service.settings import Settings, get_settings

logger = structlog.get_logger(__name__)

BODIES = 8  # of the largest, for which a worker has room at once

DESCRIPTION = """\
A microservice for items on PostgreSQL. Every error is a problem (RFC 9457) whose `type` names its
kind; `X-Request-ID` names the request, in the answer and in the log.
"""

# What scripts of other web sites may send, and read.
REQUEST_HEADERS = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match"),
    "X-Request-ID",
)
ANSWER_HEADERS = (
    *("ETag", "Idempotency-Replayed", "Link", "Location", "RateLimit", "RateLimit-Policy"),
    *("Retry-After", "X-Request-ID"),
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, from `settings` or from the process's environment.

    Raises:
        SystemExit: the environment's settings are wrong.
    """
    settings = settings or get_settings()
    configure_logging(settings)
    options: dict[str, Any] = {
        "title": "Items",
        "version": __version__,
        "description": DESCRIPTION,
        "lifespan": lifespan,
        "redirect_slashes": False,
        "telemetry": telemetry.options(),
        "redoc_url": None,
        # Given here, and not to include_router, whose routes are matched twice with each request;
        # and before the documentation's own.
        # The most used come first: each that does not match costs a little.
        "routes": [
            *item.router.routes,
            *item_bulk.router.routes,
            *item_export.router.routes,
            *system.router.routes,
            *(system.metrics_router.routes if settings.metrics_enabled else ()),
        ],
    }
    if settings.docs_enabled:
        app = FastAPIOffline(**options)
    else:
        app = FastAPI(**options, openapi_url=None)
    app.state.settings = settings
    app.state.statistics = RequestStatistics() if settings.metrics_enabled else None
    add_middleware(app, settings)
    add_error_handlers(app)
    complete_openapi(app)
    if not telemetry.is_on():
        _leave_out_empty_layers(app)
    return app


def add_middleware(app: FastAPI, settings: Settings) -> None:
    """Surround `app`; what comes last here is outermost."""
    if settings.allowed_hosts:
        app.add_middleware(AllowedHosts, hosts=settings.allowed_hosts)
    app.add_middleware(
        RequestMiddleware,
        log_request=request_logger(settings),
        timeout=settings.request_timeout,
        statistics=app.state.statistics,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=REQUEST_HEADERS,
            expose_headers=ANSWER_HEADERS,
        )


def _leave_out_empty_layers(app: FastAPI) -> None:
    """Begin with our own middleware: what FastAPI puts around it would answer errors that ours has
    answered, and only costs time."""
    stack: Any = app.build_middleware_stack()
    while not isinstance(stack, RequestMiddleware | CORSMiddleware):
        stack = stack.app
    app.middleware_stack = stack


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """What the process holds while it serves. It starts without a database; readiness tells."""
    settings = app.state.settings
    exporting = telemetry.start()
    app.state.engine = create_engine(settings)
    app.state.sessions = Sessions(app.state.engine, settings)
    app.state.items = item.ItemCalls(app.state.engine, settings)
    app.state.exports = item_export.Exports(app.state.engine, settings.max_exports)
    app.state.gate = create_gate(settings)
    app.state.room = Room(BODIES * settings.max_bulk_bytes)
    app.state.revisions = load_revisions()
    app.state.revision = coalesce(
        app.state.engine, settings, find_revisions, max_sets=1, repeatable=True
    )
    sampler = None
    if statistics := app.state.statistics:
        sampler = asyncio.create_task(sample(statistics, app.state.engine))
    logger.info("started", version=__version__)
    yield
    if sampler:
        sampler.cancel()
    await close_engine(app.state.engine)
    await telemetry.end(exporting)
    if statistics:
        statistics.hand_on()
    logger.info("stopped")
