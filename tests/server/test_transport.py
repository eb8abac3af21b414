"""service/transport.py through real sockets: how answers are sent, and where requests end."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service import problem, transport
from service.crud import item as crud
from service.database import transactional
from service.domain.item import Item, ItemFilter
from service.overload import LONGEST, REFUSALS, Refusals
from service.settings import Settings
from service.transport import MAX_HEAD_BYTES, MAX_HEADERS, ServiceProtocol
from tests.support.client import encode
from tests.support.waiting import until

KEEP_ALIVE = 1  # second
HEAD_TIMEOUT = 0.3
PATIENCE = 8.0  # seconds until something that has to happen soon counts as not happening
LIVE = encode("GET", "/health/live")
DELETE = encode("DELETE", "/items/1")  # takes a session
LAMP = b'{"name": "Lamp"}'
TURN = 0.5  # seconds
# The connection's segments with data that came in, among what Linux tells of it.
TCP_DATA_SEGMENTS_IN = struct.Struct("152xI")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that the workers run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A service that does not wait long for a body."""
    settings.request_timeout = 2
    return settings


@pytest.fixture
async def server(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[uvicorn.Server]:
    """The application on a port, as a worker serves it, but with less patience."""
    monkeypatch.setattr(transport, "HEAD_TIMEOUT", HEAD_TIMEOUT)
    loop = asyncio.get_running_loop()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    config = uvicorn.Config(
        app,
        http=ServiceProtocol,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(PATIENCE),
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        yield server
        server.should_exit = True
        await task
    loop.set_exception_handler(None)
    assert complaints == []
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelname == "ERROR"] == []


@dataclass(slots=True)
class Answer:
    """What a server answered; the headers' names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Connection:
    """A connection that sends what it likes, and stays open until the server closes it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, method: str = "GET") -> Answer:
        """Wait for an answer; `method` is its request's."""
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").lower().splitlines()[:-1]
            headers = dict(line.split(": ", 1) for line in lines)
            size = 0 if method == "HEAD" else int(headers.get("content-length", 0))
            body = await self.reader.readexactly(size)
        return Answer(int(first.split()[1]), headers, body)

    async def ends(self) -> bytes:
        """Wait until the server has closed it. Answers with what it still said."""
        said = b""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                while more := await self.reader.read(65_536):
                    said += more
        return said


@asynccontextmanager
async def connected(server: uvicorn.Server) -> AsyncIterator[Connection]:
    """A connection to `server`."""
    host, port = server.servers[0].sockets[0].getsockname()
    connection = Connection(*await asyncio.open_connection(host, port))
    yield connection
    connection.writer.transport.abort()


@pytest.fixture
async def connection(server: uvicorn.Server) -> AsyncIterator[Connection]:
    async with connected(server) as connection:
        yield connection


async def execute(app: FastAPI, *statements: str) -> None:
    async with transactional(app.state.engine).begin() as conn:
        for statement in statements:
            await conn.execute(text(statement))


@asynccontextmanager
async def waiting(app: FastAPI) -> AsyncIterator[None]:
    """Have every request for items wait in the database meanwhile."""
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(text("LOCK TABLE items"))
        yield


@asynccontextmanager
async def dribbling(connection: Connection, data: bytes) -> AsyncIterator[None]:
    """Send `data` again and again meanwhile."""

    async def dribble() -> None:
        with suppress(ConnectionError):
            while not connection.writer.is_closing():
                await connection.send(data)
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(dribble())
        yield
        task.cancel()


def segments_in(connection: Connection) -> int:
    """In how many pieces it got its data, as Linux counts them."""
    sock = connection.writer.get_extra_info("socket")
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    number: int
    (number,) = TCP_DATA_SEGMENTS_IN.unpack_from(info)
    return number


def is_draining(protocol: object) -> bool:
    return isinstance(protocol, ServiceProtocol) and protocol.is_draining


def head_of(size: int) -> bytes:
    """The head of a good request, of so many bytes."""
    start = LIVE[:-2] + b"X: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def with_headers(number: int) -> bytes:
    """A good request with so many headers."""
    first, *headers = LIVE[:-4].split(b"\r\n")
    headers += [b"X-%d: x" % n for n in range(number - len(headers))]
    return b"\r\n".join([first, *headers, b"", b""])


def post(*headers: str, body: bytes = LAMP) -> bytes:
    """A request that makes an item, with these lines in place of Content-Length."""
    lines = ["POST /items HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def check_refused(answer: Answer, status: int, kind: str) -> None:
    """It is the problem that a request gets which never became one."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    content = orjson.loads(answer.body)
    assert content.keys() == {"type", "title", "status"}
    assert (content["type"], content["status"]) == (f"urn:items-service:{kind}", status)


async def test_head_and_body_of_an_answer_come_in_one_piece(
    app: FastAPI, connection: Connection
) -> None:
    await execute(app, "INSERT INTO items (name) SELECT 'Lamp' FROM generate_series(1, 100)")
    requests = [
        *(LIVE, encode("GET", "/items/1"), encode("GET", "/items?per_page=100")),
        *(encode("GET", "/items/0"), encode("GET", "/items/one"), encode("HEAD", "/items/1")),
        *(encode("POST", "/items", LAMP), encode("POST", "/items", b"{")),
        *(encode("DELETE", "/items/1"), b"GARBAGE\r\n\r\n"),
    ]
    for number, request in enumerate(requests, 1):
        await connection.send(request)
        answer = await connection.receive(request.split()[0].decode())

        assert segments_in(connection) == number, answer


async def test_pipelined_requests_are_answered_in_order(
    app: FastAPI, connection: Connection
) -> None:
    paths = ["/items/1", "/health/live", "/items?q=lamp", "/none", "/items/one", "/health"]
    requests = [
        encode("GET", path, headers={"X-Request-ID": f"{number}"})
        for number, path in enumerate(paths * 10)
    ]
    async with waiting(app):  # the first is the last to be ready
        await connection.send(b"".join(requests))
        await asyncio.sleep(0.2)
    answers = [await connection.receive() for _ in requests]

    assert [answer.headers["x-request-id"] for answer in answers] == [*map(str, range(60))]
    assert [answer.status for answer in answers] == [404, 200, 200, 404, 422, 200] * 10


async def test_requests_pipelined_without_end_are_answered_in_order_as_far_as_they_are(
    connection: Connection,
) -> None:
    number = 0
    for start in range(0, 20_000, 1000):
        batch = range(start, start + 1000)
        with suppress(ConnectionError):
            await connection.send(
                b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in batch)
            )
    with suppress(ConnectionError, EOFError):
        while number < 20_000 and not connection.reader.at_eof():
            answer = await connection.receive()
            # One that is refused after others were answered is the last.
            if answer.status != 404:
                assert number > 0
                assert answer.headers["connection"] == "close"
                break
            assert orjson.loads(answer.body)["instance"] == f"/{number}"
            number += 1

    assert number > 0


@pytest.mark.parametrize("size", [1000, MAX_HEAD_BYTES])
async def test_a_head_that_is_not_too_large_is_read_however_it_comes(
    connection: Connection, size: int
) -> None:
    request = head_of(size)
    assert len(request) == size
    await connection.send(request)
    assert (await connection.receive()).status == 200
    for part in (request[:7], request[7:500], request[500:-1], request[-1:]):
        await connection.send(part)
        await asyncio.sleep(0.05)

    assert (await connection.receive()).status == 200


@pytest.mark.parametrize("number", [1, 2])
async def test_a_head_that_grows_too_large_is_a_431(connection: Connection, number: int) -> None:
    """Whether it is that of the first request of a connection or of a later one."""
    for _ in range(number - 1):
        await connection.send(LIVE)
        assert (await connection.receive()).status == 200
    head = head_of(MAX_HEAD_BYTES * 2)[: MAX_HEAD_BYTES + 1]
    for part in (head[:30_000], head[30_000:-1], head[-1:]):
        await connection.send(part)
        await asyncio.sleep(0.05)

    check_refused(await connection.receive(), 431, "header-too-large")


async def test_a_head_that_is_too_large_is_a_431_though_it_comes_at_once(
    connection: Connection,
) -> None:
    await connection.send(head_of(MAX_HEAD_BYTES + 10_000))

    check_refused(await connection.receive(), 431, "header-too-large")


async def test_too_many_headers_are_a_431(connection: Connection) -> None:
    await connection.send(with_headers(MAX_HEADERS))
    assert (await connection.receive()).status == 200
    await connection.send(with_headers(MAX_HEADERS + 1))

    check_refused(await connection.receive(), 431, "header-too-large")


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_head_that_does_not_end_is_a_408(
    connection: Connection, number: int, goes_on: bool
) -> None:
    for _ in range(number - 1):
        await connection.send(LIVE)
        assert (await connection.receive()).status == 200
    begun = asyncio.get_running_loop().time()
    await connection.send(LIVE[:-2])
    async with dribbling(connection, b"X: x\r\n" if goes_on else b""):
        check_refused(await connection.receive(), 408, "timed-out")

    assert asyncio.get_running_loop().time() - begun < HEAD_TIMEOUT + 2


async def test_a_request_may_take_longer_than_its_head(
    app: FastAPI, settings: Settings, connection: Connection
) -> None:
    async with waiting(app):
        await connection.send(encode("GET", "/items/1"))
        await asyncio.sleep(HEAD_TIMEOUT * 2)

    assert (await connection.receive()).status == 404


@pytest.mark.parametrize("number", [0, 1], ids=["first", "later"])
@pytest.mark.parametrize("said", [b"", b"\r\n", b"\r\n" * 500], ids=["nothing", "line", "lines"])
async def test_a_connection_that_sends_no_request_is_closed_when_its_time_is_over(
    connection: Connection, number: int, said: bytes
) -> None:
    for _ in range(number):
        await connection.send(LIVE)
        assert (await connection.receive()).status == 200
    begun = asyncio.get_running_loop().time()
    await connection.send(said)
    # Line ends before a request belong to none, or begin a head: either way it ends.
    last = await connection.ends()

    assert last == b"" or last.startswith(b"HTTP/1.1 408 ")
    assert asyncio.get_running_loop().time() - begun > min(KEEP_ALIVE, HEAD_TIMEOUT) - 0.1


async def test_a_connection_that_sends_line_ends_without_end_is_closed(
    connection: Connection,
) -> None:
    async with dribbling(connection, b"\r\n"):
        await connection.ends()


@pytest.mark.parametrize("size", [1000, 2_000_000], ids=["half-sent", "too large"])
@pytest.mark.parametrize("goes_on", ["not", "once", "without end"])
async def test_a_connection_whose_request_never_ends_does(
    connection: Connection, size: int, goes_on: str
) -> None:
    await connection.send(post(f"Content-Length: {size}", body=b'{"name": '))
    answer = await connection.receive()
    assert answer.status == (503 if size == 1000 else 413)
    if goes_on == "once":
        with suppress(ConnectionError):
            await connection.send(b" ")
    async with dribbling(connection, b" " if goes_on == "without end" else b""):
        await connection.ends()


async def test_a_client_that_does_not_read_its_answers_loses_its_connection(
    app: FastAPI, server: uvicorn.Server
) -> None:
    await execute(app, "INSERT INTO items (name, description) VALUES ('Big', repeat('x', 10000))")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, server.servers[0].sockets[0].getsockname())
        await until(lambda: server.server_state.connections)
        (protocol,) = server.server_state.connections
        # As many as fill all buffers below the service's, and no more.
        for _ in range(2000):
            total = server.server_state.total_requests
            await loop.sock_sendall(sock, encode("GET", "/items/1"))
            await until(lambda: server.server_state.total_requests > total)  # noqa: B023 (it runs at once)
            await asyncio.sleep(0)
            if protocol.transport.get_write_buffer_size():
                break
        assert 0 < protocol.transport.get_write_buffer_size() < 65_536

        await until(lambda: not server.server_state.connections)


@pytest.mark.parametrize(
    "garbage",
    [
        b"SECRET\r\n\r\n",
        b"get /SECRET HTTP/1.1\r\n\r\n",
        b"GET /SECRET\xff HTTP/1.1\r\n\r\n",
        b"GET /items HTTP/1.1\r\nSECRET\r\n\r\n",
        b"GET /items HTTP/1.1\r\nSECRET\x00: x\r\n\r\n",
        b"GET /items HTTP/9.9\r\nX: SECRET\r\n\r\n",
        b"GET SECRET HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        post("Content-Length: SECRET"),
        post("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        post("Transfer-Encoding: chunked", body=b"SECRET\r\n"),
    ],
    ids=lambda garbage: repr(garbage[:40]),
)
async def test_what_is_not_http_is_a_400_and_is_not_repeated(
    connection: Connection, garbage: bytes
) -> None:
    await connection.send(garbage)
    answer = await connection.receive()

    check_refused(answer, 400, "bad-request")
    assert b"SECRET" not in answer.body
    assert await connection.ends() == b""


@pytest.mark.parametrize(
    "fault",
    [b"GARBAGE\r\n\r\n", with_headers(MAX_HEADERS + 1), LIVE[:-2], head_of(200_000)[:70_000]],
    ids=["not HTTP", "too many headers", "a head without end", "a head that is too large"],
)
async def test_a_fault_of_the_next_request_does_not_spoil_an_answer(
    app: FastAPI, settings: Settings, connection: Connection, fault: bytes
) -> None:
    async with waiting(app):
        await connection.send(encode("POST", "/items", LAMP) + encode("GET", "/items/1"))
        await connection.send(fault)
        await asyncio.sleep(HEAD_TIMEOUT * 2)

    assert (await connection.receive()).status == 201
    assert (await connection.receive()).status == 200
    rest = await connection.ends()
    assert rest == b"" or rest.startswith(b"HTTP/1.1 4")


async def test_trailers_are_no_headers(connection: Connection) -> None:
    trailers = b"X-Request-ID: trailed\r\nIdempotency-Key: trailed\r\n"
    chunks = b"10\r\n%b\r\n0\r\n" % LAMP
    for _ in range(2):
        await connection.send(post("Transfer-Encoding: chunked", body=chunks + trailers + b"\r\n"))
        answer = await connection.receive()

        assert answer.status == 201
        assert answer.headers["x-request-id"] != "trailed"
        assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize("trailers", [b"X: x\r\n" * 50_000, b"X: " + b"x" * 300_000])
async def test_trailers_without_end_are_refused_soon(
    settings: Settings, connection: Connection, trailers: bytes
) -> None:
    chunks = b"10\r\n%b\r\n0\r\n" % LAMP
    await connection.send(post("Transfer-Encoding: chunked", body=chunks))
    with suppress(ConnectionError):
        await connection.send(trailers)

    assert (await connection.ends())[:10] in (b"", b"HTTP/1.1 4")


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "TLS/1.0", "whatever"])
async def test_a_wish_to_upgrade_is_passed_over(connection: Connection, protocol: str) -> None:
    wish = {"Connection": "Upgrade", "Upgrade": protocol}
    await connection.send(encode("GET", "/health/live", headers=wish))

    assert (await connection.receive()).body == b'{"status":"ok"}'
    assert await connection.ends() == b""  # what follows is not read


@pytest.mark.parametrize("is_split", [False, True])
async def test_a_wish_to_upgrade_with_a_body_is_refused(
    connection: Connection, is_split: bool
) -> None:
    """The parser leaves the body to the other protocol."""
    wish = ("Connection: Upgrade", "Upgrade: h2c", f"Content-Length: {len(LAMP)}")
    await connection.send(post(*wish, body=b"" if is_split else LAMP))

    check_refused(await connection.receive(), 400, "bad-request")


async def test_a_body_is_no_request_though_its_client_wishes_to_upgrade(
    connection: Connection,
) -> None:
    body = encode("GET", "/health/live", headers={"X-Request-ID": "smuggled"})
    headers = (f"Content-Length: {len(body)}", "Connection: Upgrade", "Upgrade: h2c")
    await connection.send(post(*headers, body=b""))
    await asyncio.sleep(0.1)
    with suppress(ConnectionError):
        await connection.send(body)
    said = await connection.ends()

    assert said.startswith(b"HTTP/1.1 4")
    assert b"smuggled" not in said


async def test_a_client_that_vanishes_ends_its_request_though_another_follows(
    app: FastAPI, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = 12
    await execute(
        app,
        "INSERT INTO items (name, description) SELECT 'Big', repeat('x', 10000)"
        f" FROM generate_series(1, {batches * crud.EXPORT_BATCH})",
    )
    read = 0
    export_items = crud.export_items

    async def count(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
        nonlocal read
        async for batch in export_items(conn, wanted):
            read += 1
            yield batch

    monkeypatch.setattr(crud, "export_items", count)
    async with connected(server) as connection:
        await connection.send(encode("GET", "/items/export") + LIVE)
        assert (await connection.reader.readline()).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(0.2)  # until all buffers are full

    await until(lambda: app.state.engine.pool.checkedout() == 0)
    assert 0 < read < batches


@pytest.mark.parametrize(
    "request_",
    [LIVE.replace(b"1.1", b"1.0"), encode("GET", "/none", headers={"Connection": "close"})],
)
async def test_a_connection_ends_with_its_request_where_that_says_so(
    connection: Connection, request_: bytes
) -> None:
    await connection.send(request_)

    assert (await connection.receive()).headers["connection"] == "close"
    assert await connection.ends() == b""


async def test_an_idle_connection_still_has_its_request_answered_when_the_worker_ends(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "DRAIN", PATIENCE)
    connections = (connected(server) for _ in range(3))
    async with AsyncExitStack() as stack:
        new, begun, used = [await stack.enter_async_context(each) for each in connections]
        await begun.send(LIVE[:20])
        await used.send(LIVE)
        await used.receive()
        await until(lambda: len(server.server_state.connections) == 3)
        server.should_exit = True
        await until(lambda: all(is_draining(p) for p in server.server_state.connections))
        await new.send(LIVE)
        await begun.send(LIVE[20:])
        await used.send(LIVE)

        for connection in (new, begun, used):
            answer = await connection.receive()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await connection.ends() == b""


async def test_a_connection_without_a_request_does_not_hold_up_the_end(
    server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "DRAIN", 0.2)
    async with connected(server) as silent, connected(server) as idle:
        await idle.send(LIVE)
        await idle.receive()
        await until(lambda: len(server.server_state.connections) == 2)
        server.should_exit = True
        begun = asyncio.get_running_loop().time()

        assert await idle.ends() == b""
        assert await silent.ends() == b""
        assert asyncio.get_running_loop().time() - begun > 0.1


async def test_requests_under_way_are_answered_when_the_worker_ends(
    app: FastAPI, settings: Settings, server: uvicorn.Server, connection: Connection
) -> None:
    async with waiting(app):
        await connection.send(encode("GET", "/items/1") * 3)
        await until(lambda: server.server_state.tasks)
        await asyncio.sleep(0.1)
        server.should_exit = True
        await asyncio.sleep(0.5)
    answers = [await connection.receive() for _ in range(3)]

    assert [answer.status for answer in answers] == [404] * 3
    assert [answer.headers.get("connection") for answer in answers] == [None, None, "close"]
    assert await connection.ends() == b""


@asynccontextmanager
async def refusing(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, turn: float
) -> AsyncIterator[None]:
    """Refuse whatever takes a session; the next that is refused has its turn in `turn` seconds."""
    refusals = Refusals()
    monkeypatch.setattr(problem, "refusals", refusals)
    monkeypatch.setattr(app.state.sessions, "_max_waiting", 0)
    monkeypatch.setattr(app.state.sessions, "_free", asyncio.Semaphore(0))
    for _ in range(int(turn * REFUSALS) + 1):
        refusals.hold_off({})
    yield


async def test_one_that_was_refused_is_answered_again_when_its_turn_comes(
    app: FastAPI, server: uvicorn.Server, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with refusing(app, monkeypatch, TURN), connected(server) as other:
        await connection.send(DELETE)
        refusal = await connection.receive()
        begun = loop.time()
        assert (refusal.status, refusal.headers["retry-after"]) == (503, "1")
        # More than is kept, of which the rest waits, too.
        await connection.send(encode("POST", "/items", b" " * 3 * MAX_HEAD_BYTES) + LIVE)
        await other.send(LIVE)
        assert (await other.receive()).status == 200
        assert loop.time() - begun < TURN / 2
        assert (await connection.receive()).status == 422
        assert loop.time() - begun > TURN * 0.9
        assert (await connection.receive()).status == 200


async def test_one_that_was_refused_and_leaves_is_forgotten_at_once(
    app: FastAPI, server: uvicorn.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with refusing(app, monkeypatch, LONGEST):
        async with connected(server) as connection:
            await connection.send(DELETE)
            assert (await connection.receive()).status == 503
            await connection.send(LIVE)
        begun = asyncio.get_running_loop().time()
        await until(lambda: not server.server_state.connections)
        assert asyncio.get_running_loop().time() - begun < LONGEST / 2


async def test_a_proxys_connection_is_not_held(
    app: FastAPI, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.1"}  # uvicorn believes 127.0.0.1
    begun = asyncio.get_running_loop().time()
    async with refusing(app, monkeypatch, LONGEST):
        await connection.send(encode("DELETE", "/items/1", headers=forwarded) + LIVE)
        assert (await connection.receive()).status == 503
        assert (await connection.receive()).status == 200
    assert asyncio.get_running_loop().time() - begun < LONGEST / 2
