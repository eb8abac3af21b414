"""Connections that PostgreSQL ends: during writes, during requests, and in the pool."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle

import httpx2 as httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from service.main import create_app
from service.settings import Settings
from tests.support import apps
from tests.support.postgres import Mode, Postgres
from tests.support.probes import (
    KILL,
    SERVICE,
    ask,
    ask_all,
    every_kind,
    fill,
    seconds_until_well,
    serving,
    workers,
)
from tests.support.processes import Server, connection, query
from tests.support.proxy import proxying
from tests.support.waiting import TIMEOUT, until, wait_until

pytestmark = pytest.mark.faults

WRITERS = 20
ASKERS = 3  # tasks that send requests of every kind
BACKENDS = f"SELECT count(*) FROM pg_stat_activity WHERE {SERVICE}"


@dataclass(slots=True)
class Writes:
    """What the clients know about the items that they wrote."""

    created: dict[str, int] = field(default_factory=dict)  # id by name
    unknown: set[str] = field(default_factory=set)  # names; at least one attempt failed
    attempts: Counter[int] = field(default_factory=Counter)  # by status


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Server]:
    with serving(postgres.url) as server:
        yield server


@pytest.fixture(autouse=True)
def _items(postgres: Postgres) -> None:
    fill(postgres.url)


@pytest.mark.parametrize("writes", [400, pytest.param(20_000, marks=pytest.mark.soak)])
def test_each_write_is_stored_as_its_client_was_told(
    postgres: Postgres, server: Server, writes: int
) -> None:
    """A 201 is stored once, a failure at most once, and a retry with a key exactly once."""
    before = workers(server)
    result = asyncio.run(write_through_faults(postgres, server.url, writes))
    print(f"{len(result.created)} created; attempts by status: {dict(result.attempts)}")

    stored = query(postgres.url, "SELECT name, id FROM items WHERE name <> 'Lamp'")
    assert result.created.items() <= set(stored)
    assert {name for name, _ in stored} <= result.created.keys() | result.unknown
    assert len({name for name, _ in stored}) == len(stored)
    assert result.attempts.keys() <= {0, 201, 409, 503}  # 0: the connection broke
    assert workers(server) == before
    assert not server.events("unhandled_error")


async def write_through_faults(postgres: Postgres, url: str, writes: int) -> Writes:
    """Create so many items while backends are killed and PostgreSQL is stopped and started.

    Half of the writers send a key, and repeat a request until it succeeds.
    """
    result, numbers = Writes(), count()

    def kill() -> None:
        query(postgres.url, KILL)

    def restart(mode: Mode = "fast") -> None:
        failed = result.attempts[503]
        postgres.stop(mode)
        wait_until(lambda: result.attempts[503] > failed)
        postgres.start()

    def break_database() -> None:
        faults: Iterable[Callable[[], None]]
        faults = cycle((kill, restart, kill, partial(restart, "immediate")))
        for least, fault in zip(range(0, writes, 100), faults, strict=False):
            wait_until(partial(has_created, least))
            fault()
        wait_until(partial(has_created, writes))

    def has_created(least: int) -> bool:
        return len(result.created) >= least

    async def write_on(client: httpx.AsyncClient, *, has_key: bool) -> None:
        while not breaking.done():
            number = next(numbers)
            headers = {"Idempotency-Key": f"write {number}"} if has_key else {}
            while not await write(client, number, headers, result) and has_key:
                pass

    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        breaking = asyncio.create_task(asyncio.to_thread(break_database))
        await asyncio.gather(*(write_on(client, has_key=n % 2 == 0) for n in range(WRITERS)))
        await breaking
    return result


async def write(
    client: httpx.AsyncClient, number: int, headers: dict[str, str], result: Writes
) -> bool:
    """Create an item, by turns as one and as a bulk of one; return whether it succeeded."""
    item = {"name": f"write {number}"}
    path, content = (("/items", item), ("/items/bulk", {"items": [item]}))[number % 2]
    arguments = {"method": "POST", "url": path, "json": content, "headers": headers}
    outcome = await ask(client, path, arguments)
    result.attempts[outcome.status] += 1
    if outcome.succeeded:
        answer = json.loads(outcome.text)
        result.created[item["name"]] = (answer["items"][0] if number % 2 else answer)["id"]
    else:
        result.unknown.add(item["name"])
        await asyncio.sleep(0.1)  # a client that waits, though less than Retry-After says
    return outcome.succeeded


@pytest.mark.parametrize("rounds", [5, pytest.param(500, marks=pytest.mark.soak)])
def test_no_request_notices_that_idle_backends_were_killed(
    postgres: Postgres, server: Server, rounds: int
) -> None:
    async def kill_and_ask() -> int:
        killed = 0
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            connection(postgres.url) as administrator,
        ):
            await seconds_until_well(client)
            await ask_all(client, times=3)
            for _ in range(rounds):
                killed += await administrator.fetchval(KILL)
                # PostgreSQL does not report when the last of them has ended.
                while await administrator.fetchval(BACKENDS):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                for outcome in await ask_all(client, times=3):
                    assert outcome.succeeded, outcome
        return killed

    killed = asyncio.run(kill_and_ask())
    print(f"{rounds} rounds, {killed} backends killed")
    assert killed > rounds


@pytest.mark.parametrize("kind", every_kind())
async def test_a_request_sent_to_a_backend_that_ends_is_run_again(
    settings: Settings, postgres: Postgres, kind: str
) -> None:
    """PostgreSQL ends the backend before it reads the statement, which the proxy holds."""
    url = make_url(postgres.url)
    assert url.port
    with proxying(url.port) as proxy:
        settings.database_url = SecretStr(url.set(port=proxy.port).render_as_string())
        settings.pool_size, settings.max_overflow = 1, 0
        async with (
            apps.serving(create_app(settings)) as client,
            connection(postgres.url) as administrator,
        ):
            assert (await client.get("/items/1")).status_code == 200  # opens a connection
            proxy.hold()
            asking = asyncio.create_task(ask(client, kind, every_kind()[kind]))
            await until(proxy.has_held.is_set)
            ended = f"SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE {SERVICE}"
            assert all(row[0] for row in await administrator.fetch(ended))
            proxy.release()
            outcome = await asking
    assert outcome.succeeded, outcome


@pytest.mark.parametrize("waves", [5, pytest.param(500, marks=pytest.mark.soak)])
def test_requests_get_503_at_most_while_backends_are_killed_continually(
    postgres: Postgres, server: Server, waves: int
) -> None:
    failures: Counter[tuple[str, int]] = Counter()

    async def ask_on(client: httpx.AsyncClient) -> None:
        for _ in range(waves):
            outcomes = await ask_all(client)
            failures.update((o.kind, o.status) for o in outcomes if not o.succeeded)

    async def kill_and_ask() -> tuple[int, float]:
        killed = 0
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            connection(postgres.url) as administrator,
        ):
            asking = asyncio.gather(*(ask_on(client) for _ in range(ASKERS)))
            while not asking.done():
                killed += await administrator.fetchval(KILL)
                await asyncio.sleep(0.02)
            await asking
            return killed, await seconds_until_well(client)

    killed, seconds = asyncio.run(kill_and_ask())
    print(f"{killed} killed: {dict(failures)}; well {seconds:.3f} s after the last")
    assert killed
    del failures["export", 0]  # one that had begun is broken off
    del failures["create with a key", 409]  # a backend that still ends holds the key
    assert {status for _, status in failures} <= {503}
    assert not server.events("unhandled_error")
