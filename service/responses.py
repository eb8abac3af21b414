"""Answers made by orjson from dataclasses: FastAPI's own way validates what we have just read."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from fastapi import Response

from service.conditional import Versioned, entity_tag

# What a client may see depends on its key. It asks anew each time, which a 304 makes cheap.
CACHING = [(b"cache-control", b"private, no-cache"), (b"vary", b"Authorization")]


def json_response(
    content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content`, of dataclasses and what JSON has, as application/json."""
    response = Response(json_bytes(content), status_code, headers, media_type="application/json")
    response.raw_headers += CACHING
    return response


def versioned_response(
    content: Versioned, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as `json_response` has it, with its ETag."""
    response = json_response(content, status_code, headers)
    response.raw_headers.append((b"etag", entity_tag(content.version).encode()))
    return response


def not_modified(content: Versioned) -> Response:
    """What tells a client that it has this version of `content` already."""
    response = Response(status_code=304, headers={"ETag": entity_tag(content.version)})
    response.raw_headers += CACHING
    return response


def json_bytes(content: Any, option: int = 0) -> bytes:
    """`content` as JSON; `option` is orjson's."""
    return orjson.dumps(content, default=_number, option=option)


def _number(value: Any) -> float:
    # A double holds 15 digits exactly, NUMERIC(12,2) has 12.
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
