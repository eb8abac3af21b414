"""The deadline of a request: whatever it waits for, it is answered in time and leaves nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database import transactional
from service.metrics import DEADLINE_EXCEEDED
from service.settings import Settings
from tests.support.apps import (
    address,
    asking,
    execute,
    listening,
    status,
    store_big,
    tolerate_locks,
)
from tests.support.problems import check_problem
from tests.support.waiting import until

TIMEOUT = 0.5  # seconds
LATEST = 10 * TIMEOUT  # on a busy machine
LAMP = {"name": "Lamp"}
KEY = {"Idempotency-Key": "order-4711"}
# Whatever takes the table, with the arguments of a request.
CALLS: dict[str, dict[str, Any]] = {
    "read": {"method": "GET", "url": "/items/1"},
    "list": {"method": "GET", "url": "/items"},
    "search": {"method": "GET", "url": "/items?q=lamp"},
    "create": {"method": "POST", "url": "/items", "json": LAMP},
    "create with a key": {"method": "POST", "url": "/items", "json": LAMP, "headers": KEY},
    "create many": {"method": "POST", "url": "/items/bulk", "json": {"items": [LAMP]}},
    "replace": {"method": "PUT", "url": "/items/1", "json": LAMP},
    "change": {"method": "PATCH", "url": "/items/1", "json": LAMP},
    "delete": {"method": "DELETE", "url": "/items/1"},
    "export": {"method": "GET", "url": "/items/export"},
}
BUSY = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()
"""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A service that gives up soon, and a database that does not."""
    settings.request_timeout = TIMEOUT
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """The application on a port of its own."""
    async with listening(app) as server:
        yield server


@asynccontextmanager
async def table_locked(app: FastAPI) -> AsyncIterator[None]:
    """Nobody else reads or writes items."""
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(text("LOCK TABLE items"))
        yield


def exceeded() -> float:
    """How many requests were given up, by the metric."""
    (metric,) = DEADLINE_EXCEEDED.collect()
    return metric.samples[0].value


def connections(app: FastAPI) -> int:
    """The connections that are in use."""
    in_use: int = app.state.engine.pool.checkedout()
    return in_use


async def check_all_is_given_back(app: FastAPI) -> None:
    """Soon no connection of the pool is in use, no backend is busy, and all is well."""
    await until(lambda: connections(app) == 0)
    async with asyncio.timeout(LATEST), app.state.engine.connect() as conn:
        while await conn.scalar(text(BUSY)):  # noqa: ASYNC110 (the database tells nobody)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("call", CALLS)
async def test_a_request_that_waits_for_the_database_is_given_up(
    app: FastAPI, client: httpx.AsyncClient, call: str
) -> None:
    before = exceeded()
    async with table_locked(app):
        begun = time.monotonic()
        answer = await client.request(**CALLS[call])
        seconds = time.monotonic() - begun
        # While it is still locked, as nobody knows for how long.
        await until(lambda: connections(app) == 1)

    problem = check_problem(answer, 503, "timed-out")
    assert "not known" in problem["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert TIMEOUT <= seconds < LATEST
    assert exceeded() - before == 1
    await check_all_is_given_back(app)
    assert (await client.get("/items")).json()["total"] == 0  # none of it was done after all


async def test_many_at_once_are_given_up_and_leave_nothing(
    app: FastAPI,
    client: httpx.AsyncClient,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # With connections that are made already, which takes a busy machine its time.
    for conn in [await app.state.engine.connect().start() for _ in range(settings.pool_size)]:
        await conn.close()
    before = exceeded()
    async with table_locked(app):
        asked = [client.request(**call) for call in CALLS.values() for _ in range(5)]
        answers = await asyncio.gather(*asked)
        await until(lambda: connections(app) == 1)
        assert app.state.items.get.waiting == app.state.items.create.waiting == 0

    # The export has two slots, and one key one request at a time.
    kinds = [answer.json()["type"].rpartition(":")[2] for answer in answers]
    assert kinds.count("timed-out") == len(answers) - 3 - 4
    assert kinds.count("unavailable") == 3
    assert kinds.count("in-progress") == 4
    assert exceeded() - before == kinds.count("timed-out")
    await check_all_is_given_back(app)
    assert "unhandled_error" not in capsys.readouterr().err
    assert (await client.post("/items", json=LAMP)).status_code == 201


async def test_what_the_database_does_for_nobody_is_cancelled(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    await execute(
        app,
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN PERFORM pg_sleep(50); RETURN NEW; END $$",
        "CREATE TRIGGER sleep BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION sleep()",
    )
    try:
        for call in ("create", "create with a key", "create many"):
            check_problem(await client.request(**CALLS[call]), 503, "timed-out")
        await check_all_is_given_back(app)
    finally:
        await execute(app, "DROP FUNCTION sleep CASCADE")


async def test_a_request_with_a_key_can_be_sent_again(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async with table_locked(app):
        check_problem(await client.request(**CALLS["create with a key"]), 503, "timed-out")
    await check_all_is_given_back(app)

    created = await client.request(**CALLS["create with a key"])
    again = await client.request(**CALLS["create with a key"])
    assert created.status_code == again.status_code == 201
    assert created.json() == again.json()
    assert (await client.get("/items")).json()["total"] == 1


async def test_a_request_that_waits_for_a_connection_is_given_up(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    async def take_all() -> list[AsyncConnection]:
        many = settings.pool_size + settings.max_overflow
        async with asyncio.timeout(LATEST):
            return [await app.state.engine.connect().start() for _ in range(many)]

    taken = await take_all()
    for call in ("read", "change", "export"):
        check_problem(await client.request(**CALLS[call]), 503, "timed-out")
    for conn in taken:
        await conn.close()
    await until(lambda: connections(app) == 0)
    assert app.state.engine.pool.checkedin() <= settings.pool_size

    # Nobody who was given up still holds a place.
    for conn in await take_all():
        await conn.close()
    for _ in range(10):  # not all at once: a busy machine needs its time for a hundred
        answers = await asyncio.gather(*(client.get("/items/1") for _ in range(10)))
        assert {answer.status_code for answer in answers} == {404}


async def send(server: uvicorn.Server, *parts: bytes, pause: float) -> bytes:
    """Send a request in parts, with a pause after each, and read what comes back at first."""
    host, port = address(server)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        answer = asyncio.create_task(reader.read(65_536))
        for part in parts:
            if answer.done():
                break
            writer.write(part)
            await asyncio.wait([answer], timeout=pause)
        async with asyncio.timeout(LATEST):
            return await answer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("path", ["/items", "/items/bulk"])
@pytest.mark.parametrize(
    ("parts", "pause"),
    [
        pytest.param([b'{"name": "'], LATEST, id="half sent"),
        pytest.param([b""], LATEST, id="none sent"),
        pytest.param([b'{"name": "', *[b"x"] * 180], TIMEOUT / 10, id="drop by drop"),
    ],
)
async def test_a_slow_body_is_given_up(
    server: uvicorn.Server, path: str, parts: list[bytes], pause: float
) -> None:
    before = exceeded()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        "Content-Length: 200\r\n\r\n"
    )
    begun = time.monotonic()
    answer = await send(server, head.encode() + parts[0], *parts[1:], pause=pause)

    assert TIMEOUT <= time.monotonic() - begun < LATEST
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"urn:items-service:timed-out" in answer
    assert exceeded() - before == 1
    await until(lambda: not server.server_state.tasks)
    await until(lambda: not server.server_state.connections)


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        pytest.param("/items?per_page=100", 100, id="list"),
        pytest.param("/items/export", 300, id="export in one part"),
        pytest.param("/items/export", 1200, id="export in several parts"),
    ],
)
async def test_a_client_that_does_not_read_loses_its_connection(
    app: FastAPI, server: uvicorn.Server, path: str, rows: int
) -> None:
    # Else its megabytes stay in memory for as long as it likes.
    await execute(
        app,
        "INSERT INTO items (name, description)"  # of 60 kB each, as JSON has it
        f" SELECT 'Big', repeat(chr(1), 10000) FROM generate_series(1, {rows})",
    )
    async with asking(server, path) as reader:
        assert await status(reader) == 200
        await until(lambda: not server.server_state.tasks)
        await until(lambda: not server.server_state.connections)
    assert connections(app) == 0


async def test_a_client_that_reads_slowly_keeps_its_connection(
    app: FastAPI, server: uvicorn.Server
) -> None:
    # The system asks for more in steps of a megabyte or so, and this machine may be busy.
    app.state.settings.request_timeout = 2
    before = exceeded()
    await store_big(app)
    begun = time.monotonic()
    size = 0
    async with asking(server, connection="close") as reader:
        assert await status(reader) == 200
        while chunk := await reader.read(2_000_000):
            size += len(chunk)
            if time.monotonic() - begun < 5:
                await asyncio.sleep(0.02)

    assert size > 3000 * 10_000
    assert time.monotonic() - begun > 2
    assert exceeded() == before


async def test_a_request_in_time_is_left_alone(server: uvicorn.Server) -> None:
    before = exceeded()
    host, port = address(server)
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
        for _ in range(3):
            assert (await client.get("/items/1")).status_code == 404
            await asyncio.sleep(2 * TIMEOUT)
        assert len(server.server_state.connections) == 1  # the same for all of them

    assert exceeded() == before
