"""Workers that end under load: stopped, replaced in a rolling reload, or killed."""

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import httpx2 as httpx
import pytest

from tests.support.apps import BIG, INSERT_BIG
from tests.support.client import Client, encode
from tests.support.probes import fill, serving, workers
from tests.support.processes import Server, query, script
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

WORKERS = 2
CLIENTS = 20
PATIENT = {"REQUEST_TIMEOUT": str(TIMEOUT)}  # longer than the service takes to stop


def test_requests_in_flight_are_answered_and_idle_connections_closed(database_url: str) -> None:
    async def stop_in_flight() -> None:
        url = httpx.URL(server.url)
        async with AsyncExitStack() as stack, httpx.AsyncClient(base_url=url) as http:
            clients = [await stack.enter_async_context(Client(server.url)) for _ in range(40)]
            for client in clients:  # a worker has accepted the connection
                assert (await client.request("GET", "/items/1")).status == 200
            creating, idle = clients[:20], clients[20:]
            creation = encode("POST", "/items", LAMP)
            for client in creating:
                await client.send(creation[:-10])
            async with http.stream("GET", "/items/export", timeout=TIMEOUT) as export:
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(wait_until, lambda: not _accepts_connections(url))
                for client in creating:
                    await client.send(creation[-10:])
                answers = [await client.receive() for client in creating]
                lines = (await export.aread()).count(b"\n")
            for client in idle:
                reader, _ = await client.connect()
                assert await reader.read() == b""
        assert {answer.status for answer in answers} == {201}
        assert {answer.headers["connection"] for answer in answers} == {"close"}
        assert lines >= BIG

    _fill(database_url)
    with serving(database_url, **PATIENT) as server:
        asyncio.run(stop_in_flight())
        assert server.process.wait(TIMEOUT) == 0
        assert len(server.events("stopped")) == WORKERS
        assert not server.events("unhandled_error")


@pytest.mark.parametrize("grace", ["6", pytest.param("15", marks=pytest.mark.soak)])
def test_requests_that_outlive_the_grace_period_do_not_keep_the_service_from_ending(
    database_url: str, grace: str
) -> None:
    async def stop_in_flight() -> list[int]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(server.url)) for _ in range(16)]
            for client in clients:
                assert (await client.request("GET", "/items/1")).status == 200
            for client in clients[:4]:
                await client.send(encode("GET", "/items/1")[:-10])
            for client in clients[4:8]:  # which never read
                await client.send(encode("GET", "/items/export"))
            for client in clients[8:12]:
                await client.send(encode("POST", "/items", LAMP)[:-10])
            begun = time.perf_counter()
            assert await asyncio.to_thread(server.end) == 0
            print(f"ended in {time.perf_counter() - begun:.1f} s")
            return [(await client.receive()).status for client in clients[8:12]]

    _fill(database_url)
    arguments = {"GUNICORN_CMD_ARGS": f"--graceful-timeout={grace}", **PATIENT}
    with serving(database_url, **arguments) as server:
        assert set(asyncio.run(stop_in_flight())) == {503}
        # Gunicorn kills a worker that does not end in time, which then logs nothing.
        assert len(server.events("stopped")) == WORKERS


@dataclass(slots=True)
class Run:
    """What the clients of a run have seen."""

    created: set[str] = field(default_factory=set)  # names
    statuses: Counter[int] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)  # ids of requests
    retries: int = 0
    failures: list[str] = field(default_factory=list)
    served: set[int] = field(default_factory=set)  # clients, since the last fault began
    is_over: bool = False


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGHUP, signal.SIGTERM), (signal.SIGKILL, signal.SIGHUP, signal.SIGKILL)],
    ids=["graceful", "killed"],
)
def test_a_client_that_retries_once_sees_no_failure(
    database_url: str, signals: tuple[signal.Signals, ...], rounds: int
) -> None:
    """SIGHUP replaces all workers; the other signals go to one worker."""
    fill(database_url)
    with serving(database_url) as server:
        run = asyncio.run(_send_under_faults(server, signals * rounds))
        assert server.end() == 0
    print(f"{run.statuses.total()} requests: {run.statuses}, {run.retries} retries")
    assert run.failures == []
    assert run.statuses.keys() <= {200, 201, 409, 503}
    stored = Counter(name for (name,) in query(database_url, "SELECT name FROM items"))
    del stored[LAMP["name"]]
    assert stored == Counter(run.created)

    served = {line["request_id"] for line in server.events("request")}
    lost = {id_ for id_ in served if id_.startswith("lamp-")} - run.answered
    killed = rounds * signals.count(signal.SIGKILL)
    print(f"{len(lost)} requests were served and not answered")
    assert len(lost) <= killed * CLIENTS  # those in flight
    assert len(server.events("stopped")) == len(server.events("started")) - killed
    assert not server.events("unhandled_error")


async def _send_under_faults(server: Server, signals: tuple[signal.Signals, ...]) -> Run:
    run, numbers = Run(), count()

    async def send_on(client_number: int) -> None:
        async with Client(server.url) as client:
            while not run.is_over:
                await _send(client, next(numbers), run)
                run.served.add(client_number)

    async with asyncio.TaskGroup() as group:
        for client_number in range(CLIENTS):
            group.create_task(send_on(client_number))
        await asyncio.to_thread(_end_workers, server, signals, run)
        run.is_over = True
    return run


def _end_workers(server: Server, signals: tuple[signal.Signals, ...], run: Run) -> None:
    starts = WORKERS

    def all_have_started() -> bool:
        return server.stderr().count('"event":"started"') == starts

    for number in signals:
        # A client that one fault has hit twice must not be hit by the next one, too.
        _wait_until_all_are_served(run)
        if number == signal.SIGHUP:
            server.process.send_signal(number)
            starts += WORKERS
        else:
            os.kill(random.choice(workers(server)), number)
            starts += 1
        wait_until(all_have_started)
        wait_until(lambda: len(workers(server)) == WORKERS)
    _wait_until_all_are_served(run)


def _wait_until_all_are_served(run: Run) -> None:
    """Wait until each client has had an answer from now on."""
    run.served.clear()
    wait_until(lambda: len(run.served) == CLIENTS)


async def _send(client: Client, number: int, run: Run) -> None:
    """Send a request, again if it is told to wait, and once more if its connection was closed."""
    method, path, body, headers = _request(number)
    closed = 0  # times, one after the other
    for attempt in count():
        id_ = f"lamp-{number}-{attempt}"
        try:
            answer = await client.request(method, path, body, {"X-Request-ID": id_, **headers})
        except ConnectionError as exc:
            run.retries += 1
            closed += 1
            if closed == 2:
                run.failures.append(f"{method} {path}: {exc!r}")
                return
            continue
        closed = 0
        run.answered.add(id_)
        run.statuses[answer.status] += 1
        if answer.status == 201:
            run.created.add(f"Lamp {number}")
        # A killed worker's backend still holds the key, or a busy machine is slow to connect.
        if answer.status not in (409, 503):
            return
        await asyncio.sleep(int(answer.headers["retry-after"]))


def _request(number: int) -> tuple[str, str, object, dict[str, str]]:
    match number % 10:
        case 0 | 1 | 2 | 3:
            item = {"name": f"Lamp {number}"}
            return "POST", "/items", item, {"Idempotency-Key": f"lamp-{number}"}
        case 4:
            return "GET", "/items?per_page=5", None, {}
        case 5:
            return "PUT", f"/items/{number % 100 + 1}", LAMP, {}
        case _:
            return "GET", f"/items/{number % 100 + 1}", None, {}


def _fill(database_url: str) -> None:
    """Store more than fits between the service and a client that does not read."""
    fill(database_url)
    script(database_url, INSERT_BIG.format(BIG))


def _accepts_connections(url: httpx.URL) -> bool:
    try:
        socket.create_connection((url.host, url.port)).close()
    except ConnectionRefusedError:
        return False
    return True
