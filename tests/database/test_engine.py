"""The engine: the settings of each connection, and connections that are lost."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from threading import Thread
from typing import Any

import httpx2 as httpx
import pytest
from asyncpg import Connection
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.engine import PoolerRefused, create_engine, create_migrator_engine
from service.database.faults import sqlstate
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import client_of
from tests.support.commands import items
from tests.support.processes import connection, query
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(settings)
    yield engine
    await engine.dispose()


async def driver_of(engine: AsyncEngine) -> Any:
    """Return asyncpg's connection, back in the pool."""
    async with engine.connect() as conn:
        return (await conn.get_raw_connection()).driver_connection


async def test_each_connection_gets_its_settings(settings: Settings) -> None:
    engine = create_engine(settings.model_copy(update={"statement_timeout_ms": 1234}))
    expected = {
        "application_name": "items-service",
        "timezone": "UTC",
        "default_transaction_isolation": "read committed",
        "statement_timeout": "1234ms",
        "lock_timeout": "3s",
        "idle_in_transaction_session_timeout": "30s",
        "jit": "off",
    }
    async with engine.connect() as conn:
        assert {name: await conn.scalar(text(f"SHOW {name}")) for name in expected} == expected
    await engine.dispose()


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="these names are Linux's")
async def test_idle_connections_probe_whether_the_host_is_there(engine: AsyncEngine) -> None:
    sock = (await driver_of(engine))._transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        pytest.skip("the embedded server is on this host")

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    assert [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [4, 1, 4]


@pytest.mark.parametrize("pre_ping", [False, True])
@pytest.mark.parametrize("is_noticed", [False, True])
async def test_a_lost_connection_is_replaced_without_an_error(
    settings: Settings, database_url: str, pre_ping: bool, is_noticed: bool
) -> None:
    """Whether the driver has noticed the loss or has yet to read that the server ended it."""
    changes = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": pre_ping}
    engine = create_engine(settings.model_copy(update=changes))
    async with engine.connect() as conn:
        pid = await conn.scalar(PID)
    driver = await driver_of(engine)

    # A thread that blocks the event loop, so that the driver reads nothing meanwhile.
    kill = f"SELECT pg_terminate_backend({pid}, {TIMEOUT * 1000:.0f})"
    thread = Thread(target=query, args=(database_url, kill))
    thread.start()
    thread.join()
    if is_noticed:
        await until(driver.is_closed)
    assert driver.is_closed() == is_noticed

    async with engine.connect() as conn:
        assert await conn.scalar(PID) != pid
    await engine.dispose()


async def test_the_lifespan_opens_connections_when_needed_and_closes_them(
    settings: Settings, empty_database_url: str
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    app = create_app(settings)
    assert not hasattr(app.state, "engine")
    async with connection(empty_database_url) as admin:

        async def backends() -> int:
            counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            return int(await admin.fetchval(f"{counted} AND application_name = 'items-service'"))

        async with app.router.lifespan_context(app), client_of(app) as client:
            assert await backends() == 0
            for _ in range(5):
                await client.get("/health")
            assert await backends() == 1
        async with asyncio.timeout(TIMEOUT):
            while await backends():  # noqa: ASYNC110 (the server does not tell when one ends)
                await asyncio.sleep(0.01)


async def test_connections_to_a_server_that_became_read_only_are_replaced(
    settings: Settings,
) -> None:
    """After a failover, the address leads to another server."""
    engine = create_engine(settings.model_copy(update={"pool_size": 3, "max_overflow": 0}))
    write = text("CREATE SEQUENCE was_written")
    async with engine.connect() as first, engine.connect() as second, engine.connect() as third:
        pids = [await conn.scalar(PID) for conn in (first, second, third)]
        for conn in (first, second, third):
            await conn.execute(text("SET default_transaction_read_only = on"))

    async with engine.connect() as conn:
        with pytest.raises(DBAPIError) as refused:
            await conn.execute(write)
    assert sqlstate(refused.value) == "25006"
    async with engine.connect() as conn:
        assert await conn.scalar(PID) not in pids
        await conn.execute(write)
        await conn.execute(text("DROP SEQUENCE was_written"))
    await engine.dispose()


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/items"), ("POST", "/items/bulk"), ("PUT", "/items/1")]
)
async def test_a_write_that_met_a_read_only_server_is_run_again(
    client: httpx.AsyncClient, app: FastAPI, method: str, path: str
) -> None:
    assert (await client.post("/items", json=LAMP)).status_code == 201
    async with AsyncExitStack() as stack:
        engine = state_of(app).engine
        for _ in range(3):
            conn = await stack.enter_async_context(engine.connect())
            await conn.execute(text("SET default_transaction_read_only = on"))
    body = {"items": [LAMP]} if path.endswith("bulk") else LAMP
    answer = await client.request(method, path, json=body)

    assert answer.is_success, answer.text


async def test_reads_keep_their_connections_while_no_server_accepts_writes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing all of them for each refused write would slow the reads down."""
    now = 1000.0
    monkeypatch.setattr("service.database.engine.monotonic", lambda: now)
    engine = create_engine(settings.model_copy(update={"pool_size": 2, "max_overflow": 0}))
    read_only = text("SET default_transaction_read_only = on")

    async def fail_to_write() -> None:
        async with engine.connect() as conn:
            await conn.execute(read_only)
            with pytest.raises(DBAPIError):
                await conn.execute(text("CREATE SEQUENCE never"))

    await fail_to_write()
    async with engine.connect() as reader:
        pid = await reader.scalar(PID)
        await fail_to_write()
    async with engine.connect() as conn:
        assert await conn.scalar(PID) == pid
    await engine.dispose()


async def test_a_connection_of_a_pooler_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "get_server_pid", lambda self: 1)
    for engine in (create_engine(settings), create_migrator_engine(settings)):
        with pytest.raises(PoolerRefused, match="connection pooler"):
            await engine.connect()
        await engine.dispose()


@pytest.mark.parametrize("command", ["migrate", "serve", "purge"])
def test_commands_refuse_a_pooler_in_one_line(
    database_url: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(Connection, "get_server_pid", lambda self: 1)
    refused = items(command, env={"DATABASE_URL": database_url})

    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ")
    assert "DATABASE_URL leads to a connection pooler" in refused.stderr
    assert refused.stderr.count("\n") == 1
