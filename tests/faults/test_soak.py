"""A mixed load for minutes: memory, open files and connections do not grow."""

import asyncio
import random
from dataclasses import dataclass
from itertools import count
from statistics import median
from typing import Any

import orjson
import psutil
import pytest

from tests.support.client import Answer, Client
from tests.support.lists import SORTS
from tests.support.postgres import Postgres
from tests.support.probes import SERVICE, fill, serving, workers
from tests.support.processes import Server, query
from tests.support.samples import LAMP

pytestmark = pytest.mark.soak

WARM_UP = 60.0  # seconds
SAMPLES = 30
INTERVAL = 10.0  # seconds between samples
CLIENTS = 20
PAUSE = 0.02  # seconds between the requests of a client
POOL_SIZE = 20
GROWTH = 1.05  # of memory, at most, from the first third of the samples to the last
NO_ITEM = 2**62
FILTERS = [
    *("is_active=true", "q=lamp", "price_min=1", "price_max=50"),
    *(f"{name}=2026-01-01T00:00:00Z" for name in ("created_after", "updated_after")),
    "created_before=2100-01-01T00:00:00Z",
]
COUNTS = ["count=capped", "count=exact", "count=none"]
BACKENDS = f"SELECT pid FROM pg_stat_activity WHERE {SERVICE}"


@dataclass(slots=True)
class Sample:
    """What the service holds at one moment.

    Attributes:
        memory: bytes, of all workers.
        files: open files, of all workers.
        backends: their number.
        backends_memory: bytes that belong to one backend alone, with its prepared statements.
    """

    memory: int
    files: int
    backends: int
    backends_memory: int


def test_nothing_grows_under_a_mixed_load(postgres: Postgres) -> None:
    fill(postgres.url)
    with serving(postgres.url, POOL_SIZE=str(POOL_SIZE)) as server:
        samples = asyncio.run(_load(server, postgres))
        assert not server.events("unhandled_error")
    for sample in samples:
        print(sample)
    before, after = _typical(samples[: SAMPLES // 3]), _typical(samples[-SAMPLES // 3 :])
    assert after.memory < before.memory * GROWTH
    assert after.files <= before.files
    assert after.backends <= before.backends
    assert after.backends_memory < before.backends_memory * GROWTH


def _typical(samples: list[Sample]) -> Sample:
    return Sample(
        memory=int(median(sample.memory for sample in samples)),
        files=max(sample.files for sample in samples),
        backends=max(sample.backends for sample in samples),
        backends_memory=int(median(sample.backends_memory for sample in samples)),
    )


async def _load(server: Server, postgres: Postgres) -> list[Sample]:
    numbers = count()
    samples: list[Sample] = []

    async def visit_on() -> None:
        async with Client(server.url) as client:
            while len(samples) < SAMPLES:
                await _Visitor(client).visit(next(numbers))

    async def sample() -> None:
        await asyncio.sleep(WARM_UP)
        while len(samples) < SAMPLES:
            samples.append(await asyncio.to_thread(_sample, server, postgres))
            await asyncio.sleep(INTERVAL)

    await _open_pools(server)
    async with asyncio.TaskGroup() as group:
        group.create_task(sample())
        for _ in range(CLIENTS):
            group.create_task(visit_on())
    return samples


async def _open_pools(server: Server) -> None:
    """Make each worker open all the connections of its pool."""

    async def put(client: Client) -> None:
        for number in range(10):
            assert (await client.request("PUT", f"/items/{number + 1}", LAMP)).status == 200

    clients = [Client(server.url) for _ in range(100)]
    await asyncio.gather(*(put(client) for client in clients))
    for client in clients:
        client.close()


def _sample(server: Server, postgres: Postgres) -> Sample:
    processes = [psutil.Process(pid) for pid in workers(server)]
    backends = [psutil.Process(pid) for (pid,) in query(postgres.url, BACKENDS)]
    return Sample(
        memory=sum(process.memory_info().rss for process in processes),
        files=sum(process.num_fds() for process in processes),
        backends=len(backends),
        backends_memory=sum(process.memory_full_info().uss for process in backends),
    )


def _list_of(number: int) -> str:
    """Return the address of one of the lists that clients may combine, of which there are many."""
    choice = random.Random(number)
    parts = choice.sample(FILTERS, choice.randint(0, 4))
    return f"/items?{'&'.join([*parts, f'sort={choice.choice(SORTS)}', choice.choice(COUNTS)])}"


@dataclass(slots=True)
class _Visitor:
    """A client that sends requests of every kind, and leaves as many items as there were."""

    client: Client

    async def visit(self, number: int) -> None:
        key = {"Idempotency-Key": f"visit-{number}"}
        path = await self._create(LAMP)
        keyed = await self._create(LAMP, key)
        assert await self._create(LAMP, key) == keyed
        etag = (await self._send(200, "GET", path)).headers["etag"]
        await self._send(304, "GET", path, None, {"If-None-Match": etag})
        await self._send(200, "PUT", path, {"name": "Floor lamp"}, {"If-Match": etag})
        await self._send(412, "PUT", path, LAMP, {"If-Match": etag})
        await self._send(200, "PATCH", keyed, {"price": 1})
        await self._send(200, "GET", f"/items?page={number % 5 + 1}")
        await self._send(200, "GET", "/items?q=lamp&sort=-price&per_page=5")
        await self._send(200, "GET", _list_of(number))
        await self._page_through()
        await self._send(404, "GET", f"/items/{NO_ITEM}")
        await self._send(422, "POST", "/items", {"name": ""})
        await self._send(204, "DELETE", keyed)
        if number % 5 == 0:
            await self._send_many()
        for each in (path, keyed):
            await self._send(204, "DELETE", f"{each}?permanent=true")

    async def _create(self, item: object, headers: dict[str, str] | None = None) -> str:
        answer = await self._send(201, "POST", "/items", item, headers)
        return answer.headers["location"]

    async def _page_through(self) -> None:
        path = "/items?per_page=10&count=none&sort=-created_at"
        page = orjson.loads((await self._send(200, "GET", path)).body)
        for _ in range(2):
            after = f"{path}&cursor={page['next_cursor']}"
            page = orjson.loads((await self._send(200, "GET", after)).body)

    async def _send_many(self) -> None:
        answer = await self._send(201, "POST", "/items/bulk", {"items": [LAMP] * 20})
        await self._send(200, "GET", "/items/export?price_max=5")
        for item in orjson.loads(answer.body)["items"]:
            await self._send(204, "DELETE", f"/items/{item['id']}?permanent=true")

    async def _send(self, expected: int, *request: Any) -> Answer:
        await asyncio.sleep(PAUSE)
        answer = await self.client.request(*request)
        assert answer.status == expected, (request, answer)
        return answer
