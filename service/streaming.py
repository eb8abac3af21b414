"""Answers without end: rows as they come from the database.

Starlette's StreamingResponse cancels its generator in the midst of whatever it does when the client
leaves, which costs a database connection, and waits for a client that reads nothing as long as that
likes. Here the generator always stands at a `yield` when it is closed.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send


class Stream(Response):
    """Sends what `chunks` yields; the first one before the status, so that an error can be told.

    Args:
        stall_timeout: seconds that the client may take to read what it was sent.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        stall_timeout: float,
        media_type: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(None, headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self.chunks = chunks
        self.stall_timeout = stall_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer.

        Raises:
            ClientDisconnect: the client left, or read nothing for too long.
        """
        gone = asyncio.create_task(_until_gone(receive))
        try:
            async with aclosing(self.chunks) as chunks:
                chunk = await anext(chunks, b"")
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                while chunk and not scope.get("is_head"):
                    if not await self._send_in_time(send, chunk):
                        await _break_off(scope, gone)
                    if gone.done():
                        raise ClientDisconnect
                    chunk = await anext(chunks, b"")
        finally:
            gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    async def _send_in_time(self, send: Send, chunk: bytes) -> bool:
        try:
            async with asyncio.timeout(self.stall_timeout):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            return False
        return True


async def _break_off(scope: Scope, gone: asyncio.Task[None]) -> None:
    """End the connection; closing it would wait until the client has read what it was sent."""
    transport = scope.get("state", {}).get("transport")  # of service/transport.py
    if transport is None:
        raise ClientDisconnect
    transport.abort()
    await gone


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
