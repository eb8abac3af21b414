"""Coalesced calls on items when callers disconnect, connections break, or the database stops."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.domain.item import Item, ItemFilter, ItemQuery
from service.main import create_app
from service.routers.calls import Calls
from service.settings import Settings
from service.state import state_of
from tests.support.apps import connections_in_use, no_complaints, serving, tolerate_locks
from tests.support.batches import (
    OURS,
    cancel_blocked,
    check_unavailable,
    end_blocked,
    locked_items,
    results,
    start,
    statements,
    store,
    until_nothing_is_held,
    wait_for_backends,
)
from tests.support.processes import connection
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

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


async def test_disconnected_clients_leak_no_connection_and_disturb_no_other(
    app: FastAPI, client: httpx.AsyncClient, database_url: str, admin: Any
) -> None:
    ids = await store(app, 20)
    tasks = len(asyncio.all_tasks())
    async with locked_items(database_url):
        requests = start(
            *(client.get(f"/items/{id_}") for id_ in ids),
            *(client.post("/items", json=LAMP) for _ in ids),
        )
        await wait_for_backends(admin, 2)
        for request in requests[::2]:
            request.cancel()
        await asyncio.sleep(0)
    answers = await results(*requests)

    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert [answer.status_code for answer in answers[1::2]] == [200] * 10 + [201] * 10
    assert [answer.json()["id"] for answer in answers[1:20:2]] == ids[1::2]
    await until_nothing_is_held(app, tasks)


# Lost connections


async def test_batches_that_an_administrator_ends_are_sent_once_more(
    app: FastAPI, calls: Calls[Item], database_url: str, admin: Any
) -> None:
    ids = await store(app, 40)
    with statements(app) as sent:
        async with locked_items(database_url):
            reads = start(*map(calls.get, ids), calls.list(ItemQuery()), calls.list(SEARCH))
            writes = start(*(calls.create(LAMP) for _ in range(40)))
            await wait_for_backends(admin, 4)
            await end_blocked(admin)  # which rolls back what they had begun
            await wait_for_backends(admin, 4)
        found = await results(*reads)
        await results(*writes)

    assert [item.id for item in found[:40]] == ids
    assert Counter(sent) == {"SELECT": 6, "INSERT": 2, "SET": 2}
    assert await admin.fetchval("SELECT count(*) FROM items") == 80


async def test_reads_lost_again_and_again_are_a_503_and_hold_nothing(
    app: FastAPI, client: httpx.AsyncClient, database_url: str, admin: Any
) -> None:
    tasks = len(asyncio.all_tasks())
    async with locked_items(database_url):
        requests = start(client.get("/items"), client.get("/items/1"))
        for _ in range(2):  # a batch is sent twice
            await wait_for_backends(admin, 2)
            await end_blocked(admin)
        for response in await results(*requests):
            check_unavailable(response)
    await until_nothing_is_held(app, tasks)

    assert (await client.get("/items")).status_code == 200


async def test_a_statement_that_timed_out_is_not_sent_again(
    app: FastAPI, client: httpx.AsyncClient, database_url: str, admin: Any
) -> None:
    with statements(app) as sent:
        async with locked_items(database_url):
            requests = start(client.get("/items/1"), client.post("/items", json=LAMP))
            await wait_for_backends(admin, 2)
            await cancel_blocked(admin)
            for response in await results(*requests):
                check_unavailable(response)

    assert Counter(sent) == {"SELECT": 1, "INSERT": 1}


async def test_a_write_whose_answer_is_lost_after_the_commit_is_stored_once(
    settings: Settings, app: FastAPI, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_many = crud.create_many

    async def create_and_lose(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> Any:
        await create_many(conn, rows)
        driver: Any = (await conn.get_raw_connection()).driver_connection
        driver.terminate()
        return await conn.execute(text("SELECT 1"))

    monkeypatch.setattr(crud, "create_many", create_and_lose)
    names = [f"Item {number:02}" for number in range(20)]
    async with serving(create_app(settings)) as client:
        responses = await results(*(client.post("/items", json={"name": name}) for name in names))

    for response in responses:
        check_unavailable(response)
    assert [row["name"] for row in await admin.fetch("SELECT name FROM items")] == names


# The database or the service ends


async def test_requests_get_503_without_the_database_and_succeed_when_it_is_back(
    settings: Settings, server_url: str, template: str, own_database_url: str
) -> None:
    settings.database_url = SecretStr(own_database_url)
    name = settings.engine_url.database
    app = create_app(settings)
    async with serving(app) as client, connection(server_url) as admin:
        async with locked_items(own_database_url), connection(own_database_url) as own:
            requests = start(
                *(client.post("/items", json=LAMP) for _ in range(5)),
                *(client.get(path) for path in ("/items/1", "/items", "/items?q=a")),
            )
            await wait_for_backends(own, 4)
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            for response in await results(*requests):
                check_unavailable(response)
        assert connections_in_use(app) == 0

        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        assert (await client.post("/items", json=LAMP)).status_code == 201
        assert (await client.get("/items")).json()["total"] == 1


async def test_a_service_that_stops_with_batches_in_flight_leaves_no_backend(
    settings: Settings, database_url: str, admin: Any
) -> None:
    may_stop = threading.Event()
    made: list[asyncio.Task[Any]] = []

    async def serve() -> None:
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            made.extend(start(*map(state_of(app).items.get, range(300))))
            await asyncio.to_thread(may_stop.wait)

    async with locked_items(database_url):
        service = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
        await wait_for_backends(admin, 1)
        may_stop.set()
        await service
        await wait_for_backends(admin, 0, OURS)

    assert all(task.cancelled() for task in made)
