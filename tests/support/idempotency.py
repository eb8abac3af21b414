"""Requests with an Idempotency-Key, and what they store."""

from typing import Any

import httpx2 as httpx
from fastapi import FastAPI
from sqlalchemy import text

from service.state import state_of
from tests.support.samples import LAMP

TORCH: dict[str, Any] = {"name": "Torch"}
PATHS = ["/items", "/items/bulk"]
BODIES: dict[str, Any] = {"/items": LAMP, "/items/bulk": {"items": [LAMP, TORCH]}}
OTHER_BODIES: dict[str, Any] = {"/items": TORCH, "/items/bulk": {"items": [TORCH, LAMP]}}
ROWS = {"/items": 1, "/items/bulk": 2}  # that each of those bodies creates


async def post(
    client: httpx.AsyncClient, path: str, key: str, body: Any = None, **headers: str
) -> httpx.Response:
    """Post `body`, by default the path's own in `BODIES`, with an Idempotency-Key.

    Args:
        headers: further headers, with an underscore for each hyphen.
    """
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(
        path, json=body or BODIES[path], headers={"Idempotency-Key": key, **names}
    )


async def post_raw(
    client: httpx.AsyncClient, path: str, content: str, *keys: bytes
) -> httpx.Response:
    """Post `content` with each of `keys` in a header of its own, byte for byte."""
    headers = [(b"content-type", b"application/json"), *((b"idempotency-key", key) for key in keys)]
    return await client.post(path, content=content, headers=headers)


def is_replay(answer: httpx.Response) -> bool:
    """Return whether this 201 repeats an earlier one."""
    assert answer.status_code == 201, answer.text
    assert answer.headers.get("idempotency-replayed") in ("true", None)
    return "idempotency-replayed" in answer.headers


async def stored(app: FastAPI) -> tuple[int, int]:
    """Return the numbers of stored items and of stored keys."""
    counts = "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM idempotency_keys)"
    async with state_of(app).engine.connect() as conn:
        items, keys = (await conn.execute(text(counts))).one()
    return items, keys
