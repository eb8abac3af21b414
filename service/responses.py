"""Answers made by orjson from dataclasses: FastAPI's own way validates what we have just read."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from fastapi import Response


def json_response(
    content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content`, of dataclasses and what JSON has, as application/json."""
    body = orjson.dumps(content, default=_number)
    return Response(body, status_code, headers, media_type="application/json")


def _number(value: Any) -> float:
    # A double holds 15 digits exactly, NUMERIC(12,2) has 12.
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
