"""What the tests of a failing database ask the service meanwhile."""

import asyncio
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from statistics import median, quantiles
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil

from tests.support.database import TABLES
from tests.support.processes import Server, running, script

SERVICE = "application_name = 'items-service'"
KILL = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {SERVICE}"


@contextmanager
def serving(database_url: str, **env: str) -> Iterator[Server]:
    """Run `items serve` with two workers."""
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2", "MAX_EXPORTS": "10", **env}
    with running("serve", env=env) as server:
        yield server


def workers(server: Server) -> list[int]:
    """The processes that serve."""
    return sorted(child.pid for child in psutil.Process(server.process.pid).children())


def fill(url: str) -> None:
    """Empty the tables, and store the items that `every_kind` is about."""
    script(
        url,
        f"TRUNCATE {TABLES} RESTART IDENTITY;\n\n"
        "INSERT INTO items (name) SELECT 'Lamp' FROM generate_series(1, 100)",
    )


def every_kind() -> dict[str, dict[str, Any]]:
    """A request of each kind that needs the database, as arguments of httpx."""
    lamp = {"name": "Lamp", "price": 29.99}
    key = {"Idempotency-Key": secrets.token_hex(8)}
    return {
        "read": {"method": "GET", "url": "/items/1"},
        "list": {"method": "GET", "url": "/items"},
        "search": {"method": "GET", "url": "/items?q=lamp&sort=-price"},
        "create": {"method": "POST", "url": "/items", "json": lamp},
        "create with a key": {"method": "POST", "url": "/items", "json": lamp, "headers": key},
        "create many": {"method": "POST", "url": "/items/bulk", "json": {"items": [lamp, lamp]}},
        "replace": {"method": "PUT", "url": "/items/1", "json": lamp},
        "change": {"method": "PATCH", "url": "/items/2", "json": {"price": 1}},
        "delete": {"method": "DELETE", "url": "/items/3"},
        "export": {"method": "GET", "url": "/items/export?is_active=false"},
        "health": {"method": "GET", "url": "/health"},
        "ready": {"method": "GET", "url": "/health/ready"},
    }


@dataclass(slots=True)
class Outcome:
    """How a request went; its status is 0 if its connection broke."""

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


async def seconds_until_well(client: httpx.AsyncClient) -> float:
    """How long it takes from now until a request of every kind succeeds."""
    begun = time.perf_counter()
    left = set(every_kind())
    while left:
        assert time.perf_counter() - begun < 60, f"these never succeeded: {left}"
        kinds = every_kind()
        outcomes = await asyncio.gather(*(ask(client, kind, kinds[kind]) for kind in left))
        left -= {outcome.kind for outcome in outcomes if outcome.succeeded}
    return time.perf_counter() - begun


class Liveness:
    """How long /health/live took, again and again; infinitely long where it failed."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def check(self) -> None:
        """Print it, and see that it stayed fast."""
        p99 = quantiles(self.seconds, n=100)[98]
        print(
            f"liveness: {len(self.seconds)} requests,"
            f" median {median(self.seconds) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms,"
            f" longest {max(self.seconds) * 1000:.1f} ms"
        )
        assert math.inf not in self.seconds
        assert p99 < 0.1


@contextmanager
def watching_liveness(url: str) -> Iterator[Liveness]:
    """Ask /health/live all the time, each time on a new connection: any worker may take it."""
    address = urlsplit(url)
    liveness, over = Liveness(), Event()

    def watch() -> None:
        while not over.wait(0.01):
            begun = time.perf_counter()
            try:
                with closing(HTTPConnection(address.hostname or "", address.port)) as conn:
                    conn.request("GET", "/health/live")
                    is_live = conn.getresponse().status == 200
            except (OSError, HTTPException):
                is_live = False
            liveness.seconds.append(time.perf_counter() - begun if is_live else math.inf)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield liveness
    finally:
        over.set()
        thread.join()
