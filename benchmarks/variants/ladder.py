"""The steps below the service: each application has what the one before has, and one thing more.

All answer with the same bytes, as large as an item, and have no database.
"""

from types import SimpleNamespace

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.peers.nothing import BODY, get_item
from service.http.middleware import RequestMiddleware
from service.http.routing import StrictRoute
from service.observability.logs import configure_logging, request_logger
from service.settings import get_settings

HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"content-type", b"application/json")]


def bare() -> ASGIApp:
    """What the server costs, without any framework."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # the server takes it that there is no lifespan
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})

    return app


def starlette_route() -> Starlette:
    """A route of Starlette's, which reads nothing."""

    async def endpoint(request: Request) -> Response:
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/items/{item_id}", endpoint)])


def fastapi_route() -> FastAPI:
    """A route of FastAPI's, with its path parameter validated."""
    return _app(APIRoute)


def strict_route() -> FastAPI:
    """The same through the service's route class."""
    return _app(StrictRoute)


def surrounded() -> FastAPI:
    """That behind the service's middleware; LOG_LEVEL says whether requests are logged."""
    settings = get_settings()
    configure_logging(settings)
    app = strict_route()
    app.add_middleware(
        RequestMiddleware,
        log_request=request_logger(settings),
        timeout=settings.request_timeout,
    )
    return app


def _app(route_class: type[APIRoute]) -> FastAPI:
    router = APIRouter(route_class=route_class)
    router.get("/items/{item_id}")(get_item)
    app = FastAPI(routes=router.routes)
    app.state.service = SimpleNamespace(gate=None)
    return app
