"""The Gunicorn worker: uvicorn's, told to end in time and to answer in one piece."""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn_worker import UvicornWorker


class Worker(UvicornWorker):
    """Passes Gunicorn's grace on to uvicorn.

    Without it uvicorn waits for requests in flight for as long as they take: Gunicorn then kills
    the worker in the midst of them, and its lifespan never ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Two seconds less, for the lifespan's end.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)


class JoiningProtocol(HttpToolsProtocol):
    """uvicorn's, with an answer's head and body sent in one system call instead of two."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))


class JoiningTransport:
    """Collects what is written in one turn of the event loop, and sends it together.

    A system call that sends is among the dearest things in the life of a small request.
    """

    __slots__ = ("_loop", "_pending", "_transport")

    def __init__(self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = loop
        self._pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send `data` when this turn ends."""
        if not self._pending:
            self._loop.call_soon(self._send)
        self._pending.append(data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._pending:
            data, self._pending = b"".join(self._pending), []
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


Worker.CONFIG_KWARGS = {
    "loop": "uvloop",
    "http": JoiningProtocol,
    "access_log": False,
    "server_header": False,
}
