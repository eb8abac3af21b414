"""More load than the service can carry: it refuses what it cannot serve, and serves the rest."""

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest
import uvloop

from service.main import create_app
from service.settings import Settings
from tests.support import apps
from tests.support.client import Client
from tests.support.locks import BLOCKED, until_true
from tests.support.probes import ask, every_kind, fill, serving, workers
from tests.support.processes import Server, connection
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

pytestmark = pytest.mark.faults

MEMORY = 250e6  # bytes that a worker may need beyond what it does without load
AT_ONCE = 200  # connections that are opened at once
CONNECTIONS = 1000
REQUESTS = {
    "read": ("GET", "/items/1", None),
    "create": ("POST", "/items", LAMP),
    "replace": ("PUT", "/items/1", LAMP),  # of one item, so that each waits for the one before
    "search": ("GET", "/items?q=lamp&sort=-price", None),
}


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> Iterator[None]:
    """Let this process, and the service that it starts, open as many files as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def server(database_url: str) -> Iterator[Server]:
    """The service with short queues."""
    fill(database_url)
    with serving(database_url, QUEUE_LIMIT="50", REQUEST_TIMEOUT=str(TIMEOUT)) as server:
        yield server


def test_clients_that_are_refused_and_wait_are_served_in_the_end(
    server: Server, database_url: str
) -> None:
    """They come all at once, each for one request, while the table is locked."""
    statuses: Counter[int] = Counter()

    async def send_until_served(client: Client, kind: str) -> None:
        while True:
            answer = await client.request(*REQUESTS[kind])
            statuses[answer.status] += 1
            if answer.status != 503:
                return
            await asyncio.sleep(int(answer.headers["retry-after"]))

    async def send_all() -> None:
        clients = await _connect(server.url, CONNECTIONS)
        kinds = list(REQUESTS) * (CONNECTIONS // len(REQUESTS))
        async with (
            connection(database_url) as conn,
            asyncio.TaskGroup() as group,
            conn.transaction(),
        ):
            await conn.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
            for client, kind in zip(clients, kinds, strict=True):
                group.create_task(send_until_served(client, kind))
            await until(lambda: statuses[503] >= CONNECTIONS / 10)
        for client in clients:
            client.close()

    before, begun = _memory(server), time.monotonic()
    uvloop.run(send_all())
    memory = _memory(server)
    print(f"{statuses} in {time.monotonic() - begun:.1f} s, {memory / 1e6:.0f} MB in a worker")
    assert statuses.keys() == {200, 201, 503}
    assert statuses[200] + statuses[201] == CONNECTIONS
    assert memory < before + MEMORY


async def test_requests_for_a_locked_row_hold_up_no_other(
    settings: Settings, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold two thirds of the pool, and the rest of them waits for one of these."""
    app = create_app(apps.tolerate_locks(settings, monkeypatch))
    await asyncio.to_thread(fill, database_url)
    async with apps.serving(app) as client, connection(database_url) as conn:
        async with conn.transaction():
            await conn.execute("SELECT FROM items WHERE id = 1 FOR UPDATE")
            puts = [asyncio.create_task(client.put("/items/1", json=LAMP)) for _ in range(60)]
            await until_true(app, f"{BLOCKED} = 20")
            for kind in ("read", "create", "health", "ready"):
                outcome = await ask(client, kind, every_kind()[kind])
                assert outcome.succeeded, outcome
            assert not any(put.done() for put in puts)
        answers = await asyncio.gather(*puts)
    assert {answer.status_code for answer in answers} == {200}


async def _connect(url: str, number: int) -> list[Client]:
    """Open so many connections."""
    clients = [Client(url) for _ in range(number)]
    for begin in range(0, number, AT_ONCE):
        await asyncio.gather(*(client.connect() for client in clients[begin : begin + AT_ONCE]))
    return clients


def _memory(server: Server) -> int:
    """Return the bytes that the largest worker uses."""
    return max(psutil.Process(pid).memory_info().rss for pid in workers(server))
