"""A Redis for one test file, behind a proxy that delays or drops what it forwards."""

import asyncio
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest
from redis import Redis as Client
from redis import RedisError

from service import counters
from tests.support.database import docker_answers
from tests.support.processes import free_port
from tests.support.waiting import TIMEOUT, wait_until

IMAGE = "redis:8"


class Redis:
    """A Redis server without persistence: it loses its counts when it stops.

    Attributes:
        url: its address.
        proxy_url: the address of the proxy.
        delay: seconds by which the proxy delays each request and each answer.
        handshake: seconds by which the proxy delays each new connection.
        is_silent: whether the proxy accepts connections and requests, and forwards nothing.
        requests: the number of pieces of data that the proxy has received from clients.
    """

    def __init__(self) -> None:
        self.url = f"redis://127.0.0.1:{free_port()}"
        self.proxy_url = f"redis://127.0.0.1:{free_port()}"
        self.delay = self.handshake = 0.0
        self.is_silent = False
        self.requests = 0
        self._port = int(self.url.rpartition(":")[2])
        self._proxy_port = int(self.proxy_url.rpartition(":")[2])
        self.client = Client(host="127.0.0.1", port=self._port)
        self._command = _server_command(self._port)
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever)
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        if not self._thread.is_alive():
            self._thread.start()
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self._answers)
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(TIMEOUT)

    def stop(self) -> None:
        """Stop it: its connections break, and new ones are refused."""
        asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result(TIMEOUT)
        if self._process:
            self._process.terminate()
            self._process.wait(TIMEOUT)
            self._process = None

    def reset(self) -> None:
        """End every fault and delete all counts."""
        self.recover()
        self.client.flushall()
        self.client.script_flush()

    def refuse_writes(self) -> None:
        """Make it read-only, as the replica of a server that does not exist."""
        self.client.replicaof("127.0.0.1", 1)

    def take_writes(self) -> None:
        """End `refuse_writes`."""
        self.client.replicaof("NO", "ONE")

    def fall_silent(self) -> None:
        """Forward nothing, while connections and requests are still accepted."""
        self.is_silent = True

    def recover(self) -> None:
        """End every fault; the counts stay, unless Redis was stopped."""
        if self._process is None:
            self.start()
        self.delay, self.handshake, self.is_silent = 0.0, 0.0, False
        self.take_writes()

    def close(self) -> None:
        """Stop it and its proxy."""
        self.stop()
        self.client.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._proxy_port)

    async def _break_off(self) -> None:
        if self._listener:
            self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        while self._writers:  # noqa: ASYNC110 (each is removed by its own task)
            await asyncio.sleep(0.01)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = {writer}
        self._writers.add(writer)
        try:
            await asyncio.sleep(self.handshake)
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
            both.add(other_writer)
            self._writers.add(other_writer)
            await asyncio.gather(
                self._forward(reader, other_writer, is_request=True),
                self._forward(other_reader, writer),
            )
        except OSError:
            writer.close()
        finally:
            self._writers -= both

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_request: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                self.requests += is_request
                if not self.is_silent:
                    self._loop.call_later(self.delay, writer.write, data)
        writer.close()


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
    """Let an application in this process wait for Redis however long its answers take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "LOOKS", 12_000)
        yield


@contextmanager
def new_redis() -> Iterator[Redis]:
    """Run a Redis server and its proxy."""
    redis = Redis()
    try:
        redis.start()
        yield redis
    finally:
        redis.close()
