"""A Redis of a test's own, to be stopped and started, behind a proxy that slows or silences it."""

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

from tests.support.database import docker_answers
from tests.support.processes import free_port
from tests.support.waiting import TIMEOUT, wait_until

IMAGE = "redis:8"


class Redis:
    """A Redis server without persistence: what it has counted is gone when it stops.

    Attributes:
        url: its address.
        proxy_url: the address of the proxy.
        delay: seconds that the proxy holds back what is sent, there and back each.
        handshake: seconds that a new connection takes to be of use.
        is_silent: whether the proxy takes connections and requests, and passes nothing on.
    """

    def __init__(self) -> None:
        self.url = f"redis://127.0.0.1:{free_port()}"
        self.proxy_url = f"redis://127.0.0.1:{free_port()}"
        self.delay = self.handshake = 0.0
        self.is_silent = False
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
        """Start it, and return when it answers."""
        if not self._thread.is_alive():
            self._thread.start()
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self._answers)
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(TIMEOUT)

    def stop(self) -> None:
        """Stop it: connections break, and new ones are refused."""
        asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result(TIMEOUT)
        if self._process:
            self._process.terminate()
            self._process.wait(TIMEOUT)
            self._process = None

    def reset(self) -> None:
        """Make it quick and empty again."""
        if self._process is None:
            self.start()
        self.delay, self.handshake, self.is_silent = 0.0, 0.0, False
        self.take_writes()
        self.client.flushall()
        self.client.script_flush()

    def refuse_writes(self) -> None:
        """Have it answer, and count nothing: as a replica does, of a server that is away here."""
        self.client.replicaof("127.0.0.1", 1)

    def take_writes(self) -> None:
        """Have it count again."""
        self.client.replicaof("NO", "ONE")

    def close(self) -> None:
        """End it and its proxy."""
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
        self._listener = await asyncio.start_server(self._take, "127.0.0.1", self._proxy_port)

    async def _break_off(self) -> None:
        if self._listener:
            self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        # No event tells of the last: each is taken out when its own task ends.
        while self._writers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = {writer}
        self._writers.add(writer)
        try:
            await asyncio.sleep(self.handshake)
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._port)
            both.add(other_writer)
            self._writers.add(other_writer)
            await asyncio.gather(
                self._pass_on(reader, other_writer), self._pass_on(other_reader, writer)
            )
        except OSError:
            writer.close()
        finally:
            self._writers -= both

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
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
    pytest.skip("LEFT OUT: what takes Redis, as there is neither Docker nor redis-server")


@contextmanager
def new_redis() -> Iterator[Redis]:
    """Run a Redis."""
    redis = Redis()
    try:
        redis.start()
        yield redis
    finally:
        redis.close()
