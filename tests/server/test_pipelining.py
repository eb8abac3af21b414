"""Requests that few clients make: pipelined, with an upgrade or trailers, or after a refusal."""

import asyncio

import pytest

from service import overload
from service.server.protocol import MAX_HEAD_BYTES, MAX_PIPELINED
from tests.support.client import encode
from tests.support.protocol import GET, Connection, Server, check_refused, post
from tests.support.samples import LAMP
from tests.support.waiting import until


async def test_pipelined_requests_are_answered_in_order_up_to_a_bound(
    server: Server, connection: Connection
) -> None:
    paths = [b"/wait", *(b"/%d" % number for number in range(150))]
    await connection.send(b"".join(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % p for p in paths))
    await server.until_read()
    server.application.may_answer.set()
    served = [(await connection.receive()).body for _ in range(1 + MAX_PIPELINED)]

    assert served == paths[: 1 + MAX_PIPELINED]
    assert await connection.rest() == b""


async def test_a_disconnect_ends_a_request_though_another_is_pipelined(server: Server) -> None:
    async with server.connected() as connection:
        await connection.send(encode("GET", "/until-disconnect") + GET)
        await until(lambda: server.application.requests)

    await until(lambda: server.application.disconnected)


async def test_an_upgrade_is_not_made_and_with_a_body_refused(server: Server) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "h2c"}
    async with server.connected() as connection:
        await connection.send(encode("GET", "/1", headers=headers))
        assert (await connection.receive()).body == b"/1"
        assert await connection.rest() == b""
    async with server.connected() as connection:
        await connection.send(encode("POST", "/body", LAMP, headers))
        check_refused(await connection.receive(), 400, "bad-request")


async def test_trailers_are_no_headers(server: Server, connection: Connection) -> None:
    chunks = b"1\r\nx\r\n0\r\nIdempotency-Key: trailed\r\n\r\n"
    await connection.send(post("Transfer-Encoding: chunked", body=chunks) + GET)
    assert [(await connection.receive()).status for _ in range(2)] == [200, 200]

    for scope in server.application.requests:
        assert b"idempotency-key" not in dict(scope["headers"])


@pytest.mark.parametrize("forwarded", [{}, {"X-Forwarded-For": "203.0.113.1"}], ids=len)
async def test_a_refused_client_is_answered_again_when_its_turn_comes(
    server: Server,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    forwarded: dict[str, str],
) -> None:
    """A connection of a proxy's is not held: it also carries the requests of others."""
    seconds = 3600 if forwarded else 0.2
    monkeypatch.setattr(overload, "REFUSALS", 1 / seconds)
    monkeypatch.setattr(overload, "LONGEST", seconds)
    server.application.refusals.hold_off({})  # the next has its turn after so many seconds
    begun = asyncio.get_running_loop().time()
    await connection.send(encode("GET", "/refused", headers=forwarded))
    await connection.receive()
    await connection.send(encode("POST", "/body", b" " * 2 * MAX_HEAD_BYTES) + GET)

    assert [(await connection.receive()).status for _ in range(2)] == [200, 200]
    waited = asyncio.get_running_loop().time() - begun
    assert forwarded or waited > seconds * 0.9
