"""PostgreSQL that does not respond: its processes are frozen, or its host is unreachable."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx2 as httpx
import psutil
import pytest
from sqlalchemy import make_url

from tests.support.apps import BIG, INSERT_BIG
from tests.support.postgres import Postgres
from tests.support.probes import (
    SERVICE,
    ask_all,
    check_unavailable,
    fill,
    seconds_until_well,
    serving,
    workers,
)
from tests.support.processes import Server, query, script
from tests.support.proxy import proxying
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

POOL_SIZE = 5  # connections that each worker may open, and as many beyond those
LEAK_TIMEOUT = 25.0  # seconds; PostgreSQL ends a transaction that does nothing after 30


@dataclass(slots=True)
class Database:
    """A database that can stop answering."""

    url: str
    hold: Callable[[], None]
    release: Callable[[], None]


@pytest.fixture(params=["frozen", "unreachable"])
def database(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[Database]:
    fill(postgres.url)
    if request.param == "frozen":
        yield Database(postgres.url, postgres.freeze, postgres.thaw)
        postgres.thaw()
    else:
        url = make_url(postgres.url)
        assert url.port
        with proxying(url.port) as proxy:
            url = url.set(port=proxy.port)
            yield Database(url.render_as_string(), proxy.hold, proxy.release)


@pytest.mark.parametrize(
    ("timeout", "waves"), [(4, 2), pytest.param(10, 10, marks=pytest.mark.soak)]
)
def test_requests_get_503_by_the_deadline_and_leave_no_connection_behind(
    database: Database, postgres: Postgres, timeout: int, waves: int
) -> None:
    async def ask_while_held(url: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as client:
            await seconds_until_well(client)
            async with client.stream("GET", "/items/export?is_active=true") as export:
                assert export.status_code == 200
                database.hold()
                reading = asyncio.create_task(export.aread())
                outcomes = [o for _ in range(waves) for o in await check_unavailable(client)]
                with pytest.raises(httpx.TransportError):
                    await reading
            database.release()
            seconds = await seconds_until_well(client)
        slowest = max(outcomes, key=lambda outcome: outcome.seconds)
        print(f"slowest: {slowest.kind}, {slowest.seconds:.3f} s; well after {seconds:.3f} s")

    script(postgres.url, INSERT_BIG.format(BIG))
    settings = {"REQUEST_TIMEOUT": str(timeout), "POOL_SIZE": str(POOL_SIZE)}
    with serving(database.url, MAX_OVERFLOW=str(POOL_SIZE), **settings) as server:
        before = workers(server)
        try:
            asyncio.run(ask_while_held(server.url))
        finally:
            database.release()
        assert workers(server) == before
        assert not server.events("unhandled_error")
        check_connections_settle(server, database)


def test_a_stop_does_not_wait_for_the_database(database: Database) -> None:
    async def open_connections(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            await ask_all(client, times=5)

    with serving(database.url) as server:
        asyncio.run(open_connections(server.url))
        database.hold()
        begun = time.monotonic()
        try:
            assert server.end() == 0
        finally:
            database.release()
        print(f"ended in {time.monotonic() - begun:.1f} s")
        # Gunicorn kills a worker that does not end in time, which then logs nothing.
        assert len(server.events("stopped")) == 2
        assert "SIGKILL" not in server.stderr()


def check_connections_settle(server: Server, database: Database) -> None:
    """Wait until no connection is in use, and each backend belongs to a connection of a pool."""
    port = make_url(database.url).port
    begun = time.monotonic()

    def is_settled() -> bool:
        metrics = httpx.get(f"{server.url}/metrics", timeout=TIMEOUT).text
        in_use = re.findall(r"^database_connections_in_use (\S+)", metrics, re.MULTILINE)
        backends = query(database.url, f"SELECT state FROM pg_stat_activity WHERE {SERVICE}")
        sockets = [
            socket
            for pid in workers(server)
            for socket in psutil.Process(pid).net_connections("tcp")
            if socket.raddr and socket.raddr.port == port
        ]
        assert time.monotonic() - begun < LEAK_TIMEOUT, (in_use, backends, len(sockets))
        return (
            sum(map(float, in_use)) == 0
            and len(sockets) == len(backends) <= len(workers(server)) * POOL_SIZE
            and all(state == "idle" for (state,) in backends)
        )

    wait_until(is_settled)
    print(f"settled after {time.monotonic() - begun:.1f} s")
