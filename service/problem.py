"""The one form of every error on the wire: application/problem+json (RFC 9457).

The service's own errors come from `service/errors.py`. `HTTPException` (an unknown route or
method), slowapi's `RateLimitExceeded`, FastAPI's `RequestValidationError` and the database's faults
join them here.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.coalesce import QueueFull
from service.database import FAULTS, is_data_fault, is_lost, log_fault, sqlstate
from service.errors import InvalidInput, NotFound, ServiceError, Unavailable
from service.log import request_id
from service.overload import refusals

# Of the errors that are not ours, by status: the kind and the title.
OTHERS = {
    400: ("bad-request", "Bad request"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    429: ("too-many-requests", "Too many requests"),
}


# In place of Pydantic's own, which speak of Python.
MESSAGES = {
    "extra_forbidden": "There is no such parameter",
    "missing": "This is required",
    "model_attributes_type": "Input should be an object",
    "model_type": "Input should be an object",
}


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every error as a problem."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    for fault in FAULTS:
        app.add_exception_handler(fault, _on_database_fault)
    app.add_exception_handler(QueueFull, _on_queue_full)


def problem(request: Request, error: HTTPException) -> Response:
    """The answer that tells a client of `error`."""
    if isinstance(error, ServiceError):
        kind, title = error.kind, error.title
    else:
        kind, title = OTHERS.get(error.status_code, ("error", "Error"))
    content: dict[str, Any] = {
        "type": f"urn:items-service:{kind}",
        "title": title,
        "status": error.status_code,
        "detail": error.detail,
        "instance": quote(request.scope["path"], safe="/", errors="replace"),
        "request_id": request_id.get(),
    }
    if isinstance(error, InvalidInput):
        content["errors"] = error.errors
    return Response(
        orjson.dumps(content),
        error.status_code,
        dict(error.headers or {}),
        media_type="application/problem+json",
    )


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        methods = _allowed(request) or (error.headers or {}).get("Allow", "GET, HEAD")
        error = HTTPException(405, "`Allow` names the methods of this path", {"Allow": methods})
    elif error.status_code == 404 and not isinstance(error, ServiceError):
        error = NotFound("There is no such path")
    elif isinstance(error, RateLimitExceeded):
        error = HTTPException(429, f"More than {error.detail}; slow down", error.headers)
    return problem(request, error)


def _allowed(request: Request) -> str:
    """The methods of the path, of all its routes: Starlette names those of the first only."""
    methods = set()
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            methods.add(method)
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem(request, InvalidInput([_where_and_why(fault) for fault in error.errors()]))


def _where_and_why(fault: Mapping[str, Any]) -> dict[str, str]:
    """One of Pydantic's errors for a client: never with the input, which may be secret, or huge."""
    source, *path = fault["loc"]
    detail = MESSAGES.get(fault["type"], fault["msg"])
    if source == "body":
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
        return {"pointer": f"#{pointer}", "detail": detail}
    name = str(path[0]) if path else source
    return {"parameter": name[:100], "detail": detail}


async def _on_database_fault(request: Request, fault: Exception) -> Response:
    log_fault(fault)
    return problem(request, database_error(fault))


async def _on_queue_full(request: Request, fault: Exception) -> Response:
    error = Unavailable("More requests wait than the service can serve")
    error.headers = {"Retry-After": str(refusals.hold_off(request.scope))}
    return problem(request, error)


def database_error(fault: Exception) -> ServiceError:
    """What a fault of the database means for the client whose request met it.

    `fault` is SQLAlchemy's error or, from a connection that was never made, asyncpg's or the
    operating system's own.
    """
    state = sqlstate(fault) or ""
    if is_data_fault(fault):
        return InvalidInput([{"pointer": "#", "detail": "The database refused the data"}])
    if is_lost(fault):
        return Unavailable(
            "The connection to the database was lost; whether a write was done is not known"
        )
    if state in ("57014", "55P03"):
        return Unavailable("The database took too long; try again shortly")
    if state in ("42P01", "42703"):
        return Unavailable("The database's schema is older than the service")
    if state == "42501":
        return Unavailable("The database does not let the service do that: its role lacks a grant")
    # No state: the connection was refused, lost, or not to be had in time.
    if state[:2] in ("", "08", "25", "28", "3D", "40", "53", "55", "57"):
        return Unavailable()
    return ServiceError()
