"""The deadline of a request: it gets a 503 in time, whatever it waits for, and frees everything."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.routing import Route

from service.database.engine import transactional
from service.http.streaming import Stream
from service.observability.metrics import DEADLINE_EXCEEDED
from service.settings import Settings
from service.state import state_of
from tests.support.apps import (
    address,
    asking,
    connections_in_use,
    listening,
    set_deadline,
    status,
    store_big,
    tolerate_locks,
    web_client,
)
from tests.support.locks import BLOCKED, BUSY, until_true
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

DEADLINE = 0.3  # seconds
KEY = {"Idempotency-Key": "order-4711"}
CREATE_WITH_KEY: dict[str, Any] = {"method": "POST", "url": "/items", "json": LAMP, "headers": KEY}
# A request of each kind that reads or writes the table.
CALLS: list[dict[str, Any]] = [
    {"method": "GET", "url": "/items/1"},
    {"method": "GET", "url": "/items"},
    {"method": "GET", "url": "/items?q=lamp"},
    {"method": "POST", "url": "/items", "json": LAMP},
    CREATE_WITH_KEY,
    {"method": "POST", "url": "/items/bulk", "json": {"items": [LAMP]}},
    {"method": "PUT", "url": "/items/1", "json": LAMP},
    {"method": "PATCH", "url": "/items/1", "json": LAMP},
    {"method": "DELETE", "url": "/items/1"},
    {"method": "GET", "url": "/items/export"},
]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A short deadline for requests, and long timeouts for all they wait for."""
    settings.request_timeout = DEADLINE
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture
def small_pool(settings: Settings) -> None:
    """A pool of three connections; two of them may hold transactions."""
    settings.pool_size, settings.max_overflow = 2, 1


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """The application on a port of its own."""
    async with listening(app) as server:
        yield server


@asynccontextmanager
async def locked_table(app: FastAPI) -> AsyncIterator[None]:
    """Lock the items against all reads and writes."""
    async with transactional(state_of(app).engine).begin() as conn:
        await conn.execute(text("LOCK TABLE items"))
        yield


def lengthen_deadline(app: FastAPI) -> None:
    """Give requests that begin from now on as much time as a busy machine needs."""
    set_deadline(app, TIMEOUT)
    state_of(app).settings.request_timeout = TIMEOUT


def exceeded() -> float:
    """Return the number of requests that passed their deadline, from the metric."""
    (metric,) = DEADLINE_EXCEEDED.collect()
    return metric.samples[0].value


def connections(app: FastAPI) -> int:
    """Return the number of database connections in use."""
    in_use: int = connections_in_use(app)
    return in_use


async def test_requests_that_wait_for_the_database_get_a_503_and_leave_nothing(
    app: FastAPI, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    async def request(arguments: dict[str, Any]) -> tuple[httpx.Response, float]:
        begun = time.monotonic()
        answer = await client.request(**arguments)
        return answer, time.monotonic() - begun

    before = exceeded()
    async with locked_table(app):
        # Calls are coalesced: more of them wait than are sent.
        calls = [*CALLS, *(call for call in CALLS[:4] for _ in range(10))]
        answers = await asyncio.gather(*map(request, calls))
        # Nothing is left while the table is still locked.
        await until(lambda: connections(app) == 1)
        await until_true(app, f"{BLOCKED} = 0")
        assert state_of(app).items.get.waiting == state_of(app).items.create.waiting == 0

    print(f"deadline {DEADLINE} s, longest {max(seconds for _, seconds in answers):.2f} s")
    for answer, seconds in answers:
        problem = check_problem(answer, 503, "timed-out")
        assert "not known" in problem["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert DEADLINE <= seconds < TIMEOUT
    assert exceeded() - before == len(calls)
    await until(lambda: connections(app) == 0)
    await until_true(app, f"{BUSY} = 0")
    assert "unhandled_error" not in capsys.readouterr().err
    lengthen_deadline(app)
    assert (await client.get("/items")).json()["total"] == 0
    again = await client.request(**CREATE_WITH_KEY)
    assert (again.status_code, "idempotency-replayed" in again.headers) == (201, False)


@pytest.mark.usefixtures("small_pool")
async def test_a_request_that_waits_for_a_connection_gets_a_503_and_gives_up_its_place(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async def take_all() -> list[AsyncConnection]:
        async with asyncio.timeout(TIMEOUT):
            return [await state_of(app).engine.connect().start() for _ in range(3)]

    taken = await take_all()
    for answer in await asyncio.gather(*(client.request(**call) for call in CALLS)):
        check_problem(answer, 503, "timed-out")
    for conn in taken:
        await conn.close()
    await until(lambda: connections(app) == 0)

    for conn in await take_all():
        await conn.close()
    lengthen_deadline(app)
    answers = await asyncio.gather(*(client.request(**call) for call in CALLS))
    assert {answer.status_code for answer in answers} <= {200, 201, 204, 404}


@pytest.mark.parametrize("drop", [b"", b"x"], ids=["half of it", "byte by byte"])
async def test_a_request_whose_body_comes_slowly_gets_a_503(
    server: uvicorn.Server, drop: bytes
) -> None:
    before = exceeded()
    reader, writer = await asyncio.open_connection(*address(server))
    begun = time.monotonic()
    writer.write(
        b"POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b'Content-Length: 1000000\r\n\r\n{"name": "'
    )
    answer = asyncio.create_task(reader.readuntil(b"}"))
    async with asyncio.timeout(TIMEOUT):
        while not answer.done():
            writer.write(drop)
            await asyncio.wait([answer], timeout=DEADLINE / 10)
    seconds = time.monotonic() - begun

    print(f"deadline {DEADLINE} s, answered after {seconds:.2f} s")
    assert seconds >= DEADLINE
    assert (await answer).startswith(b"HTTP/1.1 503 ")
    assert b"urn:items-service:timed-out" in await answer
    assert exceeded() - before == 1
    await until(lambda: not server.server_state.tasks)
    writer.transport.abort()


async def test_a_client_that_does_not_read_a_response_loses_its_connection(
    app: FastAPI, server: uvicorn.Server
) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(1000):  # more than all buffers hold
            yield b"x" * 65_536
            await asyncio.sleep(0)

    @app.get("/stream")
    async def stream() -> Response:
        return StreamingResponse(chunks())

    before = exceeded()
    async with asking(server, "/stream"):
        await until(lambda: exceeded() - before == 1)
        await until(lambda: not server.server_state.tasks)
        await until(lambda: not server.server_state.connections)


async def test_a_client_that_does_not_read_an_export_loses_its_connection(
    app: FastAPI, server: uvicorn.Server
) -> None:
    lengthen_deadline(app)  # for the first part
    state_of(app).settings.request_timeout = DEADLINE  # for each part
    await store_big(app)
    async with asking(server) as reader:
        assert await status(reader) == 200
        await until(lambda: not server.server_state.tasks)
        await until(lambda: not server.server_state.connections)
    assert connections(app) == 0


def add_stream(app: FastAPI, chunks: AsyncGenerator[bytes, None]) -> Stream:
    """Add /stream, which sends `chunks` once, and return its response."""
    response = Stream(chunks, DEADLINE, TIMEOUT, "text/plain")

    async def stream(request: Request) -> Response:
        return await response.begin()

    app.router.routes.append(Route("/stream", stream))
    return response


async def test_a_stream_may_take_longer_than_the_deadline(
    app: FastAPI, server: uvicorn.Server
) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"1"
        response.timeout = TIMEOUT
        yield b"2"
        await asyncio.sleep(DEADLINE)  # every timer so far began before, so it would end before
        yield b"3"

    before = exceeded()
    response = add_stream(app, chunks())
    async with web_client(server) as client:
        answer = await client.get("/stream")

    assert (answer.status_code, answer.text) == (200, "123")
    assert exceeded() == before


async def test_a_stream_whose_next_part_does_not_come_in_time_is_broken_off(
    app: FastAPI, server: uvicorn.Server
) -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"1"
            await asyncio.Event().wait()
        finally:
            closed.set()

    add_stream(app, chunks())
    async with asking(server, "/stream"), asyncio.timeout(TIMEOUT):
        await closed.wait()
        await until(lambda: not server.server_state.connections)


async def test_the_deadline_of_a_served_request_does_not_close_its_connection(
    server: uvicorn.Server,
) -> None:
    before = exceeded()
    async with web_client(server) as client:
        for _ in range(2):
            assert (await client.get("/health/live")).status_code == 200
            await asyncio.sleep(DEADLINE)  # the deadline began before, so it would pass before
        assert len(server.server_state.connections) == 1

    assert exceeded() == before
