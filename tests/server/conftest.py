"""The server that the tests of a worker's protocol share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.server import protocol
from tests.support.apps import no_complaints
from tests.support.protocol import Connection, Server
from tests.support.waiting import TIMEOUT


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop of the workers."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Server]:
    """A server whose timeouts do not pass, unless a test shortens them."""
    for name in ("HEAD_TIMEOUT", "DRAIN"):
        monkeypatch.setattr(protocol, name, TIMEOUT)
    server = Server()
    async with no_complaints(), server.listening():
        yield server
    errors = [record for record in caplog.get_records("call") if record.levelname == "ERROR"]
    assert errors == []


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[Connection]:
    async with server.connected() as connection:
        yield connection
