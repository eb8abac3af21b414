"""A TCP proxy that can stop forwarding, like a network that drops every packet."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from tests.support.waiting import TIMEOUT

BACKLOG = 128


class Proxy:
    """Forwards connections to a port of 127.0.0.1, in a separate event loop.

    Attributes:
        port: the proxy's own port.
        has_held: set when data to forward has arrived since `hold`.
    """

    def __init__(self, target: int) -> None:
        self.has_held = Event()
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stopping = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    def hold(self) -> None:
        """Forward nothing, not even the end of a connection; leave new connections unanswered."""
        self.has_held.clear()
        self._listener.listen(0)  # the kernel drops the requests for more connections
        self._call(self._flowing.clear)

    def release(self) -> None:
        """Forward the held data, and all data from now on."""
        self._listener.listen(BACKLOG)
        self._call(self._flowing.set)

    def run(self) -> None:
        """Forward until `stop`, which closes all connections."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    def stop(self) -> None:
        """End `run`."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _call(self, function: Callable[[], None]) -> None:
        """Call `function` in the event loop, and wait for its end."""
        has_run = Event()
        self._loop.call_soon_threadsafe(function)
        self._loop.call_soon_threadsafe(has_run.set)
        assert has_run.wait(TIMEOUT)

    async def _run(self) -> None:
        with self._listener:
            accepting = asyncio.create_task(self._accept())
            await self._stopping.wait()
            accepting.cancel()

    async def _accept(self) -> None:
        while True:
            await self._flowing.wait()
            client, _ = await self._loop.sock_accept(self._listener)
            connection = asyncio.create_task(self._connect(client))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _connect(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
        else:
            await asyncio.gather(
                self._forward(reader, server_writer), self._forward(server_reader, writer)
            )

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(65_536):
                    if not self._flowing.is_set():
                        self.has_held.set()
                    await self._flowing.wait()
                    writer.write(data)
                    await writer.drain()
            await self._flowing.wait()
        finally:
            writer.close()


@contextmanager
def proxying(target: int) -> Iterator[Proxy]:
    """Run a proxy for the port `target` of 127.0.0.1."""
    proxy = Proxy(target)
    thread = Thread(target=proxy.run)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
