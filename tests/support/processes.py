"""Real processes for the tests: started, waited for, read, and ended."""

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
    """`items serve` or `items dev`, in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    last_words: dict[str, str] = field(default_factory=dict)  # once it has ended

    def stdout(self) -> str:
        return self._said("stdout")

    def stderr(self) -> str:
        return self._said("stderr")

    def _said(self, where: str) -> str:
        return self.last_words[where] if self.last_words else (self.folder / where).read_text()

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged, each whole line of it read as JSON."""
        whole = self.stderr().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def line_of(self, answer: httpx.Response) -> dict[str, Any]:
        """The log's line about the request that `answer` answers."""
        found: list[dict[str, Any]] = []

        def is_written() -> bool:
            request_id = answer.headers["x-request-id"]
            found[:] = [line for line in self.events("request") if line["request_id"] == request_id]
            return bool(found)

        wait_until(is_written)
        (line,) = found
        return line

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has. Answers with its exit code."""
        self.process.send_signal(how)
        return self.process.wait(TIMEOUT)

    def press_ctrl_c(self) -> int:
        """What a terminal does: the signal goes to all processes in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(TIMEOUT)


@contextmanager
def running(*arguments: str, env: dict[str, str]) -> Iterator[Server]:
    """Run `items` with these arguments on a free port, from when it answers to the end."""
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
        # Unless told not to verify, the client loads all certificates, which takes 30 ms of CPU.
        return httpx.get(f"{server.url}/health/live", verify=False).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(pid: int) -> bool:
    """Whether there is this process, or, as a negative number, any of a process group."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def connection(url: str) -> AsyncIterator[Any]:
    """The driver's own connection, without the service's engine."""
    conn = await asyncpg.connect(url, command_timeout=TIMEOUT)
    try:
        yield conn
    finally:
        await conn.close()


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    """Run one statement and answer with its rows."""

    async def fetch() -> list[tuple[Any, ...]]:
        async with connection(url) as conn:
            return [tuple(row) for row in await conn.fetch(sql)]

    return asyncio.run(fetch())


def script(url: str, sql: str) -> None:
    """Run statements apart by empty lines one by one, as `psql --file` would."""

    async def execute() -> None:
        async with connection(url) as conn:
            for statement in sql.strip().split(";\n\n"):
                await conn.execute(statement)

    asyncio.run(execute())


@contextmanager
def holding(url: str, sql: str) -> Iterator[None]:
    """A connection that has run `sql` and holds the locks that it took, until it is closed."""
    with asyncio.Runner() as runner:
        opened = connection(url)
        conn = runner.run(opened.__aenter__())
        try:
            runner.run(conn.execute(sql))
            yield
        finally:
            runner.run(opened.__aexit__(None, None, None))
