"""uvicorn's protocol, with an answer's head and body sent in one system call instead of two, and
with bounds on how large a request's head may be and how long it may take.

A system call that sends is among the dearest things in the life of a small request.
"""

import asyncio
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
HEAD_TIMEOUT = 10.0  # seconds for a request's head, once it has begun
TOO_LARGE = 431, "header-too-large", "Request header fields too large"
DRAIN = 1.0  # seconds that a new connection has for its request when the worker ends


class ServiceProtocol(HttpToolsProtocol):
    """Writes through a transport that joins, and bounds heads, which uvicorn does not."""

    head_size = 0
    head_timer: asyncio.TimerHandle | None = None
    is_draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection; one that stays silent is closed like any that is idle."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, and refuse a head without end; nearly all come in one piece."""
        super().data_received(data)
        if self.scope is None or "method" in self.scope or self.transport.is_closing():
            return
        self.head_size += len(data)
        if self.head_size > MAX_HEAD_BYTES:
            self._refuse(*TOO_LARGE)
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(
                HEAD_TIMEOUT, self._refuse, 408, "timed-out", "Timed out"
            )

    def on_headers_complete(self) -> None:
        """Begin a request, which may have reason to break its connection off."""
        if self.head_timer:
            self._end_head()
        if len(self.headers) > MAX_HEADERS:
            self._refuse(*TOO_LARGE)
            raise ValueError("too many headers")  # which ends the parser's work
        self.scope["state"]["transport"] = self.transport
        super().on_headers_complete()
        if self.is_draining:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "bad-request", "Bad request")

    def shutdown(self) -> None:
        """End the connection; a new one has a moment for the request that it was made for."""
        if self.cycle is None and not self.transport.is_closing():
            self.is_draining = True
            self.loop.call_later(DRAIN, super().shutdown)
        else:
            super().shutdown()

    def _end_head(self) -> None:
        self.head_size = 0
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None

    def _refuse(self, status: int, kind: str, title: str) -> None:
        """Answer a request that never became one, and close the connection."""
        type_ = f"urn:items-service:{kind}"
        body = orjson.dumps({"type": type_, "title": title, "status": status})
        head = (
            b"content-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


class JoiningTransport:
    """Collects what is written in one turn of the event loop, and sends it together."""

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
        data, self._pending = b"".join(self._pending), []
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """All else is the transport's own."""
        return getattr(self._transport, name)
