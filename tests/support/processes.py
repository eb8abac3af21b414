"""Real processes for the tests: start them, read their output, and end them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx2 as httpx

from tests.support.commands import ROOT, clean_environment
from tests.support.waiting import TIMEOUT, wait_until

ITEMS = str(Path(sys.executable).parent / "items")


@dataclass(slots=True)
class Server:
    """A running `items serve` or `items dev`, in a separate process group."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    last_words: dict[str, str] = field(default_factory=dict)  # its output, after its end

    def stdout(self) -> str:
        return self._said("stdout")

    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, where: str) -> str:
        return self.last_words[where] if self.last_words else (self.folder / where).read_text()

    def lines(self) -> list[dict[str, Any]]:
        """Return the complete lines of its log, parsed as JSON."""
        whole = self.stderr().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def line_of(self, answer: httpx.Response) -> dict[str, Any]:
        """Wait for the log line of the request that got `answer`, and return it."""
        found: list[dict[str, Any]] = []

        def is_written() -> bool:
            request_id = answer.headers["x-request-id"]
            found[:] = [line for line in self.events("request") if line["request_id"] == request_id]
            return bool(found)

        wait_until(is_written)
        (line,) = found
        return line

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT)

    def press_ctrl_c(self) -> int:
        """Send SIGINT to the whole process group, as a terminal does; return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(TIMEOUT)


@contextmanager
def running(*arguments: str, env: dict[str, str]) -> Iterator[Server]:
    """Run `items` with these arguments on a free port; yield it when it responds."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [ITEMS, *arguments],
                cwd=ROOT,
                env=clean_environment() | {"PORT": str(port)} | env,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        server = Server(process, f"http://127.0.0.1:{port}", folder)
        try:
            wait_until(lambda: _answers(server))
            yield server
        finally:
            if process.poll() is None:
                server.end()
            server.last_words = {file.name: file.read_text() for file in folder.iterdir()}


def _answers(server: Server) -> bool:
    if server.process.poll() is not None:
        raise AssertionError(f"it ended with {server.process.returncode}:\n{server.stderr()}")
    try:
        # verify=False: loading the certificates would take 30 ms of CPU.
        return httpx.get(f"{server.url}/health/live", verify=False).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """Return a port of 127.0.0.1 on which no process listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Return whether a process exists; for a negative `pid`, any process of that group."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    """Yield a connection of asyncpg, without the service's engine."""
    conn = await asyncpg.connect(url, command_timeout=TIMEOUT)
    try:
        yield conn
    finally:
        await conn.close()


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement; return its rows."""

    async def fetch() -> list[tuple[Any, ...]]:
        async with connection(url) as conn:
            return [tuple(row) for row in await conn.fetch(sql)]

    return asyncio.run(fetch())


def script(url: str, sql: str) -> None:
    """Run statements, separated by empty lines, one by one as `psql --file` does."""

    async def execute() -> None:
        async with connection(url) as conn:
            for statement in sql.strip().split(";\n\n"):
                await conn.execute(statement)

    asyncio.run(execute())


@contextmanager
def holding(url: str, sql: str) -> Iterator[None]:
    """Run `sql` on a connection of its own, and hold its locks until the block ends."""
    with asyncio.Runner() as runner:
        opened = connection(url)
        conn = runner.run(opened.__aenter__())
        try:
            runner.run(conn.execute(sql))
            yield
        finally:
            runner.run(opened.__aexit__(None, None, None))
