"""The form of every error response: application/problem+json (RFC 9457).

`service/errors.py` has the service's own errors. This module adds `HTTPException` (an unknown path
or method), slowapi's `RateLimitExceeded`, FastAPI's `RequestValidationError` and database faults.
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

from service import errors
from service.database.faults import FAULTS, is_data_fault, is_lost, log_fault, sqlstate
from service.database.revision import is_behind
from service.errors import Conflict, InvalidInput, NotFound, ServiceError, Unavailable
from service.observability.logs import request_id
from service.state import state_of

# Kind and title of errors that are not in `service/errors.py`, by status. The server and the proxy
# return 414 and 431.
OTHERS = {
    400: ("bad-request", "Bad request"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    414: ("uri-too-long", "URI too long"),
    429: ("too-many-requests", "Too many requests"),
    431: ("header-too-large", "Request header fields too large"),
}
OTHER = ("error", "Error")

# SQLSTATEs of a violated unique, foreign-key or exclusion constraint.
CONFLICTS = ("23503", "23505", "23P01")
UNDEFINED = ("42P01", "42703", "42704")  # SQLSTATEs of an unknown table, column or collation

# Replacements for Pydantic's messages that use Python terms.
MESSAGES = {
    "extra_forbidden": "There is no such parameter",
    "missing": "This is required",
    "model_attributes_type": "Input should be an object",
    "model_type": "Input should be an object",
}


def kinds() -> list[str]:
    """Return the `type` of every problem."""
    ours = {value.kind for value in vars(errors).values() if hasattr(value, "kind")}
    others = {kind for kind, _ in (*OTHERS.values(), OTHER)}
    return [f"urn:items-service:{kind}" for kind in sorted(ours | others)]


def add_error_handlers(app: FastAPI) -> None:
    """Make `app` return every error as a problem."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_defect)  # called by RequestMiddleware
    for fault in FAULTS:
        app.add_exception_handler(fault, _on_database_fault)


def problem(request: Request, error: HTTPException) -> Response:
    """Return the response for `error`."""
    if isinstance(error, ServiceError):
        kind, title = error.kind, error.title
    else:
        kind, title = OTHERS.get(error.status_code, OTHER)
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


async def _on_defect(request: Request, error: Exception) -> Response:
    return problem(request, ServiceError())


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        methods = _allowed(request) or (error.headers or {}).get("Allow", "GET, HEAD")
        error = HTTPException(405, "`Allow` lists the methods of this path", {"Allow": methods})
    elif error.status_code == 404 and not isinstance(error, ServiceError):
        error = NotFound("There is no such path")
    elif isinstance(error, RateLimitExceeded):
        error = HTTPException(429, f"The limit is {error.detail}", error.headers)
    return problem(request, error)


def _allowed(request: Request) -> str:
    """Return the methods of all routes of the path; Starlette names those of the first only."""
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
    """Return one of Pydantic's errors without the input, which may be secret or large."""
    source, *path = fault["loc"]
    detail = MESSAGES.get(fault["type"], fault["msg"])
    if source == "body":
        pointer = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
        return {"pointer": f"#{pointer}", "detail": detail}
    name = str(path[0]) if path else source
    return {"parameter": printable(name), "detail": detail}


def printable(name: str) -> str:
    """Return the start of a parameter's name, without bytes that are not UTF-8."""
    return name[:100].encode(errors="replace").decode()


async def _on_database_fault(request: Request, fault: Exception) -> Response:
    if sqlstate(fault) in UNDEFINED and not await _is_schema_behind(request):
        raise fault  # a defect of a statement
    log_fault(fault)
    return problem(request, database_error(fault))


async def _is_schema_behind(request: Request) -> bool:
    state = state_of(request)
    return is_behind(await state.find_revision(None), state.revisions)


def database_error(fault: Exception) -> ServiceError:
    """Return the error for a client whose request met `fault`, one of `FAULTS`."""
    state = sqlstate(fault) or ""
    if state in CONFLICTS:
        return Conflict()
    if is_data_fault(fault):
        return InvalidInput([{"pointer": "#", "detail": "The database rejected the data"}])
    if is_lost(fault):
        return Unavailable(
            "The connection to the database was lost; whether a write was done is not known"
        )
    if state in ("57014", "55P03"):
        return Unavailable("The database took too long; try again shortly")
    if state in UNDEFINED:
        return Unavailable("The database's schema is older than the service")
    if state == "42501":
        return Unavailable("The service's database role lacks a grant")
    # No state: the connection was refused, lost, or timed out.
    if state[:2] in ("", "08", "25", "28", "3D", "40", "53", "55", "57"):
        return Unavailable()
    return ServiceError()
