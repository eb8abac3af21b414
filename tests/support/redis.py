"""A Redis server for one test file, behind a proxy that delays or drops what it forwards."""

import asyncio
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from redis import Redis as Client
from redis import RedisError

from service.access import counters
from tests.support.database import docker_answers
from tests.support.processes import free_port
from tests.support.waiting import TIMEOUT, wait_until

IMAGE = "redis:8"


class Redis:
    """A Redis server and its proxy, which runs in a separate event loop.

    Attributes:
        url: the server's address; of the faults, only `refuse_writes` affects it.
        proxy_url: the address of the proxy.
        client: a client of the server.
        delay: seconds by which the proxy delays each request and each response.
        handshake: seconds by which the proxy delays each new connection.
        attempts: the number of connections and requests that the proxy has received.
    """

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self.client = Client(host="127.0.0.1", port=port)
        self.delay = self.handshake = 0.0
        self.attempts = 0
        self._port = port
        self._is_silent = self._is_stopped = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.proxy_url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()

    def stop(self) -> None:
        """Close all connections, and close new ones at once."""
        self._is_stopped = True
        asyncio.run_coroutine_threadsafe(self._close_connections(), self._loop).result(TIMEOUT)

    def fall_silent(self) -> None:
        """Accept connections and requests, but forward nothing."""
        self._is_silent = True

    def refuse_writes(self) -> None:
        """Make Redis read-only, by making it the replica of a server that does not exist."""
        self.client.replicaof("127.0.0.1", 1)

    def recover(self) -> None:
        """End every fault, and keep the counts unless Redis was stopped."""
        self.client.replicaof("NO", "ONE")
        if self._is_stopped:
            self.client.flushall()
        self.delay = self.handshake = 0.0
        self._is_silent = self._is_stopped = False

    def reset(self) -> None:
        """End every fault and delete all counts."""
        self.recover()
        self.client.flushall()
        self.client.script_flush()

    def answers(self) -> bool:
        """Return whether the server has started."""
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def run(self) -> None:
        """Run the proxy until `close`."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def close(self) -> None:
        """End `run`."""
        self.client.close()
        self._loop.call_soon_threadsafe(self._closing.set)

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._accept, sock=self._listener):
            await self._closing.wait()
            await self._close_connections()

    async def _close_connections(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:  # noqa: ASYNC110 (each is removed by its own task)
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts += 1
        both = {writer}
        self._writers.add(writer)
        try:
            await asyncio.sleep(self.handshake)
            if self._is_stopped:
                return
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
            both.add(other_writer)
            self._writers.add(other_writer)
            await asyncio.gather(
                self._forward(reader, other_writer, is_request=True),
                self._forward(other_reader, writer),
            )
        finally:
            writer.transport.abort()
            self._writers -= both

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_request: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.attempts += is_request
                if not self._is_silent:
                    self._loop.call_later(self.delay, writer.write, data)
        writer.close()


@contextmanager
def new_redis() -> Iterator[Redis]:
    """Run a Redis server and its proxy."""
    port = free_port()
    with subprocess.Popen(_server_command(port), stdout=subprocess.DEVNULL) as process:
        redis = Redis(port)
        thread = Thread(target=redis.run)
        thread.start()
        try:
            wait_until(redis.answers)
            yield redis
        finally:
            redis.close()
            thread.join()
            process.terminate()


def _server_command(port: int) -> list[str]:
    options = ["--save", ""]
    if docker_answers():
        name = f"items-test-redis-{secrets.token_hex(4)}"
        published = f"127.0.0.1:{port}:6379"
        return ["docker", "run", "--rm", "--name", name, "--publish", published, IMAGE, *options]
    if program := shutil.which("redis-server"):
        return [program, "--bind", "127.0.0.1", "--port", str(port), *options]
    pytest.skip("LEFT OUT: tests with Redis, as there is neither Docker nor redis-server")


@contextmanager
def patience() -> Iterator[None]:
    """Raise the timeout for Redis of an application in this process to `TIMEOUT`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "REDIS_TIMEOUT", TIMEOUT)
        yield
