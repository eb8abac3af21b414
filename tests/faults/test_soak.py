"""A mixed load for long: nothing grows, and nothing slows down."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from statistics import median, quantiles
from typing import Any

import orjson
import psutil
import pytest

from tests.support.client import Answer, Client
from tests.support.postgres import Postgres, new_postgres
from tests.support.probes import SERVICE, fill, serving, workers
from tests.support.processes import Server, query

pytestmark = pytest.mark.soak  # it takes minutes

CLIENTS = 20
PAUSE = 0.02  # seconds between the requests of a client: it is the time that is to be long
POOL_SIZE = 20
NO_ITEM = 2**62
LAMP = {"name": "Lamp", "price": 29.99}
BACKENDS = f"SELECT pid FROM pg_stat_activity WHERE {SERVICE}"


@dataclass(slots=True)
class Sample:
    """What the service holds at one moment."""

    memory: int  # bytes, of all workers
    files: int
    backends: int
    backends_memory: int  # bytes that are a backend's own; its prepared statements among them

    def __str__(self) -> str:
        return (
            f"workers {self.memory / 1e6:.1f} MB, {self.files} files;"
            f" {self.backends} backends, {self.backends_memory / 1e6:.1f} MB"
        )


@dataclass(slots=True)
class Run:
    """What the clients have seen in the current window, and in those before."""

    seconds: list[float] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)  # seconds
    requests: int = 0
    is_over: bool = False

    def end_window(self) -> None:
        self.p99s.append(quantiles(self.seconds, n=100)[98])
        self.requests += len(self.seconds)
        self.seconds = []


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with new_postgres() as postgres:
        yield postgres


@pytest.mark.parametrize(
    ("warm_up", "windows", "window"), [(4, 10, 1), pytest.param(60, 60, 10, marks=pytest.mark.soak)]
)
def test_nothing_grows_under_a_mixed_load(
    postgres: Postgres, warm_up: float, windows: int, window: float
) -> None:
    fill(postgres.url)
    with serving(postgres.url, POOL_SIZE=str(POOL_SIZE)) as server:
        run, samples = asyncio.run(_load(server, postgres, warm_up, windows, window))
        log = server.stderr()
    third = windows // 3
    first, last = median(run.p99s[:third]), median(run.p99s[-third:])
    print(f"{run.requests} requests in {windows * window:.0f} s after {warm_up:.0f} s of warm-up")
    for sample in samples[:: max(1, windows // 10)]:
        print(sample)
    print(f"p99: {first * 1000:.1f} ms in the first third, {last * 1000:.1f} ms in the last")

    before, after = _typical(samples[:third]), _typical(samples[-third:])
    assert after.memory < before.memory * 1.05
    assert after.files <= before.files
    assert after.backends <= before.backends
    assert after.backends_memory < before.backends_memory * 1.05
    assert '"level":"error"' not in log
    assert "database_fault" not in log
    if window >= 10:  # in less, chance decides
        assert last < first * 1.1


def _typical(samples: list[Sample]) -> Sample:
    return Sample(
        memory=int(median(sample.memory for sample in samples)),
        files=max(sample.files for sample in samples),
        backends=max(sample.backends for sample in samples),
        backends_memory=int(median(sample.backends_memory for sample in samples)),
    )


async def _load(
    server: Server, postgres: Postgres, warm_up: float, windows: int, window: float
) -> tuple[Run, list[Sample]]:
    run, numbers = Run(), count()
    samples = []

    async def visit_on() -> None:
        async with Client(server.url) as client:
            while not run.is_over:
                await _Visitor(client, run).visit(next(numbers))

    async def watch() -> None:
        await asyncio.sleep(warm_up)
        run.seconds.clear()
        begun = time.monotonic()
        for number in range(windows):
            await asyncio.sleep(begun + (number + 1) * window - time.monotonic())
            run.end_window()
            samples.append(await asyncio.to_thread(_sample, server, postgres))
        run.is_over = True

    await _open_pools(server)
    await asyncio.gather(watch(), *(visit_on() for _ in range(CLIENTS)))
    return run, samples


async def _open_pools(server: Server) -> None:
    """Have each worker open all the connections that it keeps."""

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


@dataclass(slots=True)
class _Visitor:
    """A client that does a bit of everything, and leaves as many items as there were."""

    client: Client
    run: Run

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
        begun = time.perf_counter()
        answer = await self.client.request(*request)
        self.run.seconds.append(time.perf_counter() - begun)
        assert answer.status == expected, (request, answer)
        return answer
