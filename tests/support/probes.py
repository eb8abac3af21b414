"""Requests of every kind, and the service for the tests of faults."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2 as httpx
import psutil

from tests.support.database import TABLES
from tests.support.processes import Server, running, script
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, wait_until

SERVICE = "application_name = 'items-service'"
KILL = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {SERVICE}"


@contextmanager
def serving(database_url: str, **env: str) -> Iterator[Server]:
    """Run `items serve` with two workers; both have started."""
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2", "MAX_EXPORTS": "10", **env}
    with running("serve", env=env) as server:
        wait_until(lambda: len(server.events("started")) == 2)
        yield server


def workers(server: Server) -> list[int]:
    """Return the process ids of the workers."""
    return sorted(child.pid for child in psutil.Process(server.process.pid).children())


def fill(url: str) -> None:
    """Empty the tables, and store 100 items for the requests of `every_kind`."""
    script(
        url,
        f"TRUNCATE {TABLES} RESTART IDENTITY;\n\n"
        "INSERT INTO items (name) SELECT 'Lamp' FROM generate_series(1, 100)",
    )


def every_kind() -> dict[str, dict[str, Any]]:
    """Return a request of each kind that needs the database, as arguments of httpx."""
    key = {"Idempotency-Key": secrets.token_hex(8)}
    return {
        "read": {"method": "GET", "url": "/items/1"},
        "list": {"method": "GET", "url": "/items"},
        "search": {"method": "GET", "url": "/items?q=lamp&sort=-price"},
        "create": {"method": "POST", "url": "/items", "json": LAMP},
        "create with a key": {"method": "POST", "url": "/items", "json": LAMP, "headers": key},
        "create many": {"method": "POST", "url": "/items/bulk", "json": {"items": [LAMP, LAMP]}},
        "replace": {"method": "PUT", "url": "/items/1", "json": LAMP},
        "change": {"method": "PATCH", "url": "/items/2", "json": {"price": 1}},
        "delete": {"method": "DELETE", "url": "/items/3"},
        "export": {"method": "GET", "url": "/items/export?is_active=false"},
        "health": {"method": "GET", "url": "/health"},
        "ready": {"method": "GET", "url": "/health/ready"},
    }


@dataclass(slots=True)
class Outcome:
    """The result of a request; its status is 0 if its connection broke."""

    kind: str
    status: int
    seconds: float
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    text: str = ""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300


async def ask(client: httpx.AsyncClient, kind: str, arguments: dict[str, Any]) -> Outcome:
    """Send one request."""
    begun = time.perf_counter()
    try:
        answer = await client.request(**arguments)
    except httpx.TransportError as exc:
        return Outcome(kind, 0, time.perf_counter() - begun, text=repr(exc))
    seconds = time.perf_counter() - begun
    return Outcome(kind, answer.status_code, seconds, answer.headers, answer.text)


async def ask_all(client: httpx.AsyncClient, times: int = 1) -> list[Outcome]:
    """Send requests of every kind at once."""
    kinds = [pair for _ in range(times) for pair in every_kind().items()]
    return await asyncio.gather(*(ask(client, *pair) for pair in kinds))


async def check_unavailable(client: httpx.AsyncClient) -> list[Outcome]:
    """Assert that requests of every kind get 503 with Retry-After, while /health/live gets 200."""
    live = asyncio.create_task(client.get("/health/live"))
    outcomes = await ask_all(client)
    assert (await live).status_code == 200
    for outcome in outcomes:
        assert (outcome.kind, outcome.status) == (outcome.kind, 503), outcome.text
        assert int(outcome.headers["retry-after"]) > 0
    return outcomes


async def seconds_until_well(client: httpx.AsyncClient) -> float:
    """Return the seconds until a request of each kind has succeeded.

    Raises:
        TimeoutError: some did not within `TIMEOUT` seconds.
    """
    begun = time.perf_counter()
    left = set(every_kind())
    async with asyncio.timeout(TIMEOUT):
        while left:
            kinds = every_kind()
            outcomes = await asyncio.gather(*(ask(client, kind, kinds[kind]) for kind in left))
            left -= {outcome.kind for outcome in outcomes if outcome.succeeded}
    return time.perf_counter() - begun
