"""Clients that disconnect during their requests."""

import asyncio
import re
import socket
import struct
import time
from collections import Counter

import httpx2 as httpx
import psutil
import pytest

from tests.support.apps import BIG, INSERT_BIG
from tests.support.client import Client, encode
from tests.support.probes import SERVICE, ask_all, fill, serving, workers
from tests.support.processes import Server, query, script
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

SETS = 4  # of requests of all kinds, which are in flight at once
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: closing the connection resets it
# Nothing ends by a timeout before the test does.
PATIENT = {"REQUEST_TIMEOUT": "600", "STATEMENT_TIMEOUT_MS": "600000"}


@pytest.mark.parametrize("waves", [6, pytest.param(200, marks=pytest.mark.soak)])
def test_clients_that_disconnect_leave_nothing_behind(database_url: str, waves: int) -> None:
    fill(database_url)
    script(database_url, INSERT_BIG.format(BIG))
    with serving(database_url, **PATIENT) as server:
        for wave in range(waves):
            numbers = range(wave * SETS, (wave + 1) * SETS)
            messages = [message for number in numbers for message in _requests(number)]
            _send_and_disconnect(server, messages, reset=wave % 2 == 1)
            _wait_until_nothing_is_left(server, database_url)
        wait_until(lambda: not _in_use(server.url))

        asyncio.run(_repeat(server.url, waves * SETS))
        names = Counter(name for (name,) in query(database_url, "SELECT name FROM items"))
        assert {names[f"Lamp {number}"] for number in range(waves * SETS)} == {1}
        assert not server.events("unhandled_error")


async def _repeat(url: str, times: int) -> None:
    """Send requests of every kind, and the keyed ones whose clients disconnected again."""
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as http, Client(url) as client:
        assert {outcome.succeeded for outcome in await ask_all(http)} == {True}
        for number in range(times):
            assert (await client.request("POST", "/items", *_with_key(number))).status == 201


def _requests(number: int) -> list[bytes]:
    """Return a request of each kind; the first four are never completed."""
    bulk = {"items": [LAMP] * 100}
    return [
        encode("GET", "/items/1")[:-10],
        encode("POST", "/items", LAMP)[:-10],
        encode("POST", "/items", LAMP, {"Idempotency-Key": f"half-{number}"})[:-10],
        encode("POST", "/items/bulk", bulk)[:-1000],
        encode("GET", "/items/1"),
        encode("GET", "/items"),
        encode("GET", "/items?price_min=1000&sort=-price"),
        encode("POST", "/items", LAMP),
        encode("POST", "/items", *_with_key(number)),
        encode("POST", "/items/bulk", bulk),
        encode("PUT", f"/items/{number % 100 + 1}", LAMP),
        encode("GET", "/items/export"),
    ]


def _with_key(number: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the body and the headers of a request that can be repeated."""
    return {"name": f"Lamp {number}"}, {"Idempotency-Key": f"lamp-{number}"}


def _send_and_disconnect(server: Server, messages: list[bytes], *, reset: bool) -> None:
    """Send each message on a connection of its own, and close all without reading."""
    url = httpx.URL(server.url)
    connections = []
    for message in messages:
        connection = socket.create_connection((url.host, url.port))
        connections.append(connection)
        connection.sendall(message)
    for connection in connections:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


def _wait_until_nothing_is_left(server: Server, database_url: str) -> None:
    """Wait until no client's connection and no statement is left."""
    begun = time.monotonic()
    # Workers accept connections in order: once this is answered, they have accepted all.
    httpx.get(f"{server.url}/health/live", timeout=TIMEOUT)
    wait_until(lambda: not _client_sockets(server))
    busy = (
        f"SELECT FROM pg_stat_activity WHERE {SERVICE} AND datname = current_database()"
        " AND state <> 'idle'"
    )
    wait_until(lambda: not query(database_url, busy))
    print(f"nothing is left after {time.monotonic() - begun:.1f} s")


def _client_sockets(server: Server) -> list[tuple[int, str]]:
    """Return the workers' connections with clients, as process id and state."""
    port = httpx.URL(server.url).port
    return [
        (pid, each.status)
        for pid in workers(server)
        for each in psutil.Process(pid).net_connections("tcp")
        if each.laddr.port == port and each.status != psutil.CONN_LISTEN
    ]


def _in_use(url: str) -> Counter[str]:
    """Return the numbers of requests in progress and connections in use, if not 0."""
    found = re.findall(
        r"^(http_requests_in_progress|database_connections_in_use) (\S+)$",
        httpx.get(f"{url}/metrics", timeout=TIMEOUT).text,
        re.MULTILINE,
    )
    return +Counter({name: int(float(value)) for name, value in found})
