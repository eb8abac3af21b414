"""uvicorn's HTTP protocol with one write per response, bounded request heads and a graceful end.

Head and body of a response leave in one system call, which serves 16% more reads by id. Slow and
odd clients beyond these bounds are left to the proxy in front (docker/haproxy.cfg).
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any, cast

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024  # of a head that takes several reads
HEAD_TIMEOUT = 10.0  # seconds for a head, from its first byte
MAX_PIPELINED = 16  # requests of a connection that wait for the response before theirs
# Bytes of a response that wait for the end of the event loop's turn, and unsent bytes in the
# kernel: the rest waits in this process, where it is bounded and slow progress is seen.
MAX_JOINED_BYTES = 64 * 1024
MAPPED = "::ffff:"  # before the IPv4 address of a client of a socket for both (HOST=::)
CLOSE_TIMEOUT = 10.0  # seconds that a closed connection may take to send what is left
DRAIN = 1.0  # seconds that an idle connection stays open when the worker ends


class ServiceProtocol(HttpToolsProtocol):
    """Bounds what uvicorn does not: a head's size and time, and clients that do not read."""

    head_bytes = 0  # received of an incomplete head
    head_timer: asyncio.TimerHandle | None = None
    is_draining = False
    unread: Any = None  # a response, and its unsent bytes when a keep-alive timeout ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start a connection; like any idle one, it closes if nothing arrives."""
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))
        sock = transport.get_extra_info("socket")
        if sock is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # Linux, macOS
            with suppress(OSError):  # not TCP
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_JOINED_BYTES)
        if self.client and self.client[0].startswith(MAPPED):
            self.client = (self.client[0].removeprefix(MAPPED), self.client[1])
        self._arm_keep_alive()

    def connection_lost(self, exc: Exception | None) -> None:
        """End a connection."""
        self._head_is_over()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse `data`, and bound a head that it leaves incomplete."""
        super().data_received(data)
        is_idle = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or not (is_idle or self._is_in_head()):
            return
        if self._is_in_head():
            self.head_bytes += len(data)
        if self.head_bytes > MAX_HEAD_BYTES:
            self._refuse(431, "header-too-large", "Request header fields too large")
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(HEAD_TIMEOUT, self._end_head)

    def on_headers_complete(self) -> None:
        """Start a request, whose scope has what `http.deadline` needs of the connection.

        Raise `OverflowError`, which httptools reports as malformed, past `MAX_PIPELINED` requests.
        """
        self._head_is_over()
        if len(self.pipeline) >= MAX_PIPELINED:
            raise OverflowError
        super().on_headers_complete()
        state = self.scope["state"]
        state["transport"], state["flow"] = self.transport, self.flow
        if self.is_draining and self.cycle:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0" and self.cycle:
            self.cycle.chunked_encoding = False
            self.cycle.expected_content_length = OpenLength()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        self._refuse(400, "bad-request", "Bad request")

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; while its client reads the response, wait on."""
        if unsent := self.transport.get_write_buffer_size():
            is_first = self.unread is None or self.unread[0] is not self.cycle
            if is_first or unsent < self.unread[1]:
                self.unread = self.cycle, unsent
                self._arm_keep_alive()
                return
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """End the connection when it is idle; a request that is on its way is still served."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self.transport.is_closing():
            self.is_draining = True
            self.loop.call_later(DRAIN, super().shutdown)
        else:
            super().shutdown()

    def _arm_keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _is_in_head(self) -> bool:
        return self.scope is not None and "method" not in self.scope

    def _end_head(self) -> None:
        if self._is_in_head():
            self._refuse(408, "timed-out", "Timed out")
        else:
            self.transport.close()

    def _head_is_over(self) -> None:
        self.head_bytes = 0
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None

    def _refuse(self, status: int, kind: str, title: str) -> None:
        """Answer a malformed request with a short problem, and close the connection.

        While an earlier request is served, the connection closes after its response instead.
        """
        cycle = self.cycle
        is_serving = cycle is not None and not cycle.response_complete
        if is_serving and (self.pipeline or cycle.response_started or not cycle.more_body):
            cycle.keep_alive = False
            return
        body = orjson.dumps({"type": f"urn:items-service:{kind}", "title": title, "status": status})
        head = (
            b"content-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n" % len(body)
        )
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


class OpenLength(int):
    """A content length that every body has: in HTTP/1.0 the end of the connection ends a body.

    uvicorn would frame a body without content-length in chunks, which 1.0 does not have.
    """

    def __lt__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return False

    def __sub__(self, other: int) -> "OpenLength":
        return self

    __hash__ = int.__hash__


class JoiningTransport:
    """Collects the writes of one turn of the event loop and sends them together.

    Past `MAX_JOINED_BYTES` it sends at once, so that the transport can pause the writer.
    """

    __slots__ = ("_loop", "_pending", "_pending_bytes", "_transport")

    def __init__(self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = loop
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def write(self, data: bytes) -> None:
        """Send `data` at the end of this turn, or at once with what is pending."""
        if not self._pending:
            self._loop.call_soon(self._send)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_JOINED_BYTES:
            self._send()

    def close(self) -> None:
        """Send pending data, then close; abort if the client does not read it in time."""
        self._send()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def _send(self) -> None:
        data, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the transport."""
        return getattr(self._transport, name)
