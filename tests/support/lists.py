"""Lists over HTTP: rows to store, pages to fetch, and the order that they must have."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI
from sqlalchemy import insert

from service.database.engine import transactional
from service.models.item import items
from service.state import state_of
from tests.support.apps import execute

KEYS = ["id", "name", "price", "created_at", "updated_at"]
SORTS = [f"{minus}{key}" for key in KEYS for minus in ("", "-")]
LAMPS = "\U0001f4a1" * 255  # the longest name
NAMES = ["Torch", "torch", "Lamp", "Lamp", 'say "hi"', "it's", "back\\slash", "two\nlines", "100%"]
NAMES += ["Ärger", "ärger", "a\u0308rger", "Zürich", "台灯", "лампа", "\uffff", "\U0010ffff"]
NAMES += ["\x01", LAMPS, LAMPS[:-1], LAMPS[:-1] + "\U0001f4a2", "NULL", "~", "Lamp", "Infinity"]
PRICES = [None, Decimal("5.00"), Decimal("0.00"), Decimal("9999999999.99"), Decimal("5.00"), None]
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DEFAULTS: dict[str, Any] = {"description": None, "price": None, "is_active": True}


def row(number: int) -> dict[str, Any]:
    """Return the values of an item; each column repeats with a different period."""
    return {
        "name": NAMES[number % len(NAMES)],
        "price": PRICES[number % len(PRICES)],
        "is_active": number % 4 != 0,
        "created_at": NEW_YEAR + number % 5 * MICROSECOND,
        "updated_at": NEW_YEAR - number % 7 * MICROSECOND,
    }


STOCK = [row(number) for number in range(len(NAMES))]


async def store(app: FastAPI, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert `rows`, which must all set the same columns; `DEFAULTS` fills the others."""
    async with transactional(state_of(app).engine).begin() as conn:
        await conn.execute(insert(items), [{**DEFAULTS, **row} for row in rows])


async def store_names(app: FastAPI, *names: str) -> None:
    """Insert an item of each name."""
    await store(app, ({"name": name} for name in names))


async def store_many(app: FastAPI, number: int) -> None:
    """Insert `number` items named "Thing"."""
    await execute(app, f"INSERT INTO items (name) SELECT 'Thing' FROM generate_series(1, {number})")


async def fetch(client: httpx.AsyncClient, **params: Any) -> Any:
    """Return a page of the list."""
    answer = await client.get("/items", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids_of(listed: Iterable[Any]) -> list[int]:
    """Return the ids of the items."""
    return [item["id"] for item in listed]


def in_order(listed: Iterable[Any], sort: str) -> list[Any]:
    """Sort items as the service must: by code point, NULL last, ties by id; a minus reverses."""
    key = sort.removeprefix("-")

    def value(item: Any) -> Any:
        # A time without a fraction is shorter, so times are not compared as text.
        found = item[key]
        is_text = isinstance(found, str) and key.endswith("_at")
        return datetime.fromisoformat(found) if is_text else found

    return sorted(
        listed,
        key=lambda item: (item[key] is None, value(item) or 0, item["id"]),
        reverse=sort.startswith("-"),
    )
