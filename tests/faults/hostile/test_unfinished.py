"""Requests that never end, or break off at any byte: they leave nothing behind."""

import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from random import Random

import pytest

from tests.support.attacks import BULK, CREATE, LIST, OPERATIONS, STATUSES, build
from tests.support.corpus import LAMP
from tests.support.framing import CHUNKED, CHUNKS, POST, POST_BULK, SIZE, WELL_FORMED
from tests.support.hostile import (
    LAST,
    connect,
    descriptors,
    harmed_by_nothing,
    receive,
    send,
    send_all,
    serving,
    statuses,
)
from tests.support.processes import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

CLIENTS = 32
REQUEST_TIMEOUT = 1  # second
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # instead of a close


@pytest.fixture(scope="module")
def impatient(hostile_url: str) -> Iterator[Server]:
    """`items serve` that gives up each request after a second."""
    with (
        serving(hostile_url, REQUEST_TIMEOUT=str(REQUEST_TIMEOUT)) as server,
        harmed_by_nothing(server, allowed=[503]),
    ):
        yield server


async def test_requests_that_break_off_leave_no_connection_open(server: Server) -> None:
    """They break off at every byte; their client closes the connection, or resets it."""
    chunked = POST + CHUNKED + b"\r\n" + CHUNKS
    requests = [build(CREATE).data, build(BULK).data, build(LIST).data * 2, chunked]
    await send_all(server, map(build, OPERATIONS))
    before = descriptors(server)
    for request in requests:
        for end in range(len(request) + 1):
            for does_reset in (False, True):
                with connect(server) as sock:
                    if does_reset:
                        sock.setsockopt(*RESET)
                    send(sock, request[:end])

    # Connections are accepted in their order: after these, none of the others waits to be.
    await send_all(server, [build(LIST)] * 8)
    # A few more may be connections to the database.
    wait_until(lambda: sum(descriptors(server)) <= sum(before) + 4)


@pytest.mark.parametrize("number", [100, pytest.param(2000, marks=pytest.mark.soak)])
def test_a_body_that_does_not_come_gets_503_after_the_deadline(
    impatient: Server, number: int
) -> None:
    halves = [
        POST + SIZE + b"\r\n",
        POST + SIZE + b"\r\n" + LAMP[:-1],
        POST + CHUNKED + b"\r\n",
        POST + CHUNKED + b"\r\n5\r\n{",
        POST + CHUNKED + b"\r\n" + CHUNKS[:-2],
        POST_BULK + b"Content-Length: 10000000\r\n\r\n[",
    ]
    before = descriptors(impatient)
    begun = time.monotonic()
    with ExitStack() as stack:
        sockets = [stack.enter_context(connect(impatient)) for _ in range(number)]
        for sock, half in zip(sockets, cycle(halves), strict=False):
            send(sock, half)
        answers = [receive(sock, end=b"}") for sock in sockets]
    seconds = time.monotonic() - begun

    print(f"{number} connections in {seconds:.2f} s")
    assert seconds >= REQUEST_TIMEOUT
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in answer
        assert b'{"type":"urn:items-service:timed-out",' in answer
    wait_until(lambda: sum(descriptors(impatient)) <= sum(before))


@pytest.mark.parametrize("number", [300, pytest.param(20_000, marks=pytest.mark.soak)])
def test_a_damaged_request_is_answered_or_its_connection_is_closed(
    impatient: Server, number: int
) -> None:
    random = Random(1)  # the same requests in each run
    good = b"".join([build(CREATE).data, *(shape.data for shape in WELL_FORMED[:-1])])

    def damaged() -> bytes:
        """Return pieces of good requests, in any order, with a few bytes between them."""
        starts = [random.randrange(len(good)) for _ in range(random.randint(1, 12))]
        pieces = [good[start : start + random.randrange(200)] for start in starts]
        return random.randbytes(3).join(pieces)

    def exchange(data: bytes) -> bytes:
        with connect(impatient) as sock:
            send(sock, data, b"\r\n\r\n", LAST)
            # The connection stays open only where the service waits for a body.
            return receive(sock, end=b"urn:items-service:timed-out")

    with ThreadPoolExecutor(CLIENTS) as threads:
        answers = [*threads.map(exchange, [damaged() for _ in range(number)])]
    assert {answer[:9] for answer in answers} <= {b"", b"HTTP/1.1 "}
    assert {status for answer in answers for status in statuses(answer)} <= {*STATUSES, 100, 503}
