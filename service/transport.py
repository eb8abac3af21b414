"""uvicorn's protocol, with an answer's head and body sent in one system call instead of two, and
with bounds on how large a request's head may be and how long it may take.

A system call that sends is among the dearest things in the life of a small request.
"""

import asyncio
from typing import Any, cast

import orjson
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128
MAX_PIPELINED = 100
HEAD_TIMEOUT = 10.0  # seconds for a request's head, once it has begun
TOO_LARGE = 431, "header-too-large", "Request header fields too large"
DRAIN = 1.0  # seconds that a connection has for a request on its way when the worker ends


class ServiceProtocol(HttpToolsProtocol):
    """Writes through a transport that joins, and bounds what uvicorn does not: heads, the time that
    they take, and clients that do not read."""

    # Bytes that came since the parser last made something of them.
    unparsed = 0
    head_timer: asyncio.TimerHandle | None = None
    is_refused = False
    is_draining = False
    # The one that is being answered; `cycle` is the latest, which may have to wait for it.
    served: RequestResponseCycle | None = None
    held: asyncio.TimerHandle | None = None
    kept = b""  # what has come meanwhile

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin a connection; one that stays silent is closed like any that is idle."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._stop_head_timer()
        if self.held:
            self.held.cancel()
        if self.served and not self.served.response_complete:
            self.served.disconnected = True
            self.served.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; nearly always a whole request."""
        if self.is_refused:
            return
        if self.held:
            self.kept += data
            if len(self.kept) > MAX_HEAD_BYTES:
                self.flow.pause_reading()
            return
        self.unparsed += len(data)
        super().data_received(data)
        cycle = self.cycle
        is_busy = cycle is not None and not cycle.response_complete and "method" in self.scope
        if (is_busy and not cycle.more_body) or self.transport.is_closing():
            return
        # The headers that came after the head are trailers.
        if self.unparsed > MAX_HEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(*TOO_LARGE)
        elif not is_busy and self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_TIMEOUT, self._end_head)

    def hold(self, seconds: float) -> None:
        """Make nothing for so long of what comes, but notice if the client leaves."""
        if self.held:
            self.held.cancel()
        self.held = self.loop.call_later(seconds, self._release)

    def _release(self) -> None:
        self.held = None
        data, self.kept = self.kept, b""
        if self.transport.is_closing():
            return
        if len(data) > MAX_HEAD_BYTES:
            self.flow.resume_reading()
        if data:
            self.data_received(data)

    def on_headers_complete(self) -> None:
        """Begin a request, which may have reason to break its connection off."""
        if self.head_timer:
            self._stop_head_timer()
        if len(self.headers) > MAX_HEADERS or (
            self.unparsed > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES
        ):
            self._refuse(*TOO_LARGE)
            raise ValueError("too large a head")  # which ends the parser's work
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(503, "unavailable", "Unavailable")
            raise ValueError("too many requests before the first is answered")
        if self.parser.should_upgrade() and self._has_body():
            # The parser takes it that a body is for the protocol upgraded to.
            self._refuse(400, "bad-request", "Bad request")
            raise ValueError("an upgrade with a body")
        self.unparsed = 0
        self.scope["state"]["transport"] = self.transport
        super().on_headers_complete()
        self.headers = []  # trailers are none of them
        if self.is_draining or self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self.unparsed = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "bad-request", "Bad request")

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; at once, where its client has not even read its answers."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End the connection, once it is idle; one that is has a moment for what is on its way."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self.transport.is_closing():
            self.is_draining = True
            self.loop.call_later(DRAIN, super().shutdown)
        else:
            super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.served = cycle
        super()._start_asgi_task(cycle, app)

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"

    def _stop_head_timer(self) -> None:
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None

    def _end_head(self) -> None:
        """Give up a head that does not end, and a connection on which none begins."""
        if self.scope is not None and "method" not in self.scope:
            self._refuse(408, "timed-out", "Timed out")
        else:
            self.transport.close()

    def _refuse(self, status: int, kind: str, title: str) -> None:
        """Answer a request that never became one, and close the connection.

        Where answers to others are still to come, it is closed after them, without a word.
        """
        if self.is_refused:
            return
        self.is_refused = True
        cycle = self.cycle
        if (
            cycle is not None
            and not cycle.response_complete
            and (self.pipeline or cycle.response_started or not cycle.more_body)
        ):
            cycle.keep_alive = False
            return
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
