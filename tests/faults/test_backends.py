"""Connections that PostgreSQL ends: under writes, and while they wait in the pool."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import httpx2 as httpx
import pytest

from tests.support.postgres import Postgres, new_postgres
from tests.support.probes import (
    KILL,
    SERVICE,
    Outcome,
    ask,
    ask_all,
    fill,
    seconds_until_well,
    serving,
    watching_liveness,
    workers,
)
from tests.support.processes import connection, query

pytestmark = pytest.mark.faults

WRITERS = 20
ASKERS = 3  # that send requests of every kind
PAUSE = 0.1  # seconds that a writer waits when a write failed
ALIVE = f"SELECT count(*) FROM pg_stat_activity WHERE {SERVICE}"
STORED = "SELECT name, id FROM items WHERE name LIKE 'write%'"

# Writes the item of this name; how that went in the end.
Write = Callable[[httpx.AsyncClient, str], Awaitable[Outcome]]

many_writes = pytest.mark.parametrize(
    "writes", [1500, pytest.param(10_000, marks=pytest.mark.soak)]
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with new_postgres() as postgres:
        yield postgres


@many_writes
def test_every_201_is_stored_and_nothing_else_but_what_is_unknown(
    postgres: Postgres, writes: int
) -> None:
    outcomes = write_through_faults(postgres, writes, _create)

    stored = query(postgres.url, STORED)
    created = {(name, _id(outcome)) for name, outcome in outcomes.items() if outcome.succeeded}
    unknown = {name for name, outcome in outcomes.items() if outcome.status in (0, 503)}
    unacknowledged = {name for name, _ in set(stored) - created}
    print(
        f"{writes} writes: {len(created)} created, {len(unknown)} unknown,"
        f" {len(unacknowledged)} of which are stored"
    )
    assert len(created) + len(unknown) == writes
    assert len(created) > writes / 2
    assert unknown  # or the faults came to nothing
    assert created <= set(stored)
    assert unacknowledged <= unknown
    assert len({name for name, _ in stored}) == len(stored)


@many_writes
def test_with_a_key_and_retries_each_item_is_stored_once(postgres: Postgres, writes: int) -> None:
    attempts: Counter[int] = Counter()

    async def create_until_created(client: httpx.AsyncClient, name: str) -> Outcome:
        while True:
            outcome = await _create(client, name, {"Idempotency-Key": name})
            attempts[outcome.status] += 1
            if outcome.succeeded:
                return outcome

    outcomes = write_through_faults(postgres, writes, create_until_created)

    print(f"{writes} writes, their attempts by status: {dict(attempts)}")
    assert attempts.keys() <= {0, 201, 409, 503}
    assert attempts[503]  # or the faults came to nothing
    ids = [(name, _id(outcome)) for name, outcome in outcomes.items()]
    assert sorted(query(postgres.url, STORED)) == sorted(ids)


@pytest.mark.parametrize("rounds", [40, pytest.param(500, marks=pytest.mark.soak)])
def test_no_request_notices_that_idle_backends_were_killed(postgres: Postgres, rounds: int) -> None:
    fill(postgres.url)
    failed: Counter[tuple[str, int]] = Counter()
    killed = 0

    async def kill_and_ask(url: str) -> None:
        nonlocal killed
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as client,
            connection(postgres.url) as administrator,
        ):
            await ask_all(client, times=3)
            for round_ in range(rounds):
                killed += await administrator.fetchval(KILL)
                # PostgreSQL tells nobody when the last of them has ended.
                while await administrator.fetchval(ALIVE):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                # By turns one request of each kind and several.
                outcomes = await ask_all(client, times=1 + 2 * (round_ % 2))
                failed.update((o.kind, o.status) for o in outcomes if not o.succeeded)

    with serving(postgres.url) as server:
        asyncio.run(kill_and_ask(server.url))

    print(f"{rounds} rounds, {killed} backends killed, failed: {dict(failed)}")
    assert killed > 2 * rounds
    assert not failed


@pytest.mark.parametrize("rounds", [20, pytest.param(500, marks=pytest.mark.soak)])
def test_nor_does_one_that_comes_while_they_end(postgres: Postgres, rounds: int) -> None:
    fill(postgres.url)
    failed: Counter[tuple[str, int, str]] = Counter()
    killed, waves = 0, [0] * ASKERS

    async def ask_on(asker: int, client: httpx.AsyncClient, killing: asyncio.Task[None]) -> None:
        while not killing.done():
            outcomes = await ask_all(client)
            failed.update((o.kind, o.status, o.text) for o in outcomes if not o.succeeded)
            waves[asker] += 1

    async def kill() -> None:
        nonlocal killed
        async with connection(postgres.url) as administrator:
            for _ in range(rounds):
                # When all have asked anew: it is not about one that is killed twice.
                enough = max(waves) + 2
                # An event for each asker would be more to read than their counts.
                while min(waves) < enough:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                killed += await administrator.fetchval(f"{KILL} AND state = 'idle'")

    async def kill_and_ask(url: str) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as client:
            killing = asyncio.create_task(kill())
            await asyncio.gather(killing, *(ask_on(n, client, killing) for n in range(ASKERS)))

    with serving(postgres.url) as server:
        asyncio.run(kill_and_ask(server.url))
        assert not server.events("unhandled_error")

    print(f"{sum(waves)} waves of requests of every kind, {killed} backends killed: {dict(failed)}")
    assert killed > 2 * rounds
    assert not failed


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=pytest.mark.soak)])
def test_backends_killed_without_end_cost_503_at_most(postgres: Postgres, seconds: float) -> None:
    fill(postgres.url)
    statuses: Counter[tuple[str, int]] = Counter()
    killed = 0

    async def kill_all_along(url: str) -> float:
        nonlocal killed
        over = time.monotonic() + seconds
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as client,
            connection(postgres.url) as administrator,
        ):

            async def ask_on() -> None:
                while time.monotonic() < over:
                    outcomes = await ask_all(client)
                    statuses.update((o.kind, o.status) for o in outcomes if not o.succeeded)

            asking = asyncio.create_task(ask_on())
            while not asking.done():
                killed += await administrator.fetchval(KILL)
                await asyncio.sleep(0.02)
            await asking
            return await seconds_until_well(client)

    with serving(postgres.url) as server:
        until_well = asyncio.run(kill_all_along(server.url))

    print(f"{killed} killed: {dict(statuses)}; well {until_well:.3f} s after the last")
    assert killed > 50 * seconds
    del statuses["export", 0]  # it had begun
    assert {status for _, status in statuses} <= {503}
    assert until_well < 2


def write_through_faults(postgres: Postgres, writes: int, write: Write) -> dict[str, Outcome]:
    """Write items while backends are killed and PostgreSQL is restarted; how each write went."""
    fill(postgres.url)
    outcomes: dict[str, Outcome] = {}

    def kill() -> None:
        query(postgres.url, KILL)

    def crash() -> None:
        postgres.restart("immediate")

    def harm() -> None:
        faults = [kill, kill, kill, postgres.restart, kill, kill, kill, crash]
        times = writes // 100
        for number in range(times):
            while len(outcomes) < writes * number / times:  # so that they come all along
                time.sleep(0.01)
            faults[number % len(faults)]()

    async def write_all(url: str) -> None:
        names = iter([f"write {number}" for number in range(writes)])
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:

            async def write_on() -> None:
                for name in names:
                    outcomes[name] = await write(client, name)

            await asyncio.gather(asyncio.to_thread(harm), *(write_on() for _ in range(WRITERS)))

    with serving(postgres.url) as server, watching_liveness(server.url) as liveness:
        before = workers(server)
        asyncio.run(write_all(server.url))
        assert workers(server) == before
        assert not server.events("unhandled_error")
    liveness.check()
    return outcomes


async def _create(
    client: httpx.AsyncClient, name: str, headers: dict[str, str] | None = None
) -> Outcome:
    """Create an item, half of them by bulk, which goes another way to the database."""
    item = {"name": name}
    if name[-1] in "02468":
        arguments = {"url": "/items", "json": item}
    else:
        arguments = {"url": "/items/bulk", "json": {"items": [item]}}
    outcome = await ask(client, name, {"method": "POST", "headers": headers, **arguments})
    if not outcome.succeeded:
        await asyncio.sleep(PAUSE)
    return outcome


def _id(outcome: Outcome) -> int:
    """The id of the item that was created."""
    content = json.loads(outcome.text)
    item = content["items"][0] if "items" in content else content
    id_: int = item["id"]
    return id_
