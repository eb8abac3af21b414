"""Answers made by orjson from dataclasses: FastAPI's own way validates what we have just read."""

from collections.abc import Iterable
from typing import Any

import orjson
from fastapi import Response

from service.http.conditional import Versioned, entity_tag

# What a client may see depends on its key. It asks anew each time, which a 304 makes cheap.
CACHING = ((b"cache-control", b"private, no-cache"), (b"vary", b"Authorization"))
JSON_HEADERS = ((b"content-type", b"application/json"), *CACHING)


class Answer(Response):
    """A response whose headers are given as they are sent: Starlette makes them anew each time."""

    def __init__(self, body: bytes, status_code: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.body = body
        self.status_code = status_code
        self.raw_headers = headers
        self.background = None


def json_response(
    content: Any, status_code: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """`content`, of dataclasses and what JSON has, as application/json."""
    body = json_bytes(content)
    length = (b"content-length", str(len(body)).encode())
    return Answer(body, status_code, [length, *JSON_HEADERS, *headers])


def versioned_response(
    content: Versioned, status_code: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """`content` as `json_response` has it, with its ETag."""
    return json_response(content, status_code, [_etag(content), *headers])


def not_modified(content: Versioned) -> Response:
    """What tells a client that it has this version of `content` already."""
    return Answer(b"", 304, [_etag(content), *CACHING])


def _etag(content: Versioned) -> tuple[bytes, bytes]:
    return b"etag", entity_tag(content.version).encode()


def json_bytes(content: Any, option: int = 0) -> bytes:
    """`content` as JSON; `option` is orjson's."""
    # orjson knows all of it but Decimal. A double holds 15 digits exactly, NUMERIC(12,2) has 12.
    return orjson.dumps(content, default=float, option=option)
