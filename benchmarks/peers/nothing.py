"""A FastAPI route that does nothing, behind the service's own middleware and log: the ceiling."""

from fastapi import FastAPI, Response

from service.http.middleware import RequestMiddleware
from service.observability.logs import configure_logging, request_logger
from service.settings import Settings, get_settings

# As large as an item of the table that the load runs on.
BODY = (
    b'{"id":1,"name":"Amber Bench 1","description":"An amber bench","price":29.99,'
    b'"is_active":true,"version":1,"created_at":"2026-11-22T09:30:00.123456+00:00",'
    b'"updated_at":"2026-11-22T09:30:00.123456+00:00"}'
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; it has no database."""
    settings = settings or get_settings()
    configure_logging(settings)
    app = FastAPI()
    app.add_middleware(
        RequestMiddleware,
        log_request=request_logger(settings),
        timeout=settings.request_timeout,
    )
    app.get("/items/{item_id}")(get_item)
    return app


async def get_item(item_id: int) -> Response:
    """Always the same bytes."""
    return Response(BODY, media_type="application/json")
