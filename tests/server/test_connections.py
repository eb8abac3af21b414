"""When a worker closes a connection: idle, stuck, unread, on request, or as the worker ends."""

import pytest

from service.server import protocol
from tests.support.client import encode
from tests.support.protocol import GET, SHORT, WAIT, Connection, Server, sending
from tests.support.waiting import until


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("sent", [b"", b"\r\n" * 500], ids=["silent", "blank lines"])
async def test_an_idle_connection_is_closed_after_the_keep_alive_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_used: bool, sent: bytes
) -> None:
    server.keep_alive = SHORT
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", SHORT)  # blank lines may begin a head
    async with server.connected() as connection:
        if is_used:
            await connection.send(GET)
            await connection.receive()
        await connection.send(sent)
        rest = await connection.rest()

    assert rest == b"" or rest.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "request_", [b"", encode("POST", "/", b" " * 100)[:-50]], ids=["no request", "half a body"]
)
async def test_a_connection_that_sends_on_without_a_request_is_closed(
    server: Server, connection: Connection, monkeypatch: pytest.MonkeyPatch, request_: bytes
) -> None:
    """Even if the request was answered before its body was whole."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT", SHORT)
    await connection.send(request_)
    if request_:
        assert (await connection.receive()).status == 200
    async with sending(connection, b"\r\n"):
        await connection.rest()


async def test_a_client_that_does_not_read_its_response_loses_its_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.keep_alive = SHORT
    async with server.connected() as connection:
        await connection.send(encode("GET", "/big"))
        await until(lambda: server.application.requests)

        await until(lambda: not server.state.connections)


@pytest.mark.parametrize(
    "request_",
    [GET.replace(b"1.1", b"1.0"), encode("GET", "/1", headers={"Connection": "close"})],
)
async def test_a_connection_ends_after_a_request_that_says_so(
    connection: Connection, request_: bytes
) -> None:
    await connection.send(request_)

    assert (await connection.receive()).headers["connection"] == "close"
    assert await connection.rest() == b""


async def test_an_idle_connection_still_gets_a_response_while_the_worker_ends(
    server: Server,
) -> None:
    async with (
        server.connected() as new,
        server.connected() as begun,
        server.connected() as used,
    ):
        await begun.send(GET[:20])
        await used.send(GET)
        await used.receive()
        await until(lambda: len(server.state.connections) == 3)
        server.end_connections()
        await new.send(GET)
        await begun.send(GET[20:])
        await used.send(GET)

        for connection in (new, begun, used):
            answer = await connection.receive()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await connection.rest() == b""


async def test_a_connection_without_a_request_does_not_hold_up_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "DRAIN", SHORT)
    async with server.connected() as silent, server.connected() as idle:
        await idle.send(GET)
        await idle.receive()
        await until(lambda: len(server.state.connections) == 2)
        server.end_connections()

        assert await idle.rest() == await silent.rest() == b""


async def test_a_request_in_flight_is_answered_before_the_connection_ends(
    server: Server, connection: Connection
) -> None:
    await connection.send(WAIT + GET)
    await until(lambda: server.application.requests)
    server.end_connections()
    server.application.may_answer.set()
    first, second = [await connection.receive() for _ in range(2)]

    assert (first.body, second.body) == (b"/wait", b"/1")
    assert second.headers["connection"] == "close"
    assert await connection.rest() == b""
