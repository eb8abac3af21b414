"""The coalesced calls on items on the real database: their answers, statements and bounds."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from itertools import pairwise
from time import monotonic
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database import coalescer
from service.database.coalescer import Coalescer
from service.database.faults import is_data_fault
from service.domain.item import Item, ItemFilter, ItemQuery
from service.main import create_app
from service.routers.calls import Calls
from service.settings import Settings
from service.state import state_of
from tests.support.apps import connections_in_use, no_complaints, serving, tolerate_locks
from tests.support.batches import (
    OURS,
    check_unavailable,
    locked_items,
    results,
    start,
    statements,
    store,
    wait_for_backends,
)
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

SEARCH = ItemQuery(ItemFilter(q="a"))


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Timeouts longer than any lock of these tests."""
    settings.request_timeout = TIMEOUT
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture(autouse=True)
async def nothing_unretrieved() -> AsyncIterator[None]:
    async with no_complaints():
        yield


async def stored_names(admin: Any) -> list[str]:
    return [row["name"] for row in await admin.fetch("SELECT name FROM items ORDER BY id")]


async def test_concurrent_requests_of_one_kind_share_statements(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """At most 100 calls a statement, lists by their sort, and searches one by one."""
    ids = await store(app, 60)
    names = [f"New {number}" for number in range(120)]
    pages = [f"per_page=1&page={n}" for n in range(1, 61)]
    with statements(app) as sent:
        responses = await results(
            *(client.post("/items", json={"name": name}) for name in names),
            *(client.get(f"/items/{id_}") for id_ in [*ids, *range(10_001, 10_061)]),
            *(
                client.get(f"/items?{page}&sort={sort}")
                for sort in ("id", "name")
                for page in pages
            ),
            *(client.get(f"/items?q=item 0000{number}") for number in range(5)),
        )
    assert Counter(sent) == {"INSERT": 2, "SELECT": 2 + 2 + 5, "SET": 5}

    created, found, missing, listed, searched = (
        [response.json() for response in responses[start:stop]]
        for start, stop in pairwise([0, 120, 180, 240, 360, 365])
    )
    assert [item["name"] for item in created] == names
    assert len({item["id"] for item in created}) == len(names)
    assert [item["id"] for item in found] == ids
    assert [problem["status"] for problem in missing] == [404] * 60
    assert [[item["id"] for item in page["items"]] for page in listed] == [[id_] for id_ in ids] * 2
    assert [[item["id"] for item in page["items"]] for page in searched] == [[i] for i in ids[:5]]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"name": "x" * 256}, id="constraint"),
        pytest.param({"is_active": None}, id="not null"),
        pytest.param({"price": Decimal("10000000000")}, id="out of range"),
        pytest.param({"name": "a\x00b"}, id="NUL"),
        pytest.param({"name": "\ud800"}, id="not UTF-8"),
        pytest.param({"name": 5}, id="wrong type"),
    ],
)
async def test_a_bad_row_fails_alone(
    app: FastAPI, calls: Calls[Item], admin: Any, bad: dict[str, Any]
) -> None:
    names = [f"Item {number:03}" for number in range(120)]
    rows: list[dict[str, Any]] = [{"name": name} for name in names]
    rows[110] |= bad
    del names[110]
    with statements(app) as sent:
        answers = await results(*map(calls.create, rows))

    error = answers.pop(110)
    assert isinstance(error, DBAPIError)
    assert is_data_fault(error)
    assert [item.name for item in answers] == await stored_names(admin) == names
    assert len(sent) <= 2 + 20  # only the second batch was split


async def test_every_client_reads_its_own_writes(client: httpx.AsyncClient) -> None:
    async def write_and_read(name: str) -> None:
        item = (await client.post("/items", json={"name": name})).json()
        got, listed, searched = await asyncio.gather(
            client.get(f"/items/{item['id']}"),
            client.get("/items?sort=-id&per_page=100"),
            client.get("/items", params={"q": name}),
        )
        assert got.json() == item
        assert item in listed.json()["items"]
        assert searched.json()["items"] == [item]

    await asyncio.gather(*(write_and_read(f"Mine {number:02}") for number in range(20)))


# Bounds


@pytest.mark.parametrize(
    ("call", "method", "path", "in_flight", "bound"),
    [
        ("get", "GET", "/items/1", 1, 11),
        ("list_inexpensive", "GET", "/items", 2, 11),
        ("list_expensive", "GET", "/items?q=a", 2, 3),  # a fifth, rounded up, is for searches
        ("create", "POST", "/items", 1, 11),
    ],
)
async def test_past_the_bound_of_the_queue_requests_get_503_at_once(
    settings: Settings,
    app: FastAPI,
    database_url: str,
    admin: Any,
    call: str,
    method: str,
    path: str,
    in_flight: int,
    bound: int,
) -> None:
    settings.queue_limit = 11
    await store(app, 1)
    worker = create_app(settings)
    async with serving(worker) as client:

        def send(number: int) -> list[asyncio.Task[Any]]:
            body = LAMP if method == "POST" else None
            return start(*(client.request(method, path, json=body) for _ in range(number)))

        async with locked_items(database_url):
            served = []
            for number in range(1, in_flight + 1):
                served += send(1)
                await wait_for_backends(admin, number)
            served += send(bound)
            coalescer: Coalescer[Any, Any] = getattr(state_of(worker).items, call)
            await until(lambda: coalescer.waiting == bound)
            for response in await results(*send(5)):
                check_unavailable(response)
            assert not any(request.done() for request in served)
        assert all(response.is_success for response in await results(*served))


async def test_under_any_load_a_worker_holds_at_most_6_connections(
    app: FastAPI, calls: Calls[Item], database_url: str, admin: Any
) -> None:
    ids = await store(app, 30)
    held: list[int] = []
    pool = state_of(app).engine.pool
    event.listen(pool, "checkout", lambda *arguments: held.append(connections_in_use(app)))
    async with locked_items(database_url):
        made = start(
            *map(calls.get, ids),
            *(calls.create(LAMP) for _ in ids),
            *(calls.list(ItemQuery(sort=sort)) for sort in ("id", "-id", "name", "price")),
            *(calls.list(SEARCH) for _ in ids),
        )
        await wait_for_backends(admin, 6)
        assert await admin.fetchval(f"SELECT count(*) {OURS}") == 6
    await asyncio.gather(*made)

    assert max(held) == 6


async def test_slow_searches_delay_no_other_request(
    settings: Settings, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_pages = crud.search_pages
    may_search = asyncio.Event()

    async def search_slowly(conn: AsyncConnection, queries: Sequence[ItemQuery]) -> Any:
        await may_search.wait()
        return await search_pages(conn, queries)

    monkeypatch.setattr(crud, "search_pages", search_slowly)
    ids = await store(app, 10)
    async with serving(create_app(settings)) as client:
        searches = start(*(client.get("/items?q=item") for _ in range(5)))
        others = await results(
            *(client.get(f"/items/{id_}") for id_ in ids),
            *(client.get(f"/items?page={page}") for page in range(1, 11)),
            *(client.post("/items", json=LAMP) for _ in ids),
        )
        assert not any(search.done() for search in searches)
        may_search.set()
        found = await results(*searches)

    assert [response.status_code for response in others] == [200] * 20 + [201] * 10
    assert [response.json()["total"] for response in found] == [10] * 5


async def test_a_search_that_waits_longer_than_pool_timeout_is_a_503(
    settings: Settings,
    app: FastAPI,
    client: httpx.AsyncClient,
    database_url: str,
    admin: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with locked_items(database_url):
        searches = start(*(client.get("/items?q=a") for _ in range(3)))
        await wait_for_backends(admin, 2)
        later = monotonic() + settings.pool_timeout
        monkeypatch.setattr(coalescer, "monotonic", lambda: later)
    first, second, third = await results(*searches)

    assert (first.status_code, second.status_code) == (200, 200)
    check_unavailable(third)
