"""A small HTTP/1.1 client for load, several times faster than a complete one."""

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import orjson

from tests.support.waiting import TIMEOUT


@dataclass(slots=True)
class Answer:
    """A response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A keep-alive connection, opened again when the server has closed it.

    Args:
        url: the server's, such as http://127.0.0.1:8000.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._writer:
            self._writer.close()
        self._reader = self._writer = None

    async def request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send a request, and return its response.

        Args:
            body: sent as JSON; bytes are sent unchanged.

        Raises:
            ConnectionError: the server closed the connection before the response was complete.
            TimeoutError: no response arrived.
        """
        await self.send(encode(method, path, body, headers))
        return await self.receive(method)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return the connection; open it if there is none."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        return self._reader, self._writer

    async def send(self, data: bytes) -> None:
        """Send all or some of a request's bytes."""
        _, writer = await self.connect()
        writer.write(data)

    async def receive(self, method: str = "GET") -> Answer:
        """Return the response to the request that was sent; `method` is the request's."""
        reader, _ = await self.connect()
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await read_answer(reader, method)
        except asyncio.IncompleteReadError as exc:
            self.close()
            raise ConnectionResetError("closed without a whole answer") from exc
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer


async def request_with_retry(
    client: Client,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send a request, again on a new connection if the first one was closed."""
    try:
        return await client.request(method, path, body, headers)
    except ConnectionError:
        return await client.request(method, path, body, headers)


def encode(
    method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> bytes:
    """Return a request's bytes."""
    content, headers = b"", headers or {}
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        if "Content-Type" not in headers:
            lines.append("Content-Type: application/json")
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join([*lines, "", ""]).encode() + content


async def read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    """Read the response to a request of this method."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    status = int(first[9:12])
    if method == "HEAD" or status in (100, 204, 304):
        body = b""
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await _read_chunks(reader)
    return Answer(status, headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    await reader.readexactly(2)
    return b"".join(chunks)
