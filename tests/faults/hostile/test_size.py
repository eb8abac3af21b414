"""Requests that are too large, or never end: they are refused before they take much memory."""

import asyncio
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI

from service.settings import Settings
from service.state import state_of
from tests.support.apps import address, listening, status
from tests.support.attacks import BULK, build
from tests.support.corpus import LAMP
from tests.support.framing import CHUNKED, LIVE, POST, POST_BULK
from tests.support.hostile import MEGABYTE, connect, growth_below, receive, send, statuses
from tests.support.processes import Server
from tests.support.waiting import until

pytestmark = pytest.mark.faults

LENGTH = b"Content-Length: %d\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"


def first_statuses(server: Server, data: bytes) -> list[int]:
    """Send a request; return the status of its answer, or nothing if the connection is closed."""
    with connect(server) as sock:
        send(sock, data)
        return statuses(receive(sock, end=b"\r\n"))


def test_a_head_that_is_too_large_is_refused_in_little_memory(server: Server) -> None:
    large = b"x" * 2_000_000
    heads = [
        LIVE + b"".join(b"X-%d: x\r\n" % number for number in range(100_000)) + b"\r\n",
        LIVE + b"X: " + large + b"\r\n\r\n",
        LIVE + large + b": x\r\n\r\n",
        b"GET /" + large + b" HTTP/1.1\r\n\r\n",
        b"GET /items?q=" + large + b" HTTP/1.1\r\n\r\n",
        large,
    ]
    with growth_below(server, megabytes=16):
        for head in heads:
            # The answer is lost if the rest of the head meets a connection that is closed.
            assert first_statuses(server, head) in ([], [400], [431]), head[:100]


def test_a_body_that_is_too_large_is_refused_in_little_memory(server: Server) -> None:
    requests = [
        POST + LENGTH % 10**10,
        POST + LENGTH % (2**63 - 1) + b" " * 100_000,
        POST + LENGTH % (2**64 - 1),
        POST + LENGTH % (MEGABYTE + 1) + b" " * MEGABYTE,
        POST_BULK + LENGTH % (16 * MEGABYTE + 1),
        POST + b"Expect: 100-continue\r\n" + LENGTH % 10**10,
        POST + CHUNKED + b"\r\n" + CHUNK * 17,
        POST_BULK + CHUNKED + b"\r\n" + CHUNK * 257,
    ]
    with growth_below(server, megabytes=64):
        for request in requests:
            assert first_statuses(server, request) == [413], request[:100]


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(server: Server) -> None:
    with growth_below(server, megabytes=64):  # parsed, they would take 45 times the body
        for element in (b"{}", b"[]", b"1.1", b'"a"', b"[[[[[[[[]]]]]]]]"):
            elements = b",".join([element] * (15 * MEGABYTE // (len(element) + 1)))
            body = b'{"items": [%b]}' % elements
            assert first_statuses(server, POST_BULK + LENGTH % len(body) + body) == [422]


FLOODS = [
    (LIVE, b"X: x\r\n"),
    (LIVE + b"X: ", b"x"),
    (b"GET /", b"x"),
    (b"", b"\r\n"),
    (POST + CHUNKED + b"\r\n", CHUNK),
    (POST + CHUNKED + b"\r\n", b"1\r\n \r\n"),
    (POST + CHUNKED + b"\r\n10;", b"x"),
]


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
async def test_a_request_without_an_end_takes_little_memory(server: Server, seconds: int) -> None:
    """Clients send them all at once; some read their answers, and some do not."""
    with growth_below(server, megabytes=48), suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            floods = (
                flood(server, start, unit, does_read)
                for start, unit in FLOODS
                for does_read in (True, False)
            )
            await asyncio.gather(*floods)


async def flood(server: Server, start: bytes, unit: bytes, does_read: bool) -> None:
    """Send `start`, and then `unit` until the server closes the connection."""
    parts = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)

    async def write() -> None:
        writer.write(start)
        while True:
            writer.write(unit * max(1, 20_000 // len(unit)))
            await writer.drain()

    async def read() -> None:
        while does_read and await reader.read(65_536):
            pass

    try:
        with suppress(ConnectionError):
            await asyncio.gather(write(), read())
    finally:
        writer.transport.abort()


SIZE = 100_000  # bytes of the largest body


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.max_bulk_bytes = SIZE
    return settings


async def test_a_worker_holds_two_of_the_largest_bodies(app: FastAPI) -> None:
    request = build(BULK, body=b'{"items": [%b]}' % LAMP.ljust(SIZE - 13)).data
    async with listening(app) as server, AsyncExitStack() as stack:
        connections = [await asyncio.open_connection(*address(server)) for _ in range(3)]
        for _, writer in connections:
            stack.callback(writer.transport.abort)
        for _, writer in connections[:2]:
            writer.write(request[:-1])
        await until(lambda: state_of(app).body_budget.left == 2)

        for (reader, writer), expected in zip(connections[::-1], [503, 201, 201], strict=True):
            writer.write(request if expected == 503 else request[-1:])
            assert await status(reader) == expected
