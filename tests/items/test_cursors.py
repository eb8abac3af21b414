"""Paging by cursor: the pages divide the list in every order, whoever writes meanwhile."""

import asyncio
import random
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from sqlalchemy import delete, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.domain.item import ItemQuery
from service.errors import InvalidInput
from service.http.paging import decode_cursor, encode_cursor
from service.models.item import items
from service.settings import Settings
from service.state import state_of
from tests.support.apps import tolerate_locks
from tests.support.lists import SORTS, STOCK, fetch, ids_of, in_order, row, store, store_names
from tests.support.problems import check_refused
from tests.support.waiting import TIMEOUT


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    settings.request_timeout = TIMEOUT
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture
async def client(client: httpx.AsyncClient, app: FastAPI) -> httpx.AsyncClient:
    """An HTTP client of a service that has the stock."""
    await store(app, STOCK)
    return client


async def walk(client: httpx.AsyncClient, **params: Any) -> AsyncIterator[Any]:
    """Yield the pages of a list, each by the cursor of the one before."""
    page = await fetch(client, **params)
    yield page
    while (cursor := page["next_cursor"]) is not None:
        page = await fetch(client, **params, cursor=cursor)
        assert page["page"] is None
        assert page["next_cursor"] != cursor  # the list would never end
        yield page


async def walked(client: httpx.AsyncClient, **params: Any) -> list[list[Any]]:
    """Return the items of each page."""
    return [page["items"] async for page in walk(client, **params)]


@pytest.mark.parametrize(
    ("sort", "params"),
    [
        *((sort, {}) for sort in SORTS),
        # Queries that run by other statements, or in a transaction of their own.
        ("-id", {"is_active": True}),
        ("price", {"count": "exact"}),
        ("-name", {"count": "none"}),
        ("updated_at", {"price_min": 5}),
    ],
    ids=str,
)
async def test_cursors_and_pages_divide_the_same_list(
    client: httpx.AsyncClient, sort: str, params: dict[str, Any]
) -> None:
    unsorted = (await fetch(client, per_page=100, **params))["items"]
    whole = await fetch(client, per_page=100, sort=sort, **params)

    assert whole["items"] == in_order(unsorted, sort)
    assert whole["next_cursor"] is None
    assert len(unsorted) > 10
    for size in (1, 7):
        parts = [whole["items"][start : start + size] for start in range(0, len(unsorted), size)]

        assert await walked(client, sort=sort, per_page=size, **params) == parts
        for number in (1, 2, len(parts)):
            page = await fetch(client, sort=sort, per_page=size, page=number, **params)

            assert page["items"] == parts[number - 1]
            assert (page["next_cursor"] is None) == (number == len(parts))


async def test_per_page_and_count_may_change_from_page_to_page(client: httpx.AsyncClient) -> None:
    whole = await fetch(client, sort="-price", per_page=100)
    page = await fetch(client, sort="-price", per_page=2)
    seen = page["items"]
    for size, count in [(2, "none"), (5, "exact"), (1, "capped"), (100, "none")]:
        params: dict[str, Any] = {"sort": "-price", "per_page": size, "count": count, "page": 1}
        page = await fetch(client, **params, cursor=page["next_cursor"])
        seen += page["items"]

        assert page["per_page"] == size
        assert page["total"] == (None if count == "none" else len(STOCK))

    assert seen == whole["items"]


async def test_a_cursor_holds_any_name(client: httpx.AsyncClient, app: FastAPI) -> None:
    names = [character * 255 for character in "\U0001f4a1\"\\'\x01\x1f\x7f/%+&=\u2028\U0010ffff"]
    await store_names(app, *names, *names)
    whole = (await fetch(client, sort="-name", per_page=100))["items"]

    assert await walked(client, sort="-name", per_page=1) == [[item] for item in whole]


async def churn(conn: AsyncConnection, random_: random.Random, transient: list[int]) -> None:
    """Delete some of the transient items, and insert others anywhere in the list."""
    gone = [transient.pop(random_.randrange(len(transient))) for _ in transient[:3]]
    await conn.execute(delete(items).where(items.c.id.in_(gone)))
    rows = [row(random_.randrange(1000)) | {"name": random_.choice("AMZaz")} for _ in range(4)]
    transient += (await conn.scalars(insert(items).returning(items.c.id), rows)).all()


@pytest.mark.parametrize("sort", ["id", "-name", "price", "-updated_at"])
async def test_no_item_is_missed_or_repeated_while_others_come_and_go(
    client: httpx.AsyncClient, app: FastAPI, sort: str
) -> None:
    random_ = random.Random(sort)
    stable = ids_of((await fetch(client, sort=sort, per_page=100))["items"])
    transient, seen = list[int](), list[int]()
    params: dict[str, Any] = {"sort": sort, "count": "none", "per_page": 5}
    async with state_of(app).engine.connect() as conn:
        await churn(conn, random_, transient)
        page = await fetch(client, **params)
        while page["next_cursor"] is not None and len(seen) == len(set(seen)):
            seen += ids_of(page["items"])
            # Delete even the item that the cursor was made of.
            if (last := seen[-1]) in transient:
                transient.remove(last)
                await conn.execute(delete(items).where(items.c.id == last))
            await churn(conn, random_, transient)
            page = await fetch(client, **params, cursor=page["next_cursor"])
        seen += ids_of(page["items"])

    assert len(seen) == len(set(seen))
    assert [id_ for id_ in seen if id_ in stable] == stable
    assert len(seen) > len(stable)


async def test_each_of_many_concurrent_lists_gets_its_own_answer(client: httpx.AsyncClient) -> None:
    alone: list[tuple[dict[str, Any], Any]] = []
    ways: list[dict[str, Any]] = [{}, {"count": "none"}, {"is_active": True}]
    for sort, way in product(["id", "-name", "price"], ways):
        params: dict[str, Any] = {"sort": sort, "per_page": 4, **way}
        alone.append((params | {"page": 2}, await fetch(client, **params, page=2)))
        async for page in walk(client, **params):
            alone.append((dict(params), page))
            params["cursor"] = page["next_cursor"]
    random.Random(0).shuffle(alone)

    together = await asyncio.gather(*(fetch(client, **params) for params, _ in alone))

    assert together == [page for _, page in alone]


async def test_a_cursor_excludes_a_page_but_the_first(client: httpx.AsyncClient) -> None:
    cursor = (await fetch(client, per_page=2))["next_cursor"]

    check_refused(await client.get("/items", params={"cursor": cursor, "page": 2}), "cursor")


async def test_a_cursor_of_another_list_is_refused(client: httpx.AsyncClient) -> None:
    time = "2025-12-31T00:00:00Z"
    lists: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {"sort": "-id"}),
        ({"sort": "created_at"}, {"sort": "updated_at"}),
        ({}, {"is_active": True}),
        ({"is_active": True}, {"is_active": False}),
        ({"q": "a"}, {"q": "A"}),
        ({}, {"q": ""}),
        ({"price_min": 0}, {"price_min": 0, "price_max": 10}),
        ({"created_after": time}, {"updated_after": time}),
    ]
    for of, on in lists:
        cursor = (await fetch(client, **of, per_page=1))["next_cursor"]

        assert cursor is not None
        check_refused(await client.get("/items", params={**on, "cursor": cursor}), "cursor")


async def test_a_cursor_does_not_depend_on_the_spelling_of_the_filters(
    client: httpx.AsyncClient,
) -> None:
    there = {"created_after": "2025-12-31T01:00:00+01:00", "is_active": "1"}
    here = {"is_active": "true", "created_after": "2025-12-31T00:00:00Z"}
    cursor = (await fetch(client, **there, per_page=1))["next_cursor"]

    assert (await fetch(client, **here, cursor=cursor))["items"]


LIST = ItemQuery(sort="name")
PLACE = TypeAdapter(tuple[str, int])


def tampered(cursor: str) -> Iterator[str]:
    """Yield the cursor with each character replaced or removed, cut short, and extended."""
    others = [*map(chr, range(256)), "\u0100", "\ud800"]
    for place in range(len(cursor)):
        yield cursor[:place]
        yield cursor[:place] + cursor[place + 1 :]
        for other in others:
            yield cursor[:place] + other + cursor[place:]
            yield cursor[:place] + other + cursor[place + 1 :]
    yield from (cursor + other for other in [*others, "==", "===", "=A", cursor])


def is_taken(cursor: str) -> bool:
    """Return whether it decodes."""
    try:
        decode_cursor(cursor, LIST, PLACE)
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize("length", range(3))  # one for each padding of base64
def test_a_cursor_decodes_to_its_place_unless_it_was_tampered_with(length: int) -> None:
    place = ("n" * length, 7)
    cursor = encode_cursor(LIST, place)

    assert quote(cursor, safe="") == cursor
    assert decode_cursor(cursor, LIST, PLACE) == place
    assert [other for other in {*tampered(cursor)} - {cursor} if is_taken(other)] == []


GARBAGE = [b"", b"\x00" * 8, b"\xff" * 40, b"[1,1]", b"12345678[1,1]", b"null", b"{" * 1000]
NO_CURSORS = ["", "x", "null", "0", "%00", "%ff", "%ED%A0%80", "%F0%9F%92%A1", "....", "===="]
NO_CURSORS += ["' OR 1", "A" * 2000, "A" * 30_000, "=" * 1999]
NO_CURSORS += [urlsafe_b64encode(data).decode() for data in GARBAGE]


async def test_what_is_no_cursor_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for cursor in NO_CURSORS:
        check_refused(await client.get(f"/items?cursor={cursor}"), "cursor")


NO_PLACES: list[Any] = [None, 5, "text", {}, [], [1], [1, None], [1, "a"], [1, 1.5], [1, 2**63]]
NO_PLACES += [[[1], 1], [{}, 1], ["a\x00", 1], [1, 1, 1]]
NO_KEYS: dict[str, list[Any]] = {
    "id": [None, "a", 1.5, 2**63, True, "1"],
    "name": [None, 5, True],
    "price": ["a", "", True, "NaN", "Infinity", "-Infinity", "sNaN", "1e999999999", "1e-99999"],
    "created_at": [None, "a", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", 0, "0", 1e300, True],
    "updated_at": ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"],
}


async def forged(client: httpx.AsyncClient, sort: str, place: Any, **params: Any) -> httpx.Response:
    """Return the answer to a cursor to `place`, with a checksum that is right."""
    cursor = encode_cursor(ItemQuery(sort=sort), place)
    return await client.get("/items", params={"sort": sort, "cursor": cursor, **params})


async def test_a_cursor_to_no_place_is_refused_though_its_checksum_is_right(
    client: httpx.AsyncClient,
) -> None:
    for sort, place in product(SORTS, NO_PLACES):
        check_refused(await forged(client, sort, place), "cursor")
    for sort, keys in NO_KEYS.items():
        for key in keys:
            check_refused(await forged(client, sort, [key, 1]), "cursor")


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        ("id", -(2**63)),
        ("id", 2**63 - 1),
        ("name", ""),
        ("name", "n" * 1000),
        ("price", "0.01"),
        ("price", None),
        ("created_at", "0001-01-01T00:00:00Z"),
        ("updated_at", "9999-12-31T23:59:59.999999Z"),
    ],
)
async def test_a_cursor_may_point_where_no_item_is(
    client: httpx.AsyncClient, sort: str, key: Any
) -> None:
    place = [key, key if sort == "id" else 0]
    whole = (await fetch(client, sort=sort, per_page=100))["items"]
    after = (await forged(client, sort, place, per_page=100)).json()["items"]
    before = (await forged(client, f"-{sort}", place, per_page=100)).json()["items"]

    assert before[::-1] + after == whole
