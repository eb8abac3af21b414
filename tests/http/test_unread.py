"""Responses that clients read slowly, or not at all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest
import uvicorn
from fastapi import FastAPI

from service.server import protocol
from service.settings import Settings
from service.state import state_of
from tests.support.apps import (
    address,
    asking,
    execute,
    listening,
    no_complaints,
    set_deadline,
    status,
    web_client,
)
from tests.support.logs import reading_log
from tests.support.problems import check_problem
from tests.support.protocol import connected
from tests.support.waiting import TIMEOUT, until

PAGE = "/items?per_page=100"
# More than all buffers between the service and a client hold: 4 MB a page.
INSERT = (
    "INSERT INTO items (name, description)"
    " SELECT 'Big', repeat('💡', 10000) FROM generate_series(1, 100)"
)
PAGE_SIZE = 4_000_000
UNREAD = 64 * 1024 * 1024
DEADLINE = 2.0  # seconds: a timeout that is to pass, though not before the response begins


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """The application on a port, with a large page of items."""
    await execute(app, INSERT)
    async with no_complaints(), listening(app) as server:
        yield server


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_a_client_that_does_not_read_a_page_loses_its_connection_at_the_deadline(
    app: FastAPI, server: uvicorn.Server, connection: str
) -> None:
    set_deadline(app, DEADLINE)
    with reading_log() as log:
        async with asking(server, PAGE, connection=connection) as reader:
            assert await status(reader) == 200
            await until(lambda: not server.server_state.connections)
            await until(lambda: log.events("request"))
        (line,) = log.events("request")

    assert (line["status"], line["broken_off"]) == (200, True)
    assert state_of(app).response_budget.left == UNREAD


async def test_responses_that_nobody_reads_take_a_bounded_memory(
    app: FastAPI, server: uvicorn.Server
) -> None:
    budget = state_of(app).response_budget
    async with AsyncExitStack() as stack, web_client(server) as client:
        for _ in range(UNREAD // PAGE_SIZE):
            await stack.enter_async_context(asking(server, PAGE))
        await until(lambda: budget.left < PAGE_SIZE)
        check_problem(await client.get(PAGE), 503, "unavailable")
        assert (await client.get("/items?per_page=1&q=none")).status_code == 200
    await until(lambda: budget.left == UNREAD)


async def test_a_client_that_reads_slowly_gets_all_of_a_page(
    app: FastAPI, server: uvicorn.Server, settings: Settings
) -> None:
    async with asking(server, PAGE, connection="close") as reader:
        assert await status(reader) == 200
        size = 0
        async with asyncio.timeout(TIMEOUT):
            while part := await reader.read(200_000):
                size += len(part)
                await asyncio.sleep(0.01)
    assert size > PAGE_SIZE


async def test_a_client_that_reads_an_export_slowly_is_served_longer_than_any_timeout(
    app: FastAPI, server: uvicorn.Server
) -> None:
    settings = state_of(app).settings
    settings.request_timeout = 2.0
    begun = asyncio.get_running_loop().time()
    async with asking(server, "/items/export", connection="close") as reader:
        assert await status(reader) == 200
        size = 0
        while part := await reader.read(65_536):
            size += len(part)
            await asyncio.sleep(0.05)  # 4 MB in more than 3 seconds
    assert size > PAGE_SIZE
    assert asyncio.get_running_loop().time() - begun > settings.request_timeout


async def test_an_export_has_a_total_bound(app: FastAPI, server: uvicorn.Server) -> None:
    state_of(app).settings.export_timeout = 0.2
    with reading_log() as log:
        async with asking(server, "/items/export") as reader:
            assert await status(reader) == 200
            with suppress(ConnectionError):
                for _ in range(10_000):
                    await reader.read(4096)
                    await asyncio.sleep(0.02)
                    if reader.at_eof():
                        break
        await until(lambda: log.events("request"))
        (line,) = log.events("request")
    assert line["broken_off"] is True


async def test_a_closed_connection_whose_client_does_not_read_ends(
    app: FastAPI, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "CLOSE_TIMEOUT", DEADLINE)
    async with asking(server, PAGE, connection="close") as reader:
        assert await status(reader) == 200
        await until(lambda: not server.server_state.connections)


@pytest.mark.parametrize("path", ["/items/export?format=csv", "/items/export", "/items/1"])
async def test_http_1_0_gets_plain_bytes_until_the_connection_ends(
    server: uvicorn.Server, path: str
) -> None:
    reader, writer = await asyncio.open_connection(*address(server))
    writer.write(f"GET {path} HTTP/1.0\r\nHost: test\r\n\r\n".encode())
    async with asyncio.timeout(TIMEOUT):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
    writer.close()
    async with web_client(server) as client:
        assert body == (await client.get(path)).content
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head


async def test_stalled_bulk_bodies_do_not_delay_small_ones(
    app: FastAPI, server: uvicorn.Server
) -> None:
    async with AsyncExitStack() as stack, web_client(server) as client:
        budget = state_of(app).body_budget
        start = budget.left
        for _ in range(8):
            connection = await stack.enter_async_context(connected(address(server)))
            await connection.send(
                b"POST /items/bulk HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
                b"Content-Length: 16000000\r\n\r\n" + b" " * 1_000_000
            )
        await until(lambda: budget.left == start - 8_000_000)
        assert (await client.post("/items", json={"name": "Lamp"})).status_code == 201
    await until(lambda: budget.left == start)
