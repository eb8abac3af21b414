"""Paging over HTTP: cursors, the links around a page, and how lists are counted."""

import asyncio
import random
import re
import string
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import delete, event, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database import transactional
from service.domain.item import ItemFilter
from service.errors import InvalidInput
from service.main import create_app
from service.models.item import items
from service.paging import cursor_links, decode_cursor, encode_cursor, page_links
from service.schemas import item_list as schemas
from service.settings import Settings
from tests.support.apps import serving, tolerate_locks

KEYS = ["id", "name", "price", "created_at", "updated_at"]
SORTS = [f"{minus}{key}" for key in KEYS for minus in ("", "-")]
LAMPS = "\U0001f4a1" * 255
NAMES = ["Torch", "torch", "Lamp", "Lamp", 'say "hi"', "it's", "back\\slash", "two\nlines", "100%"]
NAMES += [
    "Ärger",
    "ärger",
    "a\u0308rger",
    "Zürich",
    "台灯",
    "лампа",
    "\uffff",
    "\U0010ffff",
    "\x01",
]
NAMES += [LAMPS, LAMPS[:-1], LAMPS[:-1] + "\U0001f4a2", "NULL", "~", "Lamp", "Infinity"]
PRICES = [None, Decimal("5.00"), Decimal("0.00"), Decimal("9999999999.99"), Decimal("5.00"), None]
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def row(number: int) -> dict[str, Any]:
    """The item of this number: each key repeats, each in an order of its own."""
    return {
        "name": NAMES[number % len(NAMES)],
        "price": PRICES[number % len(PRICES)],
        "is_active": number % 4 != 0,
        "created_at": NEW_YEAR + number % 5 * MICROSECOND,
        "updated_at": NEW_YEAR - number % 7 * MICROSECOND,
    }


STOCK = [row(number) for number in range(len(NAMES))]
PATIENCE = 30.0  # seconds that a search may wait for its turn, on whatever machine
# Every query of these takes another way: all pages in one statement, or each in its own.
WAYS: list[dict[str, Any]] = [{}, {"count": "exact"}, {"is_active": True}, {"price_min": 5}]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return tolerate_locks(settings, monkeypatch)


async def store(app: FastAPI, rows: list[dict[str, Any]]) -> None:
    async with transactional(app.state.engine).begin() as conn:
        for values in rows:
            await conn.execute(insert(items).values(values))


async def store_names(app: FastAPI, *names: str) -> None:
    async with transactional(app.state.engine).begin() as conn:
        await crud.create_many(conn, [{"name": name} for name in names])


@pytest.fixture
async def stock(app: FastAPI) -> None:
    await store(app, STOCK)


async def fetch(client: httpx.AsyncClient, **params: Any) -> Any:
    answer = await client.get("/items", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def walk(client: httpx.AsyncClient, **params: Any) -> AsyncIterator[Any]:
    """The pages of a list, each by the cursor of the one before."""
    page = await fetch(client, **params)
    yield page
    while page["next_cursor"] is not None:
        page = await fetch(client, **params, cursor=page["next_cursor"])
        assert page["page"] is None
        yield page


async def walked(client: httpx.AsyncClient, **params: Any) -> list[list[Any]]:
    return [page["items"] async for page in walk(client, **params)]


def in_order(listed: list[Any], sort: str) -> list[Any]:
    """As `sort` has them: by code point, NULL as the greatest, ties by id; a minus reverses."""
    key = sort.removeprefix("-")
    return sorted(
        listed,
        key=lambda item: (item[key] is None, item[key] or 0, item["id"]),
        reverse=sort.startswith("-"),
    )


def divided(whole: list[Any], size: int) -> list[list[Any]]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def check_refused(answer: httpx.Response, parameter: str = "cursor") -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("sort", SORTS)
async def test_cursors_and_pages_divide_the_same_list(
    client: httpx.AsyncClient, sort: str, way: dict[str, Any]
) -> None:
    unsorted = (await fetch(client, per_page=100, **way))["items"]
    whole = await fetch(client, per_page=100, sort=sort, **way)

    assert whole["items"] == in_order(unsorted, sort)
    assert whole["next_cursor"] is None
    assert len(unsorted) > 10
    for size in (1, 2, 7):
        parts = divided(whole["items"], size)

        assert await walked(client, sort=sort, per_page=size, **way) == parts
        for number in sorted({1, 2, 3, 4, len(parts)} & set(range(len(parts) + 1))):
            page = await fetch(client, sort=sort, per_page=size, page=number, **way)

            assert page["items"] == parts[number - 1]
            assert (page["next_cursor"] is None) == (number == len(parts))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 6])
async def test_next_cursor_is_null_exactly_when_nothing_follows(
    client: httpx.AsyncClient, app: FastAPI, rows: int, way: dict[str, Any]
) -> None:
    await store(app, [STOCK[1]] * rows)
    for page in (1, 2, 3, 9):
        by_page = await fetch(client, page=page, per_page=3, **way)

        assert (by_page["next_cursor"] is not None) == (page * 3 < rows)
    parts = await walked(client, per_page=3, **way)

    assert [len(part) for part in parts] == [3] * (rows // 3) + [rows % 3] * (rows % 3 > 0) or [0]


@pytest.mark.usefixtures("stock")
async def test_a_cursor_taken_from_any_page_continues_after_it(client: httpx.AsyncClient) -> None:
    for page in (1, 2, 3, 4):
        cursor = (await fetch(client, sort="-price", per_page=3, page=page))["next_cursor"]
        after = await fetch(client, sort="-price", per_page=3, cursor=cursor, page=1)

        following = await fetch(client, sort="-price", per_page=3, page=page + 1)
        assert after["items"] == following["items"]
        assert after["next_cursor"] == following["next_cursor"]


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("sort", ["id", "-price", "name"])
async def test_per_page_and_count_may_change_between_pages(
    client: httpx.AsyncClient, sort: str
) -> None:
    whole = (await fetch(client, sort=sort, per_page=100))["items"]
    page = await fetch(client, sort=sort, per_page=1)
    seen = page["items"]
    for size, count in [(2, "none"), (5, "exact"), (1, "capped"), (100, "none")]:
        cursor = page["next_cursor"]
        page = await fetch(client, sort=sort, per_page=size, count=count, cursor=cursor)
        seen += page["items"]

        assert page["per_page"] == size
        assert page["total"] == (None if count == "none" else len(STOCK))

    assert seen == whole
    assert page["next_cursor"] is None


@pytest.mark.parametrize("way", [{}, {"count": "exact"}], ids=str)
@pytest.mark.parametrize(
    "name",
    [character * 255 for character in "\U0001f4a1\"\\'\x01\x1f\x7f/%+&=\u2028\U0010ffff"],
    ids=lambda name: ascii(name[:1]),
)
async def test_a_cursor_holds_any_name(
    client: httpx.AsyncClient, app: FastAPI, name: str, way: dict[str, Any]
) -> None:
    await store_names(app, name, name, name[:-1])

    parts = await walked(client, sort="-name", per_page=1, **way)

    assert [item["id"] for part in parts for item in part] == [2, 1, 3]


@pytest.mark.usefixtures("stock")
async def test_a_cursor_excludes_a_page_beyond_the_first(client: httpx.AsyncClient) -> None:
    cursor = (await fetch(client, per_page=2))["next_cursor"]

    check_refused(await client.get("/items", params={"cursor": cursor, "page": 2}))
    check_refused(await client.get("/items", params={"page": 2, "cursor": cursor, "per_page": 2}))


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    ("of", "on"),
    [
        ({}, {"sort": "-id"}),
        ({"sort": "name"}, {}),
        ({"sort": "name"}, {"sort": "-name"}),
        ({"sort": "created_at"}, {"sort": "updated_at"}),
        ({}, {"is_active": True}),
        ({"is_active": True}, {}),
        ({"is_active": True}, {"is_active": False}),
        ({"q": "a"}, {"q": "A"}),
        ({"q": "a"}, {"q": ""}),
        ({}, {"q": ""}),
        ({"price_min": 0}, {"price_max": 0}),
        ({"price_min": 0}, {"price_min": 1}),
        ({"price_min": 0}, {"price_min": 0, "price_max": "9999999999.99"}),
        ({"created_after": "2025-12-31T00:00:00Z"}, {"updated_after": "2025-12-31T00:00:00Z"}),
        (
            {"created_after": "2025-12-31T00:00:00Z"},
            {"created_after": "2025-12-31T00:00:00.000001Z"},
        ),
    ],
    ids=str,
)
async def test_a_cursor_of_another_list_is_refused(
    client: httpx.AsyncClient, of: dict[str, Any], on: dict[str, Any]
) -> None:
    cursor = (await fetch(client, **of, per_page=1))["next_cursor"]

    assert cursor is not None
    check_refused(await client.get("/items", params={**on, "cursor": cursor}))


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    ("of", "on"),
    [
        ({"is_active": "1"}, {"is_active": "true"}),
        (
            {"created_after": "2025-12-31T01:00:00%2B01:00"},
            {"created_after": "2025-12-31T00:00:00Z"},
        ),
        ({"price_min": "0", "q": ""}, {"q": "", "price_min": "0"}),
    ],
    ids=str,
)
async def test_a_cursor_is_of_the_same_list_however_its_filters_are_spelled(
    client: httpx.AsyncClient, of: dict[str, str], on: dict[str, str]
) -> None:
    first, second = (
        "&".join(f"{name}={value}" for name, value in params.items()) for params in (of, on)
    )
    cursor = (await client.get(f"/items?{first}&per_page=1")).json()["next_cursor"]
    answer = await client.get(f"/items?{second}&cursor={cursor}")

    assert answer.status_code == 200
    assert answer.json()["items"]


LIST = ("name", ItemFilter(q="ü", price_min=Decimal("1.50"), created_after=NEW_YEAR))
PLACE = TypeAdapter(tuple[str, int])
CURSORS = [encode_cursor(LIST, ("n" * length, 7)) for length in range(3)]  # one of each padding
ALPHABET = string.ascii_letters + string.digits + "-_"
ANY_CHARACTER = [*map(chr, range(256)), "\u0100", "\ud800", "\U0001f4a1"]


@pytest.mark.parametrize("cursor", CURSORS)
def test_a_cursor_fits_an_address_as_it_is_and_decodes_to_its_place(cursor: str) -> None:
    assert set(cursor) <= set(ALPHABET)
    assert decode_cursor(cursor, LIST, PLACE) == ("n" * CURSORS.index(cursor), 7)


def tampered(cursor: str) -> Iterator[str]:
    """It with each character in turn replaced, removed, or joined by another; and cut short."""
    for place, character in enumerate(cursor):
        before, after = cursor[:place], cursor[place + 1 :]
        yield before
        yield before + after
        for other in ANY_CHARACTER:
            if other != character:
                yield before + other + after
            yield before + other + character + after
    for other in [*ANY_CHARACTER, "==", "===", "====", "=A", "==A", "=" + cursor, cursor]:
        yield cursor + other


def is_taken(cursor: str) -> bool:
    try:
        decode_cursor(cursor, LIST, PLACE)
    except InvalidInput:
        return False
    return True


@pytest.mark.parametrize("cursor", CURSORS)
def test_no_tampered_cursor_is_taken(cursor: str) -> None:
    assert is_taken(cursor)
    assert [other for other in {*tampered(cursor)} - {cursor} if is_taken(other)] == []


GARBAGE = [b"", b"\x00" * 8, b"\xff" * 40, b"[1,1]", b"12345678[1,1]", b"null", b"{" * 1000]


NO_CURSORS = (
    ["", "x", "null", "0", "1", "%00", "%ff", "%ED%A0%80", "%F0%9F%92%A1", "....", "====", "' OR 1"]
    + ["A" * 2000, "A" * 2001, "A" * 30_000, "=" * 1999]
    + [urlsafe_b64encode(data).decode() for data in GARBAGE]
)


async def test_what_is_no_cursor_is_refused_by_name(client: httpx.AsyncClient) -> None:
    for cursor in NO_CURSORS:
        check_refused(await client.get(f"/items?cursor={cursor}"))


@pytest.mark.usefixtures("stock")
async def test_a_tampered_cursor_is_refused_by_name(client: httpx.AsyncClient) -> None:
    cursor = (await fetch(client, per_page=1, sort="name"))["next_cursor"]
    for place in range(len(cursor)):
        flipped = cursor[:place] + chr(ord(cursor[place]) ^ 1) + cursor[place + 1 :]
        for other in (flipped, cursor[:place], cursor + ALPHABET[place % 64]):
            check_refused(await client.get("/items", params={"sort": "name", "cursor": other}))


NO_PLACES: list[Any] = [
    None,
    5,
    "text",
    {},
    {"0": 1, "1": 1},
    [],
    [1],
    ["a"],
    [1, None],
    [1, "a"],
    [1, 1.5],
    [1, 2**63],
    [1, [1]],
    [[1], 1],
    [{}, 1],
    ["a\x00", 1],
    [1, 1, 1],
]
NO_KEYS: dict[str, list[Any]] = {
    "id": [None, "a", 1.5, 2**63, True, "1"],
    "name": [None, 5, True],
    "price": ["a", "", True, "NaN", "Infinity", "-Infinity", "sNaN"],
    "updated_at": [None, "a", "2026-01-01T00:00:00", "2026-02-30T00:00:00Z", 0, "0", 1e300, True],
}
OVERFLOWING = {
    "price": ["1e200000", "-1e200000", "1e999999999"],
    "created_at": ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"],
}


async def forged(client: httpx.AsyncClient, sort: str, place: Any, **way: Any) -> httpx.Response:
    """The answer to a cursor that is what the service itself would make of this place."""
    cursor = encode_cursor((sort, ItemFilter()), place)
    return await client.get("/items", params={"sort": sort, "cursor": cursor, **way})


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("sort", SORTS)
async def test_a_cursor_to_no_place_is_refused_though_its_checksum_is_right(
    client: httpx.AsyncClient, sort: str
) -> None:
    for place in NO_PLACES:
        check_refused(await forged(client, sort, place))


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize(
    ("sort", "keys"),
    [*NO_KEYS.items(), *OVERFLOWING.items()],
    ids=[*NO_KEYS, *(f"{key} beyond all bounds" for key in OVERFLOWING)],
)
async def test_a_cursor_to_no_key_is_refused_though_its_checksum_is_right(
    client: httpx.AsyncClient, sort: str, keys: list[Any]
) -> None:
    for key, count in product(keys, ("capped", "exact")):
        check_refused(await forged(client, sort, [key, 1], count=count))


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("way", [{}, {"count": "exact"}], ids=str)
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
    client: httpx.AsyncClient, sort: str, key: Any, way: dict[str, Any]
) -> None:
    place = [key, key if sort == "id" else 0]
    after = (await forged(client, sort, place, per_page=100, **way)).json()["items"]
    before = (await forged(client, f"-{sort}", place, per_page=100, **way)).json()["items"]

    assert before[::-1] + after == (await fetch(client, sort=sort, per_page=100))["items"]


async def churn(conn: AsyncConnection, random_: random.Random, transient: list[int]) -> None:
    """Others at work: some of their items go for good, and new ones come anywhere in the list."""
    gone = [transient.pop(random_.randrange(len(transient))) for _ in transient[:3]]
    await conn.execute(delete(items).where(items.c.id.in_(gone)))
    rows = [row(random_.randrange(1000)) | {"name": random_.choice("AMZaz")} for _ in range(4)]
    transient += (await conn.scalars(insert(items).returning(items.c.id), rows)).all()


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("count", ["none", "exact"])
@pytest.mark.parametrize("sort", SORTS)
async def test_no_item_is_missed_or_seen_twice_while_others_come_and_go(
    client: httpx.AsyncClient, app: FastAPI, sort: str, count: str
) -> None:
    stable = [item["id"] for item in (await fetch(client, sort=sort, per_page=100))["items"]]
    random_, transient, seen = random.Random(sort), list[int](), list[int]()
    params: dict[str, Any] = {"sort": sort, "count": count, "per_page": 5}
    async with app.state.engine.connect() as conn:
        await churn(conn, random_, transient)
        page = await fetch(client, **params)
        while page["next_cursor"] is not None:
            seen += [item["id"] for item in page["items"]]
            # The very item that the cursor was made of goes too, if it is not one of the stable.
            if (last := seen[-1]) in transient:
                transient.remove(last)
                await conn.execute(delete(items).where(items.c.id == last))
            page, _ = await asyncio.gather(
                fetch(client, **params, cursor=page["next_cursor"]),
                churn(conn, random_, transient),
            )
        seen += [item["id"] for item in page["items"]]

    assert len(seen) == len(set(seen))
    assert [id_ for id_ in seen if id_ in stable] == stable
    assert len(seen) > len(stable)


@pytest.mark.usefixtures("stock")
async def test_a_cursor_works_on_another_instance(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async with serving(create_app(settings)) as other:
        for sort in SORTS:
            params: dict[str, Any] = {"sort": sort, "per_page": 9, "q": ""}
            first = await fetch(client, **params)
            second = await fetch(other, **params, cursor=first["next_cursor"])
            third = await fetch(client, **params, cursor=second["next_cursor"])

            whole = (await fetch(other, sort=sort, q="", per_page=100))["items"]
            assert first["items"] + second["items"] + third["items"] == whole


@contextmanager
def counting(app: FastAPI) -> Iterator[list[str]]:
    """The statements that the service sends meanwhile."""
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    event.listen(app.state.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(app.state.engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.usefixtures("stock")
async def test_each_of_many_concurrent_lists_gets_its_own_answer(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    alone: list[tuple[dict[str, Any], Any]] = []
    for sort in SORTS:
        for way in ({}, {"count": "none"}, {"is_active": True}):
            for size in (4, 9):
                params = {"sort": sort, "per_page": size, **way}
                async for page in walk(client, **params):
                    alone.append((dict(params), page))
                    params["cursor"] = page["next_cursor"]
                params = {"sort": sort, "per_page": size, "page": 2, **way}
                alone.append((params, await fetch(client, **params)))
    random.Random(0).shuffle(alone)
    at_once = asyncio.Semaphore(100)  # so that on a slow machine none outlives its deadline

    async def fetch_in_turn(params: dict[str, Any]) -> Any:
        async with at_once:
            return await fetch(client, **params)

    with counting(app) as sent:
        # Amid them, some on which the database fails.
        *together, first, second = await asyncio.gather(
            *(fetch_in_turn(params) for params, _ in alone),
            forged(client, "price", ["1e-99999", 1]),
            forged(client, "-price", ["1e-99999", 1], count="none"),
        )

    assert together == [page for _, page in alone]
    assert (first.status_code, second.status_code) == (422, 422)
    assert len(alone) > 300
    assert len(sent) < len(alone)


def links_of(header: str) -> dict[str, str]:
    """The addresses in a Link header by their relation; all of it must be well formed."""
    links = {}
    for link in header.split(", "):
        match = re.fullmatch(
            r"<([\w.~:/?@!$&'()*+,;=%-]*)>; rel=\"(first|prev|next|last)\"", link, re.ASCII
        )
        assert match, header
        assert match[2] not in links
        links[match[2]] = match[1]
    return links


async def follow(client: httpx.AsyncClient, address: str) -> tuple[Any, dict[str, str]]:
    answer = await client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.json(), links_of(answer.headers["link"])


def ids_of(page: Any) -> list[int]:
    return [item["id"] for item in page["items"]]


@pytest.mark.parametrize(
    ("query", "pages"),
    [
        ("", {"first": 1, "next": 2, "last": 3}),
        ("page=1", {"first": 1, "next": 2, "last": 3}),
        ("page=2", {"first": 1, "prev": 1, "next": 3, "last": 3}),
        ("page=3", {"first": 1, "prev": 2, "last": 3}),
        ("page=4", {"first": 1, "prev": 3, "last": 3}),
        ("page=9", {"first": 1, "prev": 3, "last": 3}),
        ("count=exact", {"first": 1, "next": 2, "last": 3}),
        ("count=none&page=2", {"first": 1, "prev": 1, "next": 3}),
        ("count=none&page=3", {"first": 1, "prev": 2}),
        ("q=thing&page=2", {"first": 1, "prev": 1, "next": 3, "last": 3}),
        ("q=no+such", {"first": 1}),
    ],
)
async def test_a_page_links_to_those_around_it(
    client: httpx.AsyncClient, app: FastAPI, query: str, pages: dict[str, int]
) -> None:
    await store_names(app, *["Thing"] * 45)
    _, links = await follow(client, f"/items?{query}")
    kept = "".join(f"{part}&" for part in query.split("&") if part and "page" not in part)

    assert links == {rel: f"/items?{kept}page={page}" for rel, page in pages.items()}


async def test_links_past_an_empty_list_lead_back_to_its_first_page(
    client: httpx.AsyncClient,
) -> None:
    _, links = await follow(client, "/items?page=9")

    assert links == {"first": "/items?page=1", "prev": "/items?page=1"}


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("query", ["", "sort=-name&q=a&is_active=true", "count=exact&sort=price"])
async def test_links_lead_through_all_pages_and_back(client: httpx.AsyncClient, query: str) -> None:
    whole = ids_of((await follow(client, f"/items?{query}&per_page=100"))[0])
    page, links = await follow(client, f"/items?{query}&per_page=3")
    forth = ids_of(page)
    while "next" in links:
        page, links = await follow(client, links["next"])
        forth += ids_of(page)

    assert forth == whole
    assert (await follow(client, links["last"]))[0] == page
    back = [ids_of(page)]
    while "prev" in links:
        page, links = await follow(client, links["prev"])
        back.append(ids_of(page))

    assert [id_ for ids in back[::-1] for id_ in ids] == whole
    assert (await follow(client, links["first"]))[0] == page


@pytest.mark.usefixtures("stock")
@pytest.mark.parametrize("query", ["", "&sort=-name&q=a&is_active=true", "&count=none&sort=price"])
async def test_links_by_cursor_lead_on_and_to_the_first_page(
    client: httpx.AsyncClient, query: str
) -> None:
    whole = ids_of((await follow(client, f"/items?per_page=100{query}"))[0])
    first, _ = await follow(client, f"/items?per_page=3{query}")
    seen, page = ids_of(first), first
    links = {"next": f"/items?cursor={first['next_cursor']}&page=1&per_page=3{query}"}
    while "next" in links:
        page, links = await follow(client, links["next"])
        seen += ids_of(page)

        assert links.keys() == {"first"} | ({"next"} if page["next_cursor"] else set())
        assert links["first"] == f"/items?per_page=3{query}"

    assert seen == whole
    assert (await follow(client, links["first"]))[0] == first


AWKWARD = [
    "a&b",
    "a+b",
    "a b",
    "100%",
    "%41",
    "ü",
    "\U0001f4a1",
    "a=b",
    "a#b",
    "a;b",
    "a,b",
    "a/b?",
]
AWKWARD += ['">', '>; rel="prev"', "<a>", "it's", "\\", "[]", "{|}^`", "two\r\nLines: 2", "\x7f"]


@pytest.mark.parametrize("q", AWKWARD)
async def test_links_keep_what_was_searched(
    client: httpx.AsyncClient, app: FastAPI, q: str
) -> None:
    await store_names(app, *[f"A{q}Z"] * 3, *["AAZ"] * 3)
    answer = await client.get("/items", params={"q": q, "per_page": 1})
    links = links_of(answer.headers["link"])
    second, links = await follow(client, links["next"])
    third, _ = await follow(client, links["next"])
    cursor = second["next_cursor"]
    by_cursor = await client.get("/items", params={"cursor": cursor, "q": q, "per_page": 1})

    assert [ids_of(answer.json()), ids_of(second), ids_of(third)] == [[1], [2], [3]]
    assert by_cursor.json()["items"] == third["items"]
    first, _ = await follow(client, links_of(by_cursor.headers["link"])["first"])
    assert ids_of(first) == [1]


RAW = [
    b'q=">; rel="last"',
    b"q=a>b",
    b"q=\xc3\xbc",
    b"q=\xff",
    b"q=a b\r\nX-Evil: 1",
    b"q=%",
    b"q=%4",
]
RAW += [b"q=%zz", b"q=\x00", b"q='", b"q=a, <b>; c", b"&&q=a&&", b"=", b"q", b"q=\\", b"q=#a?b"]
PLACES = [b"", b"page=7&", b"cursor=x&", b"page=1&page=2&cursor=&", b"%70age=7&", b"%63ursor=x&"]


AROUND = {"first": {"page": "1"}, "prev": {"page": "2"}, "next": {"page": "4"}}
ON = {"first": {}, "next": {"cursor": "abc"}}
several_examples = hypothesis_settings(deadline=None, max_examples=200)


def request_for(query: bytes, path: str = "/items") -> Request:
    return Request({"type": "http", "path": path, "query_string": query, "headers": []})


def fields_of(query: bytes | str) -> dict[str, str]:
    """The parameters, as the service reads them."""
    text = query if isinstance(query, str) else query.decode(errors="surrogateescape")
    return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))


def check_links(header: str, expected: Mapping[str, Mapping[str, str]], query: bytes) -> None:
    """Each link has the parameters of `query`, and its place instead of any other."""
    kept = {name: v for name, v in fields_of(query).items() if name not in ("page", "cursor")}
    links = links_of(header)
    assert links.keys() == expected.keys()
    for relation, address in links.items():
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.path) == ("", "", "/items")
        assert parts.fragment == ""
        assert fields_of(parts.query) == {**kept, **expected[relation]}


@several_examples
@given(query=st.binary(max_size=30))
def test_no_bytes_break_out_of_a_link(query: bytes) -> None:
    assert links_of(page_links(request_for(query), 3, None, 9, "abc")).keys() == AROUND.keys()
    assert links_of(cursor_links(request_for(query), "abc")).keys() == ON.keys()


@several_examples
@given(query=st.text("q=&%+;<>\"', \r\n#?pagecursor25\u00fc", max_size=30).map(str.encode))
def test_links_keep_every_parameter(query: bytes) -> None:
    check_links(page_links(request_for(query), 3, None, 9, "abc"), AROUND, query)
    check_links(cursor_links(request_for(query), "abc"), ON, query)


@pytest.mark.parametrize("place", PLACES)
def test_a_place_in_the_query_gives_way_to_the_links_own(place: bytes) -> None:
    deepest = {"first": {"page": "1"}, "prev": {"page": "8"}, "next": {"cursor": "abc"}}
    for query in (place + part for part in RAW):
        check_links(page_links(request_for(query), 3, None, 9, "abc"), AROUND, query)
        check_links(page_links(request_for(query), 9, None, 9, "abc"), deepest, query)
        check_links(cursor_links(request_for(query), "abc"), ON, query)


@pytest.mark.parametrize("path", ["/a>b", '/"', "/a b", "/ü", "/a?b", "/%", "/a\r\nb"])
def test_no_path_breaks_out_of_its_links(path: str) -> None:
    (address,) = links_of(page_links(request_for(b"", path), 1, None, 9, None)).values()

    assert httpx.URL(f"http://test{address}").path == path


@pytest.mark.parametrize(
    ("page", "last", "next_cursor", "places"),
    [
        (9, None, "abc", {"next": {"cursor": "abc"}}),
        (8, None, "abc", {"next": {"page": "9"}}),
        (9, 9, None, {"last": {"page": "9"}}),
        (9, 10, "abc", {"next": {"cursor": "abc"}}),  # the last is deeper than a page may be
        (8, 9, "abc", {"next": {"page": "9"}, "last": {"page": "9"}}),
    ],
)
def test_no_link_leads_beyond_the_deepest_page(
    page: int, last: int | None, next_cursor: str | None, places: dict[str, dict[str, str]]
) -> None:
    header = page_links(request_for(b"q=a"), page, last, 9, next_cursor)
    around = {"first": {"page": "1"}, "prev": {"page": str(page - 1)}}

    check_links(header, around | places, b"q=a")


@pytest.mark.usefixtures("stock")
async def test_links_lead_past_the_deepest_page_by_cursor(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "DEEPEST", 7)
    whole = ids_of(await fetch(client, sort="-name", per_page=7, q=""))
    links = {"next": "/items?sort=-name&per_page=2&q="}
    seen, addresses = [], []
    while "next" in links:
        addresses.append(links["next"])
        page, links = await follow(client, links["next"])
        seen += ids_of(page)

    check_refused(await client.get("/items?per_page=2&page=4"), "page")
    assert [address.rpartition("&")[2].partition("=")[0] for address in addresses[:5]] == [
        "q",
        "page",
        "page",
        "cursor",
        "cursor",
    ]
    assert seen[:7] == whole
    assert len(seen) == len(set(seen)) == len(STOCK)


COUNTED: list[dict[str, Any]] = [{}, {"q": "thing"}, {"is_active": True}]
COUNTS = {
    None: (10_000, "gte", 100),
    "capped": (10_000, "gte", 100),
    "exact": (10_001, "eq", 101),
    "none": (None, None, None),
}


async def test_count_says_how_all_are_counted(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store_names(app, *["Thing"] * 10_001)
    for (count, counted), way in product(COUNTS.items(), COUNTED):
        params = {"per_page": 100, **way, **({"count": count} if count else {})}
        cursor = (await fetch(client, **params))["next_cursor"]
        places: list[dict[str, Any]] = [{}, {"page": 2}, {"page": 101}, {"cursor": cursor}]
        for place in places:
            answer = await client.get("/items", params=params | place)
            page, links = answer.json(), links_of(answer.headers["link"])
            is_last = place == {"page": 101}

            assert (page["total"], page["total_relation"], page["pages"]) == counted
            assert len(page["items"]) == (1 if is_last else 100)
            assert (page["next_cursor"] is None) == is_last
            assert ("next" in links) != is_last
            assert ("last" in links) == (count == "exact" and "cursor" not in place)


@pytest.mark.parametrize("rows", [0, 3])
async def test_every_count_of_few_is_exact(
    client: httpx.AsyncClient, app: FastAPI, rows: int
) -> None:
    await store_names(app, *["Thing"] * rows)
    for count in ("capped", "exact"):
        page = await fetch(client, count=count, per_page=2)

        assert (page["total"], page["total_relation"]) == (rows, "eq")
        assert page["pages"] == (rows + 1) // 2


async def test_another_count_is_refused(client: httpx.AsyncClient) -> None:
    for count in ("", "all", "Exact", "0", "true", "%00"):
        check_refused(await client.get(f"/items?count={count}"), "count")
