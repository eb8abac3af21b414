"""PostgreSQL that answers nothing and breaks nothing: it stands still, or its network does."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from threading import Event, Thread

import httpx2 as httpx
import psutil
import pytest
from sqlalchemy import make_url

from tests.support.postgres import new_postgres
from tests.support.probes import (
    SERVICE,
    Outcome,
    ask_all,
    fill,
    seconds_until_well,
    serving,
    watching_liveness,
    workers,
)
from tests.support.processes import Server, query, script
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

LATE = 0.5  # seconds by which a request may outlive its deadline
SOON = 2.0  # seconds after the database answers again within which all is well
SETTLED = 10.0  # seconds after which nothing may be left of it; PostgreSQL ends leaks after 30
POOL = 5
# Inactive, and far more than all buffers on the way hold.
INSERT_BIG = (
    "INSERT INTO items (name, description, is_active)"
    " SELECT 'Big', repeat('x', 10000), false FROM generate_series(1, 3000)"
)
BIG_EXPORT = "/items/export?is_active=false"


@dataclass(slots=True)
class Database:
    """A database that can be made to answer nothing."""

    url: str
    hold: Callable[[], None]
    go_on: Callable[[], None]


@contextmanager
def freezing() -> Iterator[Database]:
    """PostgreSQL itself stands still."""
    with new_postgres() as postgres:
        yield Database(postgres.url, postgres.freeze, postgres.thaw)


@contextmanager
def black_holed() -> Iterator[Database]:
    """The network takes all that is sent, and carries none of it."""
    with new_postgres() as postgres:
        url = make_url(postgres.url)
        assert url.port
        proxy = Proxy(url.port)
        thread = Thread(target=lambda: asyncio.run(proxy.forward()))
        thread.start()
        proxy.started.wait()
        url = url.set(port=proxy.port)
        try:
            yield Database(url.render_as_string(), proxy.hold, proxy.go_on)
        finally:
            proxy.end()
            thread.join()


class Proxy:
    """Forwards connections to a port of 127.0.0.1, or keeps what they carry to itself."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.started = Event()
        self._target = target

    async def forward(self) -> None:
        """Forward until the end."""
        self._loop = asyncio.get_running_loop()
        self._flowing, self._over = asyncio.Event(), asyncio.Event()
        self._flowing.set()
        async with await asyncio.start_server(self._connect, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            self.started.set()
            await self._over.wait()

    def hold(self) -> None:
        """Take what comes, connections too, and pass nothing on, not even that one has ended."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def go_on(self) -> None:
        """Pass on what was held, and what comes."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pass_on(reader, there[1]), self._pass_on(there[0], writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    await self._flowing.wait()
                    writer.write(data)
                    await writer.drain()
            await self._flowing.wait()
        finally:
            writer.close()


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(2, 6), pytest.param(10, 30, marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("new_database", [freezing, black_holed])
def test_no_request_outlives_its_deadline_and_nothing_is_left_of_it(
    new_database: Callable[[], AbstractContextManager[Database]], timeout: float, seconds: float
) -> None:
    settings = {
        "REQUEST_TIMEOUT": str(timeout),
        # So few that one more, which the pool has forgotten, is noticed.
        "POOL_SIZE": str(POOL),
        "MAX_OVERFLOW": str(POOL),
    }
    with new_database() as database:
        fill(database.url)
        script(database.url, INSERT_BIG)
        with serving(database.url, **settings) as server:
            before = workers(server)
            with watching_liveness(server.url) as liveness:
                try:
                    story = asyncio.run(go_through_it(server, database, seconds))
                finally:
                    database.go_on()
            story.report()
            liveness.check()
            assert workers(server) == before
            assert not server.events("unhandled_error")
            for outcome in story.outcomes:
                assert outcome.seconds < timeout + LATE + story.lag, outcome
                assert (outcome.kind, outcome.status) == (outcome.kind, 503)
                assert int(outcome.headers["retry-after"]) > 0
            assert story.stream_seconds < timeout + LATE + story.lag
            assert story.seconds_until_well < SOON
            wait_until_settled(server, database)


@pytest.mark.parametrize("new_database", [freezing, black_holed])
def test_a_stop_does_not_wait_for_it(
    new_database: Callable[[], AbstractContextManager[Database]],
) -> None:
    async def ask_often(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            await ask_all(client, times=5)

    with new_database() as database:
        fill(database.url)
        with serving(database.url) as server:
            wait_until(lambda: len(server.events("started")) == 2)
            asyncio.run(ask_often(server.url))  # so that there are connections to close
            database.hold()
            try:
                begun = time.monotonic()
                server.end()
                print(f"it took {time.monotonic() - begun:.1f} s to end")
                assert time.monotonic() - begun < 6
                assert len(server.events("stopped")) == 2
                assert "SIGKILL" not in server.stderr()
            finally:
                database.go_on()


@dataclass(slots=True)
class Story:
    """What happened while the database answered nothing, and then."""

    outcomes: list[Outcome]
    stream_seconds: float  # from what a stream carried last to its end
    lag: float  # seconds by which the client itself was late, at most
    seconds_until_well: float

    def report(self) -> None:
        longest = sorted(self.outcomes, key=lambda outcome: outcome.seconds)[-1]
        print(
            f"{len(self.outcomes)} requests, the slowest: {longest.kind}, {longest.seconds:.3f} s"
        )
        print(f"a stream was broken off {self.stream_seconds:.3f} s after its last part")
        print(f"the client was late by {self.lag:.3f} s at most")
        print(f"well {self.seconds_until_well:.3f} s after the database was back")


async def go_through_it(server: Server, database: Database, seconds: float) -> Story:
    """Hold the database for so long, and send requests of every kind all along."""
    async with httpx.AsyncClient(
        base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=None)
    ) as client:
        await seconds_until_well(client)
        has_begun = asyncio.Event()
        stream = asyncio.create_task(read_stream(client, has_begun))
        await has_begun.wait()
        await asyncio.to_thread(database.hold)
        watch = asyncio.create_task(watch_lag())
        waves = []
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            waves.append(asyncio.create_task(ask_all(client)))
            await asyncio.sleep(0.5)
        stream_seconds = await stream
        outcomes = [outcome for wave in waves for outcome in await wave]
        watch.cancel()
        await asyncio.to_thread(database.go_on)
        return Story(outcomes, stream_seconds, await watch, await seconds_until_well(client))


async def watch_lag() -> float:
    """By how many seconds this process is late at most, until it is told to stop."""
    lag = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            lag = max(lag, time.perf_counter() - due)
    return lag


async def read_stream(client: httpx.AsyncClient, has_begun: asyncio.Event) -> float:
    """Read a large export; how long it took from its last part until it broke off."""
    last = time.perf_counter()
    try:
        async with client.stream("GET", BIG_EXPORT) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_raw():
                last = time.perf_counter()
                if not has_begun.is_set():
                    has_begun.set()
                    await asyncio.sleep(0.5)  # until the database is held
    except httpx.TransportError:
        return time.perf_counter() - last
    raise AssertionError("the stream ended as if it were whole")


def wait_until_settled(server: Server, database: Database) -> None:
    """See that no connection stays in use, and no backend stays that no pool knows."""
    port = make_url(database.url).port
    begun = time.monotonic()
    while True:
        metrics = httpx.get(f"{server.url}/metrics").text
        in_use = sum(map(float, re.findall(r"^database_connections_in_use (\S+)", metrics, re.M)))
        backends = query(database.url, f"SELECT state FROM pg_stat_activity WHERE {SERVICE}")
        sockets = [
            socket
            for pid in workers(server)
            for socket in psutil.Process(pid).net_connections("tcp")
            if socket.raddr and socket.raddr.port == port
        ]
        left = {"in_use": in_use, "backends": backends, "sockets": len(sockets)}
        if (
            in_use == 0
            and len(sockets) == len(backends) <= len(workers(server)) * POOL
            and all(state == "idle" for (state,) in backends)
        ):
            break
        assert time.monotonic() - begun < SETTLED, left
        time.sleep(0.2)
    print(f"settled after {time.monotonic() - begun:.1f} s, {len(backends)} idle backends")
