"""The engine: the settings of each connection, and connections that are lost."""

import asyncio
import socket
from collections.abc import AsyncIterator
from threading import Thread
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database.engine import create_engine
from service.main import create_app
from service.settings import Settings
from tests.support.apps import client_of
from tests.support.processes import connection, query
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
