"""The application in this process: started, called, and served on a port."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from service.database import engine
from service.database.engine import transactional
from service.http.middleware import RequestMiddleware
from service.server.worker import Worker
from service.settings import Settings
from service.state import state_of
from tests.support.waiting import TIMEOUT, until

BIG = 3000  # rows of 10,000 characters
INSERT_BIG = (
    "INSERT INTO items (name, description)"
    " SELECT 'Big', repeat('x', 10000) FROM generate_series(1, {})"
)
SMALL_BUFFER = (socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)


def client_of(app: FastAPI) -> httpx.AsyncClient:
    """Return an HTTP client of `app`, which is already started."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Start `app` and yield an HTTP client of it; shut it down afterwards."""
    async with app.router.lifespan_context(app), client_of(app) as client:
        yield client


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """Serve `app`, which is already started, on a free port as a worker does."""
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, timeout_graceful_shutdown=1, **Worker.CONFIG_KWARGS
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield server
        finally:  # otherwise the event loop of a failed test would never end
            server.should_exit = True
            await task


@asynccontextmanager
async def no_complaints() -> AsyncIterator[None]:
    """Assert that asyncio reports no error meanwhile, such as an exception never retrieved."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    gc.freeze()  # the collection below then only examines objects of the test
    yield
    gc.collect()
    gc.unfreeze()
    loop.set_exception_handler(handler)
    assert complaints == []


def address(server: uvicorn.Server) -> tuple[str, int]:
    """Return the host and port that `server` listens on."""
    host, port = server.servers[0].sockets[0].getsockname()
    return host, port


def web_client(server: uvicorn.Server) -> httpx.AsyncClient:
    """Return an HTTP client of `server` over real sockets with small receive buffers."""
    transport = httpx.AsyncHTTPTransport(socket_options=[SMALL_BUFFER])
    host, port = address(server)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}:{port}", timeout=TIMEOUT)


def connections_in_use(app: FastAPI) -> int:
    """Return the number of connections that are checked out of the application's pool."""
    pool = state_of(app).engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


def set_deadline(app: FastAPI, seconds: float) -> None:
    """Change the time that requests may take which begin from now on."""
    layer: Any = app.middleware_stack or app.build_middleware_stack()
    app.middleware_stack = layer
    while not isinstance(layer, RequestMiddleware):
        layer = layer.app
    layer.timeout = seconds


def tolerate_locks(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Raise the timeouts of locks, statements and the pool above what any test waits for."""
    monkeypatch.setattr(engine, "LOCK_TIMEOUT_MS", 60_000)
    settings.statement_timeout_ms = 60_000
    settings.pool_timeout = TIMEOUT
    return settings


@asynccontextmanager
async def asking(
    server: uvicorn.Server,
    target: str = "/items/export",
    method: str = "GET",
    connection: str = "keep-alive",
) -> AsyncIterator[asyncio.StreamReader]:
    """Send a request and yield a reader with a small buffer; abort the connection afterwards."""
    sock = socket.socket()
    sock.setsockopt(*SMALL_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address(server))
    reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
    headers = f"Host: test\r\nConnection: {connection}\r\n"
    writer.write(f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode())
    try:
        yield reader
    finally:
        writer.transport.abort()


async def status(reader: asyncio.StreamReader) -> int:
    """Read the head of a response; return its status."""
    async with asyncio.timeout(TIMEOUT):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def execute(app: FastAPI, *statements: str) -> None:
    """Run the statements in one transaction, without a statement timeout."""
    async with transactional(state_of(app).engine).begin() as conn:
        for statement in ("SET LOCAL statement_timeout = 0", *statements):
            await conn.execute(text(statement))


async def store_big(app: FastAPI) -> None:
    """Store more rows than all buffers between the service and a client hold."""
    await execute(app, INSERT_BIG.format(BIG))
