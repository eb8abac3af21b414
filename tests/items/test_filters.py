"""Filters of the list over HTTP."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from tests.support.apps import execute
from tests.support.lists import SORTS, fetch, ids_of, in_order, store, store_names
from tests.support.locks import BLOCKED, until_true
from tests.support.problems import check_refused
from tests.support.processes import connection

MICROSECOND = timedelta(microseconds=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = [NOON + step * MICROSECOND for step in (-3_600_000_000, -2, -1, 0, 1, 2, 86_400_000_000)]
MAX_PRICE = Decimal("9999999999.99")
PRICES = [
    *(Decimal(price) for price in ("0.00", "0.01", "4.99", "5.00", "5.01", "29.90")),
    MAX_PRICE,
]
PRICE_FILTERS = ["price_min", "price_max"]
TIME_FILTERS = ["created_after", "created_before", "updated_after"]
FILTERS = PRICE_FILTERS + TIME_FILTERS


def random_items() -> list[dict[str, Any]]:
    """Return items of random content, the same at each call."""
    random_ = random.Random(7)
    return [
        {
            "id": id_,
            "name": "".join(random_.choices("abAB%", k=3)) + "!",
            "price": random_.choice([None, *PRICES]),
            "is_active": random_.random() < 0.6,
            "created_at": random_.choice(TIMES),
            "updated_at": random_.choice(TIMES),
        }
        for id_ in random_.sample(range(1, 1000), 80)
    ]


STOCK = random_items()


@pytest.fixture
async def shop(app: FastAPI, client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Return a client of a service that has the stock."""
    await store(app, STOCK)
    return client


def matches(item: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether `item` passes the filters, as they are documented."""
    price, created, updated = item["price"], item["created_at"], item["updated_at"]
    checks: dict[str, Callable[[Any], bool]] = {
        "is_active": lambda value: item["is_active"] is value,
        "q": lambda value: value.lower() in item["name"].lower(),
        "price_min": lambda value: price is not None and price >= value,
        "price_max": lambda value: price is not None and price <= value,
        "created_after": lambda value: created > value,
        "created_before": lambda value: created < value,
        "updated_after": lambda value: updated > value,
    }
    return all(checks[name](value) for name, value in wanted.items())


def expected(wanted: dict[str, Any], sort: str = "id") -> list[int]:
    """Return the ids of the items of the stock that pass the filters, in order."""
    return ids_of(in_order((item for item in STOCK if matches(item, wanted)), sort))


async def found(client: httpx.AsyncClient, **params: Any) -> list[int]:
    """Return the ids of the items that the service finds."""
    return ids_of((await fetch(client, **params, per_page=100))["items"])


def random_filters(random_: random.Random) -> dict[str, Any]:
    """Return some of the filters, whose bounds are often those that an item has."""
    offset = timezone(timedelta(minutes=random_.choice([0, 330, -720, 840])))
    filters = {
        "is_active": random_.choice([True, False]),
        "q": "".join(random_.choices("abAB%_!", k=random_.choice([0, 1, 1, 2]))),
        **{name: random_.choice(PRICES) for name in PRICE_FILTERS},
        **{name: random_.choice(TIMES).astimezone(offset) for name in TIME_FILTERS},
    }
    return {name: value for name, value in filters.items() if random_.random() < 0.3}


async def test_filters_combine_in_every_order_on_every_page(shop: httpx.AsyncClient) -> None:
    random_ = random.Random(1)
    for sort, count, size in product(SORTS, ["capped", "exact"], [9, 30]):
        wanted = random_filters(random_)
        params: dict[str, Any] = {"sort": sort, "count": count, "per_page": size}
        for name, value in wanted.items():
            params[name] = value.isoformat() if isinstance(value, datetime) else value
        ids = expected(wanted, sort)
        page = await fetch(shop, **params)
        second = await fetch(shop, **params, page=2)
        seen = ids_of(page["items"])
        while page["next_cursor"] and len(seen) <= len(ids):
            page = await fetch(shop, **params, cursor=page["next_cursor"])
            seen += ids_of(page["items"])

        assert page["total"] == len(ids), params
        assert seen == ids, params
        assert ids_of(second["items"]) == ids[size : 2 * size], params


async def test_bounds_that_exclude_each_other_find_nothing(shop: httpx.AsyncClient) -> None:
    noon = NOON.isoformat()
    assert await found(shop, price_min="5.01", price_max="5") == []
    assert await found(shop, created_after=noon, created_before=noon) == []


async def test_a_change_moves_an_item_between_the_filters(client: httpx.AsyncClient) -> None:
    item = (await client.post("/items", json={"name": "Lamp", "price": 5})).json()
    since = {"updated_after": item["updated_at"]}
    assert await found(client, **since) == []

    await client.patch(f"/items/{item['id']}", json={"price": None})

    assert await found(client, **since) == [item["id"]]
    assert await found(client, created_after=item["created_at"]) == []
    assert await found(client, price_min=0) == []


async def test_a_poll_with_the_documented_overlap_misses_no_change(
    app: FastAPI, client: httpx.AsyncClient, database_url: str
) -> None:
    await store_names(app, "A", "B")
    first, second = await found(client)
    async with connection(database_url) as admin:
        await admin.execute("BEGIN")
        await admin.execute("SELECT FROM items WHERE id = $1 FOR UPDATE", first)
        waiting = asyncio.create_task(client.patch(f"/items/{first}", json={"price": 1}))
        await until_true(app, f"{BLOCKED} = 1")
        await client.patch(f"/items/{second}", json={"price": 2})
        (seen,) = (await fetch(client, price_min=2))["items"]
        await admin.execute("COMMIT")
    changed = (await waiting).json()

    assert changed["updated_at"] < seen["updated_at"]  # though it was committed later
    overlap = datetime.fromisoformat(seen["updated_at"]) - timedelta(seconds=10)
    assert await found(client, updated_after=overlap.isoformat(), sort="updated_at") == [
        first,
        second,
    ]


async def test_the_time_of_a_change_never_goes_back(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    await store_names(app, "A")
    (item,) = await found(client)
    await execute(app, "UPDATE items SET updated_at = now() + interval '1 hour'")  # another clock
    ahead = (await client.get(f"/items/{item}")).json()["updated_at"]

    assert (await client.patch(f"/items/{item}", json={"price": 1})).json()["updated_at"] == ahead
    await client.delete(f"/items/{item}")
    assert (await client.get(f"/items/{item}")).json()["updated_at"] == ahead


BAD_PRICES = ["", "1e3", "NaN", "Infinity", "-1", "+1", "%2B1", "-0.01", "0.001", "29.999"]
BAD_PRICES += ["10000000000", "9999999999.991", "1" * 5000, "1_000", "1,5", "1.", ".5", "0x1"]
BAD_PRICES += ["%201", "1%0A", "1%00", "%ff", "%ED%A0%80", "five", "null", "%D9%A1"]
BAD_TIMES = ["", "now", "null", "0", "1795000000", "NaN", "2026", "2026-11-22", "09:30:00Z"]
BAD_TIMES += ["2026-11-22T09:30:00", "2026-11-22T09:30Z", "20261122T093000Z"]
BAD_TIMES += ["2026-W47-7T09:30:00Z", "2026-326T09:30:00Z", "2026-02-29T00:00:00Z"]
BAD_TIMES += ["2026-13-01T00:00:00Z", "2026-11-22T24:00:00Z", "2016-12-31T23:59:60Z"]
BAD_TIMES += ["0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-2026-11-22T09:30:00Z"]
BAD_TIMES += ["0001-01-01T00:00:00%2B00:01", "9999-12-31T23:59:59-00:01"]
BAD_TIMES += ["2026-11-22T09:30:00+01:00", "2026-11-22T09:30:00%2B24:00"]
BAD_TIMES += ["2026-11-22T09:30:00%2B0100", "2026-11-22T09:30:00.Z", "2026-11-22T09:30:00,5Z"]
BAD_TIMES += ["2026-11-22T09:30:00Z%00", "2026-11-22T09:30:00Z%0A", "%202026-11-22T09:30:00Z"]
BAD_TIMES += ["2026-11-22_09:30:00Z", "%D9%A2026-11-22T09:30:00Z", "%ff", "1" * 5000]


@pytest.mark.parametrize("name", FILTERS)
async def test_a_bad_bound_is_refused_by_name(client: httpx.AsyncClient, name: str) -> None:
    for value in BAD_PRICES if name in PRICE_FILTERS else BAD_TIMES:
        check_refused(await client.get(f"/items?{name}={value}"), name)


async def test_every_bad_bound_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("/items", params=dict.fromkeys(FILTERS, "x"))

    check_refused(answer, *FILTERS)


# Bounds that items of the stock have, and some beyond.
SPELLINGS_OF_PRICES = {
    price: Decimal(price)
    for price in ("0", "0.0", "0.01", "4.99", "5", "5.0", "5.00", "005", "29.90", "9999999999.99")
}
SPELLINGS_OF_TIMES = {
    "2026-03-01T12:00:00Z": NOON,
    "2026-03-01t12:00:00z": NOON,
    "2026-03-01 12:00:00-00:00": NOON,
    "2026-03-02T02:00:00.0+14:00": NOON,
    "2026-02-28T12:01:00-23:59": NOON,
    "2026-03-01T12:00:00.000001Z": NOON + MICROSECOND,
    "2026-03-01T11:59:59.999999Z": NOON - MICROSECOND,
    "0001-01-01T23:59:00+23:59": datetime.min.replace(tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime.max.replace(tzinfo=UTC),
    # The database keeps microseconds: what is finer does not count.
    f"2026-03-01T12:00:00.{'0' * 500}9Z": NOON,
}


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        *((name, SPELLINGS_OF_PRICES) for name in PRICE_FILTERS),
        *((name, SPELLINGS_OF_TIMES) for name in TIME_FILTERS),
    ],
)
async def test_a_bound_is_exact_however_it_is_spelled(
    shop: httpx.AsyncClient, name: str, spellings: dict[str, Any]
) -> None:
    """A price includes its bound and never matches NULL; a time excludes its bound."""
    for spelled, bound in spellings.items():
        assert await found(shop, **{name: spelled}) == expected({name: bound}), spelled
