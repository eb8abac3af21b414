"""Requests to an application in this process: no server and no client share the machine's cores
with it, so that what differs is the application."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from time import perf_counter, thread_time

from starlette.types import ASGIApp, Message, Scope

Request = Callable[[], Awaitable[None]]


def get(app: ASGIApp, path: str) -> Request:
    """Makes a function that sends one GET and waits for all of its answer."""
    template: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def request() -> None:
        await app(dict(template), _receive, _send)

    return request


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    if message["type"] == "http.response.start":
        assert message["status"] == 200, message


@dataclass(frozen=True, slots=True)
class Load:
    """What requests under load took, in seconds: per request served, and the latency of each."""

    elapsed: float
    cpu: float
    latencies: Sequence[float]


async def load(request: Request, concurrency: int, seconds: float) -> Load:
    """Keep `concurrency` requests under way for `seconds`; each sender sends at least one."""
    latencies: list[float] = []
    started, cpu_started = perf_counter(), thread_time()

    async def send_in_turn() -> None:
        sent = perf_counter()
        while True:
            await request()
            answered = perf_counter()
            latencies.append(answered - sent)
            if answered > started + seconds:
                return
            sent = answered

    await asyncio.gather(*(send_in_turn() for _ in range(concurrency)))
    elapsed, cpu = perf_counter() - started, thread_time() - cpu_started
    return Load(elapsed / len(latencies), cpu / len(latencies), latencies)


async def paced(request: Request, interval: float, seconds: float) -> float:
    """Send a request each `interval` seconds, whatever becomes of the others. Answers with the p99
    of their times from when they were due: one that starts late has waited, too."""
    latencies: list[float] = []

    async def send(due: float) -> None:
        await request()
        latencies.append(perf_counter() - due)

    started = perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(round(seconds / interval)):
            due = started + number * interval
            await asyncio.sleep(max(0, due - perf_counter()))
            tasks.create_task(send(due))
    return p99(latencies)


def p99(latencies: Sequence[float]) -> float:
    """What 99 of 100 do not pass."""
    return quantiles(latencies, n=100, method="inclusive")[98]
