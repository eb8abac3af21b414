"""The layers below the service: each application adds one layer to the previous one.

All return the same bytes, as large as an item, and have no database.
"""

from types import SimpleNamespace

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.dispatch import Dispatcher
from service.http.middleware import RequestMiddleware
from service.http.routing import StrictRoute
from service.observability.logs import configure_logging, request_logger
from service.settings import get_settings

# As large as an item of the table that the load runs on.
BODY = (
    b'{"id":1,"name":"Amber Bench 1","description":"An amber bench","price":29.99,'
    b'"is_active":true,"version":1,"created_at":"2026-11-22T09:30:00.123456+00:00",'
    b'"updated_at":"2026-11-22T09:30:00.123456+00:00"}'
)
HEADERS = [(b"content-length", b"%d" % len(BODY)), (b"content-type", b"application/json")]


def bare() -> ASGIApp:
    """Return an ASGI application without any framework."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # the server then assumes that there is no lifespan
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": BODY})

    return app


def starlette_route() -> Starlette:
    """Return an application with a Starlette route."""

    async def endpoint(request: Request) -> Response:
        return Response(BODY, media_type="application/json")

    return Starlette(routes=[Route("/items/{item_id}", endpoint)])


def fastapi_route() -> FastAPI:
    """Return an application with a FastAPI route, which validates its path parameter."""
    return _app(APIRoute)


def dispatched() -> FastAPI:
    """Return the same, called directly as the service's operations are."""
    app = _app(StrictRoute)
    app.router.middleware_stack = Dispatcher(app)
    return app


def with_middleware() -> FastAPI:
    """Return `dispatched` behind the service's middleware; LOG_LEVEL decides about its log."""
    return _behind_middleware(dispatched())


def no_op() -> FastAPI:
    """Return `fastapi_route` behind the service's middleware and log."""
    return _behind_middleware(fastapi_route())


def _app(route_class: type[APIRoute]) -> FastAPI:
    router = APIRouter(route_class=route_class)

    @router.get("/items/{item_id}")
    async def get_item(item_id: int) -> Response:
        return Response(BODY, media_type="application/json")

    app = FastAPI(routes=router.routes)
    app.state.service = SimpleNamespace(identify=None)
    return app


def _behind_middleware(app: FastAPI) -> FastAPI:
    settings = get_settings()
    configure_logging(settings)
    app.add_middleware(
        RequestMiddleware, log_request=request_logger(settings), timeout=settings.request_timeout
    )
    return app
