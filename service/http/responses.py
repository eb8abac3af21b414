"""Responses that orjson makes from dataclasses, without the validation of a response model."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import quote

import orjson
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from service.http.body import SMALL
from service.http.conditional import Versioned, entity_tag
from service.http.deadline import until_read
from service.state import state_of


class Stored(Versioned, Protocol):
    """A stored row of any resource."""

    id: int


# A response depends on the API key. Clients revalidate each time; a 304 is inexpensive.
CACHING = ((b"cache-control", b"private, no-cache"), (b"vary", b"Authorization"))
JSON_HEADERS = ((b"content-type", b"application/json"), *CACHING)


class Answer(Response):
    """A response with raw headers; Starlette would build them for each response."""

    def __init__(self, body: bytes, status_code: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status_code
        self.raw_headers = headers
        self.background = None


class LargeAnswer(Answer):
    """A response that counts in the memory budget until its client has received it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            QueueFull: clients have too much left to read.
        """
        budget = state_of(scope["app"]).response_budget
        budget.take(len(self.body))
        try:
            await super().__call__(scope, receive, send)
            await until_read(scope)
        finally:
            budget.left += len(self.body)


def json_response(
    content: Any, status_code: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """Return `content`, of dataclasses and JSON types, as application/json."""
    body = json_bytes(content)
    length = (b"content-length", str(len(body)).encode())
    make = Answer if len(body) <= SMALL else LargeAnswer
    return make(body, status_code, [length, *JSON_HEADERS, *headers])


def versioned_response(
    content: Versioned, status_code: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """Return `content` as `json_response` does, with its ETag."""
    return json_response(content, status_code, [_etag(content), *headers])


def created_response(request: Request, content: Stored) -> Response:
    """Return a 201 with `content`, whose address is below that of the request."""
    location = f"{address(request)}/{content.id}"
    return versioned_response(content, 201, [(b"location", location.encode())])


def address(request: Request) -> str:
    """Return the request's path as its client sees it, with the prefix that a gateway removes."""
    root_path, path = request.scope.get("root_path", ""), request.scope["path"]
    if not root_path:
        return _quoted(path)
    return _quoted(path if path.startswith(f"{root_path}/") else root_path + path)


@lru_cache(256)  # of a few paths most requests are made
def _quoted(path: str) -> str:
    return quote(path)


def not_modified(content: Versioned) -> Response:
    """Return a 304 for a client that has this version of `content`."""
    return Answer(b"", 304, [_etag(content), *CACHING])


def _etag(content: Versioned) -> tuple[bytes, bytes]:
    return b"etag", entity_tag(content.version).encode()


def json_bytes(content: Any, option: int = 0) -> bytes:
    """Return `content` as JSON; `option` is orjson's."""
    # orjson has no Decimal. A double holds 15 digits exactly, NUMERIC(12,2) has 12.
    return orjson.dumps(content, default=float, option=option | orjson.OPT_UTC_Z)
