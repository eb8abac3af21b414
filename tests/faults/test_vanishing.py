"""Clients that vanish in the midst of their requests."""

import asyncio
import re
import socket
import struct
import time
from collections import Counter

import httpx2 as httpx
import psutil
import pytest

from tests.support.client import Client, encode
from tests.support.probes import SERVICE, Outcome, ask_all, fill, serving, workers
from tests.support.processes import Server, query, script
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

WELL_AFTER = 1.0  # seconds after which nothing may be left
SETS = 4  # of requests of all kinds, that are under way at once
STAY = 0.02  # seconds from the requests to the end of their connections
PAUSE = 0.3  # seconds until the next do so: it is about what they leave, not about overload
ROWS = 20_000  # which no client reads in that time
# To reset a connection when it is closed, in place of ending it in order.
RESET = struct.pack("ii", 1, 0)

LAMP = {"name": "Lamp", "price": 29.99}
BACKENDS = f"pg_stat_activity WHERE {SERVICE} AND datname = current_database()"


@pytest.mark.parametrize("waves", [21, pytest.param(420, marks=pytest.mark.soak)])
def test_clients_that_vanish_leave_nothing_behind(database_url: str, waves: int) -> None:
    fill(database_url)
    lamps = f"SELECT 'Lamp' FROM generate_series(101, {ROWS})"
    script(database_url, f"INSERT INTO items (name) {lamps};\n\nANALYZE items")
    with serving(database_url) as server:
        for wave in range(waves):
            begun = wave * SETS
            messages = [m for n in range(begun, begun + SETS) for m in _requests(n)]
            _send_and_vanish(server, messages, reset=wave % 2 == 1)
            time.sleep(PAUSE)
        # It is accepted after them: a busy machine may not have come to their connections yet.
        httpx.get(f"{server.url}/health/live", timeout=TIMEOUT)
        time.sleep(WELL_AFTER)
        sockets = _client_sockets(server)
        busy = query(
            database_url, f"SELECT state, left(query, 40) FROM {BACKENDS} AND state <> 'idle'"
        )
        print(
            f"{waves * len(messages)} clients; {WELL_AFTER:.0f} s later, of them {sockets}, {busy}"
        )
        assert sockets == []
        assert busy == []

        wait_until(lambda: _in_use(server.url) == Counter())
        assert {outcome.succeeded for outcome in asyncio.run(_ask(server.url))} == {True}
        asyncio.run(_repeat(server.url, waves * SETS))
        ((backends,),) = query(database_url, f"SELECT count(*) FROM {BACKENDS}")
        files = [psutil.Process(pid).num_fds() for pid in workers(server)]
        print(f"{backends} backends, {files} files open")
    names = Counter(name for (name,) in query(database_url, "SELECT name FROM items"))
    assert {names[f"Lamp {number}"] for number in range(waves * SETS)} == {1}
    warnings = [line for line in server.lines() if line["level"] in ("warning", "error")]
    assert [line for line in warnings if "API_KEYS" not in line["event"]] == []


def _requests(number: int) -> list[bytes]:
    """A request of each kind; some are not whole, and never will be."""
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
    """The body and the headers of a request that can be repeated."""
    return {"name": f"Lamp {number}"}, {"Idempotency-Key": f"lamp-{number}"}


def _send_and_vanish(server: Server, messages: list[bytes], *, reset: bool) -> None:
    """Send each on a connection of its own, and end all of these before most are answered."""
    url = httpx.URL(server.url)
    connections = []
    for message in messages:
        connection = socket.create_connection((url.host, url.port))
        connections.append(connection)
        connection.sendall(message)
    time.sleep(STAY)
    for connection in connections:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


def _client_sockets(server: Server) -> list[tuple[int, str]]:
    """The workers' connections with clients, and the states that these are in."""
    port = httpx.URL(server.url).port
    return [
        (pid, each.status)
        for pid in workers(server)
        for each in psutil.Process(pid).net_connections("tcp")
        if each.laddr.port == port and each.status != psutil.CONN_LISTEN
    ]


def _in_use(url: str) -> Counter[str]:
    """Requests under way and connections in use, which are sampled once a second."""
    found = re.findall(
        r"^(http_requests_in_progress|database_connections_in_use) (\S+)$",
        httpx.get(f"{url}/metrics", timeout=TIMEOUT).text,
        re.MULTILINE,
    )
    return +Counter({name: int(float(value)) for name, value in found})


async def _ask(url: str) -> list[Outcome]:
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
        return await ask_all(client)


async def _repeat(url: str, times: int) -> None:
    """Do what clients whose connections broke do: send the same again."""
    async with Client(url) as client:
        for number in range(times):
            assert (await client.request("POST", "/items", *_with_key(number))).status == 201
