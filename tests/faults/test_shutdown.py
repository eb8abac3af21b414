"""Workers that end under load: asked to, replaced in a rolling reload, or killed."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count

import pytest

from tests.support.client import Client, encode
from tests.support.probes import fill, serving, workers
from tests.support.processes import Server, connection, query, script
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

WORKERS = 2
GRACE = 15.0  # seconds that a server that was asked to end may take
CLIENTS = 40
ROWS = 60_000  # more than fits between the service and a client that does not read
LAMP = {"name": "Lamp", "price": 29.99}


def test_what_is_in_flight_is_answered_and_what_is_idle_is_closed(database_url: str) -> None:
    _fill(database_url)
    with serving(database_url) as server:
        _wait_for_starts(server, WORKERS)
        asyncio.run(_end_in_flight(server, database_url))
        begun = time.perf_counter()
        server.process.wait(GRACE)
        print(f"ended {time.perf_counter() - begun:.1f} s after the last answer")
    assert server.process.returncode == 0
    assert len(server.events("stopped")) == WORKERS
    assert _complaints(server) == []


async def _end_in_flight(server: Server, database_url: str) -> None:
    async with AsyncExitStack() as stack, connection(database_url) as lock:
        clients = [await stack.enter_async_context(Client(server.url)) for _ in range(101)]
        idle, updating, creating, fresh = clients[:40], clients[40:60], clients[60:80], clients[80:]
        exporting = fresh.pop()
        for client in idle:
            assert (await client.request("GET", "/items/1")).status == 200
        for client in fresh:
            await client.connect()
        await lock.execute("BEGIN")
        await lock.execute("SELECT 1 FROM items WHERE id = 1 FOR UPDATE")
        for client in updating:
            await client.send(encode("PUT", "/items/1", LAMP))
        creation = encode("POST", "/items", LAMP)
        for client in creating:
            await client.send(creation[:-10])
        await exporting.send(encode("GET", "/items/export"))
        await asyncio.sleep(0.5)  # until the service has taken all of it

        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)  # until the workers are ending
        busy, idle = idle[:20], idle[20:]
        for client in fresh + busy:
            await client.send(encode("GET", "/items/1"))
        answers = [await client.receive() for client in fresh + busy]
        for client in idle:
            reader, _ = await client.connect()
            assert await reader.read() == b""
        await lock.execute("ROLLBACK")
        answers += [await client.receive() for client in updating]
        for client in creating:
            await client.send(creation[-10:])
        created = [await client.receive() for client in creating]
        exported = await exporting.receive()
    assert {answer.status for answer in answers} == {200}
    assert {answer.status for answer in created} == {201}
    assert {answer.headers["connection"] for answer in answers + created} == {"close"}
    assert exported.body.count(b"\n") == ROWS


# The last outlives the grace: the service breaks its requests off, and ends in order all the same.
@pytest.mark.parametrize(
    "request_timeout",
    ["3", pytest.param("10", marks=pytest.mark.soak), pytest.param("60", marks=pytest.mark.soak)],
)
def test_clients_that_never_finish_do_not_keep_it_from_ending(
    database_url: str, request_timeout: str
) -> None:
    async def hold_on() -> float:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(server.url)) for _ in range(40)]
            for client in clients[:10]:
                await client.send(encode("GET", "/items/1")[:-10])
            for client in clients[10:20]:
                await client.send(encode("POST", "/items", LAMP)[:-10])
            for client in clients[20:30]:
                await client.send(encode("GET", "/items/export"))
            for client in clients[30:]:
                assert (await client.request("GET", "/items/1")).status == 200
            begun = time.perf_counter()
            await asyncio.to_thread(server.end)
            return time.perf_counter() - begun

    _fill(database_url)
    with serving(database_url, REQUEST_TIMEOUT=request_timeout) as server:
        _wait_for_starts(server, WORKERS)
        seconds = asyncio.run(hold_on())
    print(f"ended in {seconds:.1f} s")
    assert server.process.returncode == 0
    assert seconds < GRACE
    assert len(server.events("stopped")) == WORKERS


@dataclass(slots=True)
class Run:
    """What the clients of a run have seen."""

    created: dict[str, int] = field(default_factory=dict)  # id by name
    statuses: Counter[int] = field(default_factory=Counter)
    answered: set[str] = field(default_factory=set)  # ids of requests
    retries: int = 0
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0  # seconds
    served: set[int] = field(default_factory=set)  # clients, since the last fault was over
    is_over: bool = False


@pytest.mark.parametrize(
    ("requests", "faults"),
    [(1500, 4), pytest.param(25_000, 30, marks=pytest.mark.soak)],
)
@pytest.mark.parametrize(
    "signals",
    [(signal.SIGHUP, signal.SIGTERM), (signal.SIGKILL, signal.SIGHUP, signal.SIGKILL)],
    ids=["graceful", "killed"],
)
def test_a_client_that_retries_once_sees_no_failure(
    database_url: str, signals: tuple[signal.Signals, ...], requests: int, faults: int
) -> None:
    fill(database_url)
    sent = [signals[number % len(signals)] for number in range(faults)]
    with serving(database_url) as server:
        run = asyncio.run(_send_under_faults(server, requests, sent))
        begun = time.perf_counter()
        code = server.end()
        seconds = time.perf_counter() - begun
    print(
        f"{run.statuses.total()} requests, {faults} faults: {run.statuses}, {run.retries} retries,"
        f" longest {run.longest:.2f} s; ended in {seconds:.1f} s"
    )
    print("\n".join(run.failures))
    assert run.failures == []
    assert set(run.statuses) == {200, 201}
    stored = Counter(name for (name,) in query(database_url, "SELECT name FROM items"))
    del stored["Lamp"]
    assert stored == Counter(run.created.keys())

    served = {line["request_id"] for line in server.events("request")}
    lost = {id_ for id_ in served if id_.startswith("lamp-")} - run.answered
    killed = sent.count(signal.SIGKILL)
    print(f"{len(lost)} requests were served and not answered")
    assert len(lost) <= killed * CLIENTS  # what the killed had in hand
    assert len(server.events("stopped")) == len(server.events("started")) - killed
    assert code == 0
    assert seconds < GRACE
    complaints = [text for text in _complaints(server) if "was sent SIGKILL" not in text]
    assert complaints == []


async def _send_under_faults(server: Server, requests: int, sent: list[signal.Signals]) -> Run:
    run, numbers = Run(), count()

    async def send_on(client_number: int) -> None:
        async with Client(server.url) as client:
            while not run.is_over:
                await _send_one(client, next(numbers), run)
                run.served.add(client_number)

    async with asyncio.TaskGroup() as group:
        for client_number in range(CLIENTS):
            group.create_task(send_on(client_number))
        await asyncio.to_thread(_harm, server, sent, requests, run)
        run.is_over = True
    return run


def _harm(server: Server, sent: list[signal.Signals], requests: int, run: Run) -> None:
    """Send signals one by one, spread over the requests."""
    starts = WORKERS
    for number, which in enumerate(sent):
        _wait_for_starts(server, starts)
        # Whom one fault has hit twice, as may be, the next one does not hit, too.
        run.served.clear()
        wait_until(lambda: len(run.served) == CLIENTS)
        _wait_for_requests(run, requests * number // len(sent))
        if which == signal.SIGHUP:
            server.process.send_signal(which)
            starts += WORKERS
        else:
            os.kill(random.choice(workers(server)), which)
            starts += 1
    _wait_for_starts(server, starts)
    _wait_for_requests(run, requests)


async def _send_one(client: Client, number: int, run: Run) -> None:
    """Send a request, and once more if its connection was closed."""
    method, path, body, headers = _request(number)
    begun = time.perf_counter()
    for attempt in (1, 2):
        id_ = f"lamp-{number}-{attempt}"
        try:
            answer = await client.request(method, path, body, {"X-Request-ID": id_, **headers})
        except ConnectionError as exc:
            run.retries += 1
            fault = repr(exc)
            continue
        run.answered.add(id_)
        run.statuses[answer.status] += 1
        run.longest = max(run.longest, time.perf_counter() - begun)
        if answer.status == 201:
            run.created[f"Lamp {number}"] = number
        elif answer.status != 200:
            run.failures.append(f"{method} {path}, attempt {attempt}: {answer}")
        return
    run.failures.append(f"{method} {path}: {fault}")


def _request(number: int) -> tuple[str, str, object, dict[str, str]]:
    match number % 10:
        case 0 | 1 | 2 | 3:
            item = {"name": f"Lamp {number}", "price": 29.99}
            return "POST", "/items", item, {"Idempotency-Key": f"lamp-{number}"}
        case 4:
            return "GET", "/items?per_page=5", None, {}
        case 5:
            return "PUT", f"/items/{number % 100 + 1}", LAMP, {}
        case _:
            return "GET", f"/items/{number % 100 + 1}", None, {}


def _fill(database_url: str) -> None:
    fill(database_url)
    script(
        database_url, f"INSERT INTO items (name) SELECT 'Lamp' FROM generate_series(101, {ROWS})"
    )


def _wait_for_requests(run: Run, number: int) -> None:
    wait_until(lambda: run.statuses.total() >= number)


def _wait_for_starts(server: Server, number: int) -> None:
    """Wait until so many workers have started since the beginning."""
    wait_until(lambda: server.stderr().count('"event":"started"') >= number)


def _complaints(server: Server) -> list[str]:
    """What the log warns of, but that there are no API keys."""
    warnings = [line for line in server.lines() if line["level"] in ("warning", "error")]
    return [line["event"] for line in warnings if "API_KEYS" not in line["event"]]
