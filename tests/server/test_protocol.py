"""Responses in one write, the bounds on requests, and bytes that are not HTTP."""

import asyncio
import socket
import struct
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from service.server import protocol
from service.server.protocol import (
    MAX_HEAD_BYTES,
    MAX_JOINED_BYTES,
    MAX_PIPELINED,
    JoiningTransport,
    ServiceProtocol,
)
from tests.support.apps import address, execute, listening
from tests.support.client import encode
from tests.support.protocol import (
    GET,
    SHORT,
    WAIT,
    Connection,
    Server,
    check_refused,
    connected,
    post,
    sending,
)
from tests.support.samples import LAMP
from tests.support.waiting import until

# The offset of tcpi_data_segs_in in Linux's struct tcp_info.
DATA_SEGMENTS_IN = struct.Struct("152xI")


def head_of(size: int) -> bytes:
    """Return a good request whose head has `size` bytes."""
    start = GET[:-2] + b"X: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


async def test_head_and_body_of_a_response_arrive_in_one_segment(app: FastAPI) -> None:
    await execute(app, "INSERT INTO items (name) SELECT 'Lamp' FROM generate_series(1, 100)")
    requests = [
        *(encode("GET", "/health/live"), encode("GET", "/items/1"), encode("HEAD", "/items/1")),
        *(encode("GET", "/items?per_page=100"), encode("GET", "/items/0"), encode("GET", "/none")),
        *(encode("POST", "/items", LAMP), encode("POST", "/items", b"{")),
        *(encode("DELETE", "/items/1"), b"GARBAGE\r\n\r\n"),
    ]
    async with listening(app) as server, connected(address(server)) as connection:
        sock = connection.writer.get_extra_info("socket")
        for number, request in enumerate(requests, 1):
            await connection.send(request)
            answer = await connection.receive(request.split()[0].decode())
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            assert DATA_SEGMENTS_IN.unpack_from(info) == (number,), answer


async def test_writes_that_are_joined_are_bounded() -> None:
    written: list[bytes] = []

    class Recorder(asyncio.Transport):
        def write(self, data: Any) -> None:
            written.append(data)

        def is_closing(self) -> bool:
            return False

    transport = JoiningTransport(Recorder(), asyncio.get_running_loop())
    for _ in range(5):
        transport.write(b"x" * (MAX_JOINED_BYTES // 2))
    assert [len(data) for data in written] == [MAX_JOINED_BYTES * 3 // 2]

    await asyncio.sleep(0)
    assert sum(map(len, written)) == MAX_JOINED_BYTES // 2 * 5


async def test_requests_that_wait_on_a_connection_are_bounded(
    server: Server, connection: Connection
) -> None:
    await connection.send(WAIT)
    await until(lambda: server.application.requests)
    (served,) = server.state.connections
    assert isinstance(served, ServiceProtocol)
    for _ in range(3):  # also after the parser has refused one
        await connection.send(GET * 1_000)
    await server.until_read()
    assert len(served.pipeline) == MAX_PIPELINED

    server.application.may_answer.set()
    answers = [await connection.receive() for _ in range(1 + MAX_PIPELINED)]
    assert [answer.status for answer in answers] == [200] * (1 + MAX_PIPELINED)
    assert answers[-1].headers["connection"] == "close"
    assert await connection.rest() == b""


async def test_a_head_within_the_bounds_is_accepted_in_any_pieces(
    server: Server, connection: Connection
) -> None:
    head = head_of(MAX_HEAD_BYTES)
    for pieces in (
        [head],
        [head[:7], head[7:500], head[500:-1], head[-1:]],
        [head[:-9], head[-9:]],
    ):
        for piece in pieces:
            await connection.send(piece)
            await server.until_read()

        assert (await connection.receive()).status == 200


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([head_of(MAX_HEAD_BYTES * 2)[: MAX_HEAD_BYTES + 1]], id="unfinished"),
        pytest.param([GET[:-2] + b"X: ", b"x" * 30_000, b"x" * 40_000], id="growing"),
    ],
)
async def test_a_head_beyond_the_bounds_is_a_431(
    server: Server, connection: Connection, pieces: list[bytes], is_first: bool
) -> None:
    if not is_first:
        await connection.send(GET)
        await connection.receive()
    for piece in pieces:
        await connection.send(piece)
        await server.until_read()

    check_refused(await connection.receive(), 431, "header-too-large")
    assert await connection.rest() == b""


async def test_a_large_body_does_not_count_as_head(connection: Connection) -> None:
    await connection.send(encode("POST", "/body", b" " * MAX_HEAD_BYTES * 2) + GET)

    assert [(await connection.receive()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("more", [b"", b"X: x\r\n"], ids=["silent", "growing"])
async def test_a_head_that_does_not_end_in_time_is_a_408(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, is_first: bool, more: bytes
) -> None:
    if not is_first:
        await connection.send(GET)
        await connection.receive()
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", SHORT)
    await connection.send(GET[:-2])
    async with sending(connection, more):
        check_refused(await connection.receive(), 408, "timed-out")


async def test_the_timeout_of_a_head_ends_with_the_head(
    server: Server, connection: Connection
) -> None:
    await until(lambda: server.state.connections)
    (served,) = server.state.connections
    assert isinstance(served, ServiceProtocol)
    await connection.send(WAIT[:-2])
    await until(lambda: served.head_timer)
    await connection.send(WAIT[-2:])
    await until(lambda: server.application.requests)

    assert served.head_timer is None


@pytest.mark.parametrize(
    "malformed",
    [
        b"SECRET\r\n\r\n",
        b"GET / HTTP/1.1\r\nSECRET\r\n\r\n",
        post("Content-Length: SECRET", body=b""),
        post("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked", body=b"SECRET\r\n"),
    ],
)
async def test_what_is_not_http_is_a_400_that_does_not_repeat_it(
    connection: Connection, malformed: bytes
) -> None:
    await connection.send(malformed)
    answer = await connection.receive()

    check_refused(answer, 400, "bad-request")
    assert b"SECRET" not in answer.body
    assert await connection.rest() == b""


@pytest.mark.parametrize(
    "fault",
    [b"GARBAGE\r\n\r\n", head_of(MAX_HEAD_BYTES * 2)[: MAX_HEAD_BYTES + 1]],
    ids=["garbage", "large head"],
)
async def test_a_fault_of_the_next_request_does_not_spoil_a_response(
    server: Server, connection: Connection, fault: bytes
) -> None:
    for data in (WAIT, fault, GET):  # the last is not served any more
        await connection.send(data)
        await server.until_read()
    server.application.may_answer.set()

    assert (await connection.receive()).body == b"/wait"
    rest = await connection.rest()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 4")


async def test_an_ipv4_client_of_an_ipv6_socket_has_its_ipv4_address(server: Server) -> None:
    # The address of `FORWARDED_ALLOW_IPS` would not match the other spelling.
    mapped = ("::ffff:127.0.0.1", 50_000)

    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return {"peername": mapped, "sockname": mapped}.get(name, default)

        def get_write_buffer_size(self) -> int:
            return 0

    config = uvicorn.Config(server.application, log_config=None)
    config.load()
    served = ServiceProtocol(config, server.state, app_state={})
    served.connection_made(Transport())
    assert served.client == ("127.0.0.1", 50_000)
    served.connection_lost(ConnectionResetError())
    assert served.timeout_keep_alive_task
    served.timeout_keep_alive_task.cancel()
