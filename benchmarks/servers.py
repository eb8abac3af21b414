"""Applications under Gunicorn: how each is started, and the CPU time and memory that it uses."""

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep

import psutil

from service.settings import Settings

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent

# What the load generator does, and the operation that it calls.
SCENARIOS = {
    "read": "GET /items/{id}",
    "create": "POST /items",
    "list": "GET /items?page=N&per_page=20",
}

START_TIMEOUT = 60  # seconds
STOP_TIMEOUT = 30  # seconds
SETTLE_TIMEOUT = 30  # seconds
POLL_INTERVAL = 0.2  # seconds
LOG_TAIL = 2000  # bytes


@dataclass(frozen=True, slots=True)
class Application:
    """An application to measure, and how Gunicorn runs it.

    Attributes:
        meaning: what it is, for the report.
        target: what Gunicorn loads; empty if the application is not a server.
        worker: the class of Gunicorn's workers.
        has_service_config: whether the service's Gunicorn configuration applies, or the defaults.
        settings: environment variables.
        scenarios: those that it takes part in.
        max_clients: the highest number of clients that it takes part in.
        pool: maximum number of connections of a worker to the database.
    """

    name: str
    meaning: str
    target: str = "service.main:create_app()"
    worker: str = "service.server.worker.Worker"
    has_service_config: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    scenarios: Collection[str] = tuple(SCENARIOS)
    max_clients: float = math.inf
    pool: int = 8  # of the coalesced calls

    def takes_part(self, scenario: str, connections: int) -> bool:
        """Return whether the application is measured under this load."""
        return scenario in self.scenarios and connections <= self.max_clients

    def command(self, port: int) -> list[str]:
        """Return the command that serves it on `port` of 127.0.0.1."""
        config = ("--config", str(ROOT / "docker" / "gunicorn.conf.py"))
        return [
            *(sys.executable, "-m", "gunicorn", self.target),
            *(config if self.has_service_config else ()),
            *("--worker-class", self.worker),
            *("--bind", f"127.0.0.1:{port}", "--no-control-socket"),
        ]


@dataclass(slots=True)
class Server:
    """A running application: Gunicorn's master with its workers."""

    name: str
    port: int
    log: Path
    master: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the CPU time of the master and the workers so far."""
        return cpu_seconds(self.master)

    def memory(self) -> float:
        """Return the resident memory of the largest worker, in MiB."""
        return max(worker.memory_info().rss for worker in self.master.children()) / 2**20

    def settle(self) -> None:
        """Wait until the application is idle, and empty its log."""
        deadline = monotonic() + SETTLE_TIMEOUT
        used = self.cpu_seconds()
        while monotonic() < deadline:
            sleep(POLL_INTERVAL)
            before, used = used, self.cpu_seconds()
            if used - before < POLL_INTERVAL / 10:
                break
        os.truncate(self.log, 0)


@contextmanager
def serve(app: Application, workers: int, database_url: str, folder: Path) -> Iterator[Server]:
    """Run an application on a free port of 127.0.0.1, with its log in `folder`.

    Raises:
        SystemExit: it does not respond.
    """
    port = _free_port()
    log = folder / f"{app.name}.log"
    # WEB_CONCURRENCY is Gunicorn's own name for the number of workers.
    variables = {"WEB_CONCURRENCY": str(workers), **app.settings}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            app.command(port),
            cwd=folder,
            env=_environment(database_url) | variables,
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C stops the benchmark, which then stops the application
        )
    try:
        server = Server(app.name, port, log, psutil.Process(process.pid))
        _wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_tool(database_url: str, folder: Path, *command: str) -> None:
    """Run one of the project's commands on the database.

    Raises:
        SystemExit: it failed.
    """
    variables = _environment(database_url) | {"LOG_LEVEL": "WARNING"}
    program = str(PROGRAMS / command[0])
    # In `folder`, as for the applications, so that a developer's .env has no effect.
    done = subprocess.run([program, *command[1:]], cwd=folder, env=variables)
    if done.returncode:
        raise SystemExit(f"`{' '.join(command)}` failed")


def cpu_seconds(root: psutil.Process | None) -> float:
    """Return the CPU time, user and system, of a process, its descendants and ended children."""
    if root is None:
        return math.nan
    times = root.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for process in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)


def _environment(database_url: str) -> dict[str, str]:
    """Return this process's environment, with the database's URL as the only setting."""
    settings = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    return inherited | {"DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + START_TIMEOUT
    while process.poll() is None and monotonic() < deadline:
        if _responds(server.port):
            return
        sleep(POLL_INTERVAL)
    tail = server.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
    raise SystemExit(f"{server.name} does not respond. The end of its log:\n{tail}")


def _responds(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", "/items/1")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
