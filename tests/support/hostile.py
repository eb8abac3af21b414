"""Hostile requests to `items serve`, and checks that they do no harm."""

import asyncio
import json
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import orjson
import psutil

from tests.support.attacks import Hostile
from tests.support.client import Answer, Client
from tests.support.probes import workers
from tests.support.problems import INSIDES
from tests.support.processes import Server, running, script
from tests.support.waiting import TIMEOUT, wait_until

CONNECTIONS = 8  # that send at the same time
MEGABYTE = 1024 * 1024
LAST = b"GET /health/live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
ITEMS = "INSERT INTO items (name, price) SELECT 'Lamp', n FROM generate_series(1, 5) AS n"
# So long that a busy machine causes no refusal.
PATIENT = {
    "REQUEST_TIMEOUT": "120",
    "STATEMENT_TIMEOUT_MS": "60000",
    "POOL_TIMEOUT": "60",
    "MAX_EXPORTS": "100",
}


@contextmanager
def serving(database_url: str, **env: str) -> Iterator[Server]:
    """Run `items serve` with two workers, on five items."""
    script(database_url, ITEMS)
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"} | PATIENT | env
    with running("serve", env=env) as server:
        wait_until(lambda: len(server.events("started")) == 2)
        yield server


@contextmanager
def harmed_by_nothing(server: Server, allowed: Iterable[int] = ()) -> Iterator[None]:
    """Assert that the same workers still serve, and that the log has neither errors nor 5xx.

    Args:
        allowed: statuses from 500 on that requests may get.
    """
    pids = workers(server)
    size = (server.folder / "stderr").stat().st_size
    yield
    # Each request has a new connection, which is accepted after all those before it.
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0)) as client:
        urls = [f"{server.url}/health/ready", f"{server.url}/items?q=lamp"] * 4
        wait_until(lambda: all(client.get(url).status_code == 200 for url in urls))
    assert workers(server) == pids
    with (server.folder / "stderr").open("rb") as file:
        file.seek(size)
        lines = [json.loads(line) for line in file.read().rpartition(b"\n")[0].splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []
    statuses = {line["status"] for line in lines if line["event"] == "request"}
    assert {status for status in statuses if status >= 500} <= {*allowed}


async def send_all(server: Server, requests: Iterable[Hostile]) -> int:
    """Send the requests over a few connections at once; return their number.

    Raises:
        AssertionError: some got a wrong response, or none although their connection stayed open.
    """
    waiting = iter(requests)
    number = closed = 0
    faults = []

    async def send() -> None:
        nonlocal number, closed
        async with Client(server.url) as client:
            for request in waiting:
                number += 1
                try:
                    fault = await _fault_of(client, request)
                except ConnectionError:
                    closed += 1
                    continue
                if fault:
                    faults.append(f"{fault}: {request.data[:300]!r}")

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(send())
    assert not faults, "\n".join([f"{len(faults)} of {number}", *faults[:20]])
    assert closed <= number / 20, f"{closed} of {number} were not answered"
    return number


async def _fault_of(client: Client, request: Hostile) -> str | None:
    """Send a request; return what is wrong with its response, or None.

    Raises:
        ConnectionError: the connection was closed instead.
    """
    method = request.data.partition(b" ")[0].decode()
    try:
        await client.send(request.data)
        answer = await client.receive(method)
        if answer.status == 100:
            answer = await client.receive(method)
    except TimeoutError:
        return "neither answered nor closed"
    if answer.status not in request.statuses:
        return f"{answer.status} is not declared"
    return _fault_of_problem(answer) if answer.status >= 400 and method != "HEAD" else None


def _fault_of_problem(answer: Answer) -> str | None:
    if answer.headers["content-type"] != "application/problem+json":
        return "not a problem"
    content = orjson.loads(answer.body)
    # These repeat parts of the request. Nothing else may repeat content, or show internals.
    for name in ("type", "instance", "request_id"):
        content.pop(name, None)
    for error in content.get("errors", []):
        error.pop("parameter", None)
    found = INSIDES.search(orjson.dumps(content).decode())
    return f"it shows {found[0]!r}" if found else None


def connect(server: Server) -> socket.socket:
    """Open a connection that sends each piece of data at once."""
    parts = urlsplit(server.url)
    sock = socket.create_connection((parts.hostname, parts.port), TIMEOUT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def send(sock: socket.socket, *pieces: bytes) -> None:
    """Send the pieces, until the server closes the connection."""
    with suppress(ConnectionError):
        for piece in pieces:
            sock.sendall(piece)


def receive(sock: socket.socket, end: bytes = b"") -> bytes:
    """Return the bytes received until `end`, or until the server closes the connection.

    Raises:
        TimeoutError: neither happens.
    """
    received = b""
    with suppress(ConnectionError):
        while not (end and end in received) and (data := sock.recv(65_536)):
            received += data
    return received


def statuses(received: bytes) -> list[int]:
    """Return the statuses of the responses."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def memory(server: Server, name: str = "VmRSS") -> list[int]:
    """Return a line of /proc/PID/status for each worker, in bytes: see proc(5)."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in workers(server)]
    return [int(text.partition(f"{name}:")[2].split()[0]) * 1024 for text in texts]


def descriptors(server: Server) -> list[int]:
    """Return the number of open files of each worker."""
    return [psutil.Process(pid).num_fds() for pid in workers(server)]


@contextmanager
def growth_below(server: Server, megabytes: int) -> Iterator[None]:
    """Assert that the peak of each worker's memory stays within `megabytes` of its present size."""
    for pid in workers(server):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
    before = memory(server)
    yield
    growths = [peak - size for size, peak in zip(before, memory(server, "VmHWM"), strict=True)]
    print(f"the workers grew by {[round(growth / MEGABYTE, 1) for growth in growths]} MB")
    assert max(growths) < megabytes * MEGABYTE
