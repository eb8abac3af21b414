"""A worker's HTTP protocol on a port, and connections that send any bytes to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.server.protocol import ServiceProtocol
from tests.support.client import Answer, encode, read_answer
from tests.support.waiting import TIMEOUT, until

SHORT = 0.1  # seconds: a timeout that is to pass
GET = encode("GET", "/1")
WAIT = encode("GET", "/wait")


class Application:
    """An ASGI application whose responses repeat the path, when the test lets them."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.requests: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.requests.append(scope)
        if path == "/wait":
            await self.may_answer.wait()
        elif path == "/body":
            while (await receive()).get("more_body"):
                pass
        body = bytes(16_000_000) if path == "/big" else path.encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(slots=True)
class Connection:
    """A connection that sends any bytes, and stays open until the server closes it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, method: str = "GET") -> Answer:
        """Wait for the response to a request of this method."""
        async with asyncio.timeout(TIMEOUT):
            return await read_answer(self.reader, method)

    async def rest(self) -> bytes:
        """Wait until the server closes the connection; return the bytes that it sent before."""
        received = b""
        async with asyncio.timeout(TIMEOUT):
            with suppress(ConnectionError):
                while more := await self.reader.read(65_536):
                    received += more
        return received


@asynccontextmanager
async def connected(address: tuple[str, int]) -> AsyncIterator[Connection]:
    connection = Connection(*await asyncio.open_connection(*address))
    try:
        yield connection
    finally:
        connection.writer.transport.abort()


@dataclass(slots=True)
class Server:
    """The protocol on a port of 127.0.0.1, in front of an application."""

    application: Application = field(default_factory=Application)
    state: ServerState = field(default_factory=ServerState)
    keep_alive: float = TIMEOUT  # seconds, for connections made later
    address: tuple[str, int] = ("127.0.0.1", 0)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        config = uvicorn.Config(self.application, log_config=None, access_log=False)
        config.load()

        def create_protocol() -> ServiceProtocol:
            protocol = ServiceProtocol(config, self.state, app_state={})
            # uvicorn's annotation says int; the event loop takes a float.
            protocol.timeout_keep_alive = self.keep_alive  # type: ignore[assignment]
            return protocol

        loop = asyncio.get_running_loop()
        listener = await loop.create_server(create_protocol, *self.address)
        self.address = listener.sockets[0].getsockname()
        yield  # the fixture always runs what follows
        listener.close()
        self.application.may_answer.set()
        for protocol in self.state.connections:
            protocol.transport.abort()
        await until(lambda: not self.state.connections and not self.state.tasks)

    def connected(self) -> AbstractAsyncContextManager[Connection]:
        return connected(self.address)

    async def until_read(self) -> None:
        """Wait until the server has read all sent bytes: it has answered a later request."""
        async with self.connected() as later:
            await later.send(GET)
            await later.receive()

    def end_connections(self) -> None:
        """End all connections, as uvicorn does when the worker ends."""
        for protocol in self.state.connections:
            protocol.shutdown()


def post(*headers: str, body: bytes) -> bytes:
    return "\r\n".join(["POST /body HTTP/1.1", "Host: test", *headers, "", ""]).encode() + body


def check_refused(answer: Answer, status: int, kind: str) -> None:
    """Assert that `answer` is the short problem that malformed requests get."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    content = orjson.loads(answer.body)
    assert content.keys() == {"type", "title", "status"}
    assert (content["type"], content["status"]) == (f"urn:items-service:{kind}", status)


@asynccontextmanager
async def sending(connection: Connection, data: bytes) -> AsyncIterator[None]:
    """Send `data` repeatedly until the block ends."""

    async def send_on() -> None:
        with suppress(ConnectionError):
            while not connection.writer.is_closing():
                await connection.send(data)
                await asyncio.sleep(SHORT / 10)

    task = asyncio.create_task(send_on())
    try:
        yield
    finally:
        task.cancel()
