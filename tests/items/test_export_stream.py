"""The export of items as a stream: its snapshot, its pace, and the resources that it frees."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.crud import listing
from service.database import engine
from service.database.engine import transactional
from service.domain.item import Item, ItemFilter
from service.main import create_app
from service.server.protocol import ServiceProtocol
from service.settings import Settings
from service.state import state_of
from tests.support.apps import (
    BIG,
    asking,
    connections_in_use,
    execute,
    listening,
    no_complaints,
    serving,
    status,
    store_big,
    web_client,
)
from tests.support.lists import store_names
from tests.support.locks import until_true
from tests.support.logs import Log, reading_log
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

EXPORT = "/items/export"
FORMS = ["ndjson", "csv"]
SLOTS = 2
EXPORTING = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'items-service' AND state LIKE 'idle in transaction%'"
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The fewest slots and connections possible: the tests notice one that is not freed."""
    settings.max_exports, settings.pool_size, settings.max_overflow = SLOTS, SLOTS + 1, 0
    return settings


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """The application on a port, with more items than the buffers of a connection hold."""
    await store_big(app)
    async with no_complaints(), listening(app) as server:
        yield server


@pytest.fixture
async def web(server: uvicorn.Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client over real sockets with small buffers."""
    async with web_client(server) as client:
        yield client


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that exports have read from the database."""
    sizes: list[int] = []
    export_items = crud.export_items

    async def read_and_note(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
        async for batch in export_items(conn, wanted):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(crud, "export_items", read_and_note)
    return sizes


async def fill_slots(stack: AsyncExitStack, server: uvicorn.Server) -> None:
    """Start as many exports as there may be, for clients that read nothing of the body."""
    for _ in range(SLOTS):
        assert await status(await stack.enter_async_context(asking(server))) == 200


async def check_all_is_free(app: FastAPI, server: uvicorn.Server) -> None:
    """Wait until no connection of the pool is in use; assert that exactly the slots are free."""
    await until(lambda: connections_in_use(app) == 0)
    async with state_of(app).engine.connect() as conn:
        assert await conn.scalar(text(f"SELECT count(*) {EXPORTING}")) == 0
    async with AsyncExitStack() as stack:
        await fill_slots(stack, server)
        assert await status(await stack.enter_async_context(asking(server))) == 503


async def check_no_complaint(
    server: uvicorn.Server, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    """Wait until all connections are closed; assert that nothing above INFO was logged."""
    await until(lambda: not server.server_state.connections)
    assert {line["level"] for line in log.lines()} == {"info"}
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


async def test_an_export_is_a_snapshot(app: FastAPI, web: httpx.AsyncClient) -> None:
    async with web.stream("GET", EXPORT) as answer:
        chunks = answer.aiter_bytes()
        body = [await anext(chunks)]
        assert connections_in_use(app) == 1  # the export is still in flight
        await execute(
            app,
            "UPDATE items SET name = 'Changed', description = NULL WHERE id % 2 = 0",
            "DELETE FROM items WHERE id % 5 = 0",
            "INSERT INTO items (name) SELECT 'New' FROM generate_series(1, 100)",
        )
        body += [chunk async for chunk in chunks]

    rows = [json.loads(line) for line in b"".join(body).splitlines()]
    assert [row["id"] for row in rows] == list(range(1, BIG + 1))
    assert {(row["name"], len(row["description"])) for row in rows} == {("Big", 10_000)}
    assert (await web.get("/items/2")).json()["name"] == "Changed"
    assert (await web.get("/items/5")).status_code == 404


async def test_no_timeout_of_the_database_counts_while_a_client_reads(app: FastAPI) -> None:
    await store_names(app, "Lamp")
    async with transactional(state_of(app).engine).connect() as conn:
        pid = await conn.scalar(text("SELECT pg_backend_pid()"))
        export = crud.export_items(conn, ItemFilter())
        assert len(await anext(export)) == 1
        # No statement is running that `statement_timeout` would end, though more may follow.
        await until_true(
            app, f"(SELECT state = 'idle in transaction' FROM pg_stat_activity WHERE pid = {pid})"
        )
        assert await conn.scalar(text("SELECT count(*) FROM pg_cursors WHERE name <> ''")) == 1
        assert await conn.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
        assert [batch async for batch in export] == []


def test_a_stream_times_out_before_an_idle_transaction_would(settings: Settings) -> None:
    assert settings.request_timeout * 1000 < engine.IDLE_IN_TRANSACTION_TIMEOUT_MS


async def test_head_reads_one_batch_and_frees_its_slot(
    app: FastAPI, server: uvicorn.Server, batches: list[int]
) -> None:
    for _ in range(SLOTS + 1):
        async with asking(server, method="HEAD") as reader:
            assert await status(reader) == 200
    async with asking(server, method="HEAD", connection="close") as reader:
        head, body = (await reader.read()).split(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""
    assert batches == [listing.EXPORT_BATCH] * (SLOTS + 2)
    await check_all_is_free(app, server)


async def test_no_more_is_read_than_the_client_takes(
    server: uvicorn.Server, batches: list[int]
) -> None:
    async with asking(server) as reader:
        assert await status(reader) == 200
        (connection,) = server.server_state.connections
        assert isinstance(connection, ServiceProtocol)
        await until(lambda: connection.flow.write_paused)  # the server waits for the client

        assert 1 <= len(batches) <= 3
        async with asyncio.timeout(TIMEOUT):
            await reader.readexactly(10_000 * listing.EXPORT_BATCH * 5 // 2)
        assert 3 <= len(batches) < BIG // listing.EXPORT_BATCH


async def test_exports_beyond_the_slots_are_refused_and_other_requests_are_served(
    app: FastAPI, server: uvicorn.Server, web: httpx.AsyncClient
) -> None:
    async with AsyncExitStack() as stack:
        await fill_slots(stack, server)
        for form in FORMS:
            refused = await web.get(EXPORT, params={"format": form})
            check_problem(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) > 0
        assert (await web.head(EXPORT)).status_code == 503

        assert (await web.post("/items", json=LAMP)).status_code == 201
        paths = ["/items", "/items/1", "/items?q=lamp&sort=-name", "/health/ready"]
        answers = await asyncio.gather(*(web.get(path) for path in paths * 3))
        assert {answer.status_code for answer in answers} == {200}
        assert connections_in_use(app) == SLOTS  # the exports are still in flight

    await check_all_is_free(app, server)


@pytest.mark.parametrize(("form", "size"), [("csv", 0), ("ndjson", 6_000_000)])
async def test_a_disconnected_client_frees_its_slot_and_is_no_error(
    app: FastAPI, server: uvicorn.Server, caplog: pytest.LogCaptureFixture, form: str, size: int
) -> None:
    with reading_log() as log:
        for _ in range(SLOTS):
            async with asking(server, f"{EXPORT}?format={form}") as reader:
                assert await status(reader) == 200
                async with asyncio.timeout(TIMEOUT):
                    await reader.readexactly(size)
        await until(lambda: len(log.events("request")) == SLOTS)
        lines = log.events("request")
        await check_all_is_free(app, server)
        await check_no_complaint(server, log, caplog)

    for line in lines:
        assert (line["route"], line["status"]) == (EXPORT, 200)
        assert size <= line["bytes"] < BIG * 10_000


async def test_a_client_that_disconnects_before_the_first_byte_frees_its_slot(
    app: FastAPI, server: uvicorn.Server, caplog: pytest.LogCaptureFixture
) -> None:
    with reading_log() as log:
        async with transactional(state_of(app).engine).begin() as conn:
            await conn.execute(text("LOCK TABLE items"))
            async with AsyncExitStack() as stack:
                for _ in range(SLOTS):
                    await stack.enter_async_context(asking(server))
                await until(lambda: connections_in_use(app) == SLOTS + 1)
        await check_all_is_free(app, server)
        await check_no_complaint(server, log, caplog)


async def test_a_client_that_reads_nothing_loses_its_connection_and_frees_its_slot(
    app: FastAPI, server: uvicorn.Server, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.request_timeout = 0.2  # of a stream; that of a request is fixed at the start
    with reading_log() as log:
        async with AsyncExitStack() as stack:
            await fill_slots(stack, server)
            await until(lambda: not server.server_state.connections)
            settings.request_timeout = TIMEOUT
            await check_all_is_free(app, server)
        await check_no_complaint(server, log, caplog)


async def test_a_fault_before_the_first_byte_is_a_problem_and_frees_the_slot(
    app: FastAPI, server: uvicorn.Server, web: httpx.AsyncClient
) -> None:
    await execute(app, "ALTER TABLE items RENAME TO gone")
    try:
        for form in FORMS * SLOTS:
            answer = await web.get(EXPORT, params={"format": form})
            check_problem(answer, 500, "internal-error")
    finally:
        await execute(app, "ALTER TABLE gone RENAME TO items")

    await check_all_is_free(app, server)


@pytest.mark.parametrize("form", FORMS)
async def test_a_fault_amid_the_stream_breaks_it_off_and_is_logged(
    app: FastAPI, server: uvicorn.Server, web: httpx.AsyncClient, form: str
) -> None:
    with reading_log() as log:
        async with web.stream("GET", EXPORT, params={"format": form}) as answer:
            chunks = answer.aiter_raw()
            await anext(chunks)
            await until_true(app, f"(SELECT count(*) = 1 {EXPORTING})")
            await execute(app, f"SELECT pg_terminate_backend(pid, 60000) {EXPORTING}")
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                async for _ in chunks:
                    pass
        request = await log.line_of(answer)
        (fault,) = log.events("database_fault")
        assert log.events("unhandled_error") == []

    assert request["status"] == 200
    assert fault["level"] == "warning"
    assert fault["request_id"] == request["request_id"]
    assert (await web.get(EXPORT)).content.count(b"\n") == BIG
    await check_all_is_free(app, server)


async def test_without_a_free_connection_an_export_is_a_503_and_frees_the_slot(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"pool_size": 1, "pool_timeout": 0.05}))
    async with serving(app) as client:
        async with state_of(app).engine.connect():
            for _ in range(SLOTS + 1):
                check_problem(await client.get(EXPORT), 503, "unavailable")
        assert (await client.get(EXPORT)).status_code == 200
