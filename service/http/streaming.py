"""Streamed responses: rows as they come from the database.

When a client disconnects, Starlette's StreamingResponse cancels its generator at any point, which
costs a database connection, and it waits forever for a client that does not read. Here the
generator is always at a `yield` when it is closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.database.faults import FAULTS, log_fault
from service.http.deadline import break_off

Result = TypeVar("Result")

PIECE = 16 * 1024  # bytes sent at once; `timeout` applies to each


class Stream(Response):
    """Sends what `chunks` yields.

    Args:
        chunks: the parts of the body; closed when the response ends, for whatever reason.
        timeout: seconds that each chunk may take to arrive, and each piece of it to be sent.
        total_timeout: seconds that the whole response may take.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        timeout: float,
        total_timeout: float,
        media_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(None, headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self.chunks = chunks
        self.chunk = b""
        self.timeout = timeout
        self.total_timeout = total_timeout

    async def begin(self) -> "Stream":
        """Wait for the first chunk; until then an error gets a response of its own."""
        self.chunk = await anext(self.chunks, b"")
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response.

        Raises:
            ClientDisconnect: the client disconnected or read nothing for too long, no chunk came in
                time, or the database failed.
        """
        if deadline := scope.get("deadline"):
            deadline.lift()
        gone = asyncio.create_task(_until_gone(receive))
        ends_at = asyncio.get_running_loop().time() + self.total_timeout
        try:
            async with aclosing(self.chunks) as chunks:
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                while self.chunk and not scope.get("is_head"):
                    for begin in range(0, len(self.chunk), PIECE):
                        piece = self.chunk[begin : begin + PIECE]
                        message = {"type": "http.response.body", "body": piece, "more_body": True}
                        await self._in_time(send(message), scope, gone)
                        if gone.done():
                            raise ClientDisconnect
                        if asyncio.get_running_loop().time() > ends_at:
                            break_off(scope)
                            raise ClientDisconnect
                    self.chunk = await self._in_time(anext(chunks, b""), scope, gone)
                await self._in_time(send({"type": "http.response.body", "body": b""}), scope, gone)
        except FAULTS as fault:
            log_fault(fault)
            break_off(scope)
            raise ClientDisconnect from None
        finally:
            gone.cancel()

    async def _in_time(
        self, step: Awaitable[Result], scope: Scope, gone: asyncio.Task[None]
    ) -> Result:
        """Wait for `step`; abort a response that stalls."""
        # Aborts before the step is cancelled, which may take time.
        timer = asyncio.get_running_loop().call_later(self.timeout, break_off, scope)
        try:
            async with asyncio.timeout(self.timeout):
                return await step
        except TimeoutError:
            if break_off(scope):
                await gone
            raise ClientDisconnect from None
        finally:
            timer.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
