"""Requests to an application in this process, so that no server and no client share its cores."""

import asyncio
from collections.abc import Awaitable, Callable
from statistics import quantiles
from time import perf_counter

from starlette.types import ASGIApp, Message, Scope

Request = Callable[[], Awaitable[None]]


def get(app: ASGIApp, path: str) -> Request:
    """Return a function that sends one GET and waits for the whole response."""
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


async def seconds_each(request: Request, concurrency: int, seconds: float) -> float:
    """Keep `concurrency` requests in flight for `seconds`; return the seconds per request served.

    Every sender sends at least one request.
    """
    served = 0
    started = perf_counter()

    async def send_in_turn() -> None:
        nonlocal served
        is_over = False
        while not is_over:
            await request()
            served += 1
            is_over = perf_counter() > started + seconds

    await asyncio.gather(*(send_in_turn() for _ in range(concurrency)))
    return (perf_counter() - started) / served


async def p99_at_a_rate(request: Request, interval: float, seconds: float) -> float:
    """Send a request every `interval` seconds, also while others are in flight.

    Returns:
        The p99 of their latencies, counted from when each was due: a late start counts as latency.
    """
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
    return quantiles(latencies, n=100, method="inclusive")[98]
