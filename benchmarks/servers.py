"""The applications under load: how each is started, and what its processes use."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, sleep

import click
import psutil

from benchmarks.processes import cpu_seconds, largest_child
from service.settings import Settings

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent

START_TIMEOUT = 60  # seconds
STOP_TIMEOUT = 30  # seconds
SETTLE_TIMEOUT = 30  # seconds
SETTLE_INTERVAL = 0.2  # seconds
LOG_TAIL = 2000  # bytes

# What each is, in the order of the report.
APPLICATIONS = {
    "service": "this service, as `items serve` runs it, with its defaults",
    "usual": (
        "the usual design, as FastAPI's tutorial and the popular templates have it: an ORM session"
        " per request, a pool of 20 + 10 connections, `pool_pre_ping`, commit and refresh, an exact"
        " count, a `BaseHTTPMiddleware` for the log. FastAPI serialises its response models, as"
        " `ORJSONResponse` is deprecated in favour of that"
    ),
    "threads": "the same with `def` endpoints in FastAPI's thread pool, on psycopg",
    "nothing": "a FastAPI route that does nothing, behind the service's own middleware and log",
}


@dataclass(slots=True)
class Server:
    """An application that runs: Gunicorn's master with its workers."""

    name: str
    port: int
    workers: int
    log: Path
    master: psutil.Process

    @property
    def connected_as(self) -> str:
        """What PostgreSQL knows its connections by."""
        return "items-service" if self.name == "service" else self.name

    def cpu_seconds(self) -> float:
        """CPU time of the master and the workers so far."""
        return cpu_seconds(self.master)

    def largest_worker(self) -> float:
        """Resident memory of the largest worker, in MiB."""
        return largest_child(self.master)

    def settle(self) -> None:
        """Wait until it has done with what the load left behind, and empty its log."""
        deadline = monotonic() + SETTLE_TIMEOUT
        used = self.cpu_seconds()
        while monotonic() < deadline:
            sleep(SETTLE_INTERVAL)
            before, used = used, self.cpu_seconds()
            if used - before < SETTLE_INTERVAL / 10:
                break
        os.truncate(self.log, 0)


def environment(database_url: str) -> dict[str, str]:
    """This process's environment, with no setting of the service but the database's address."""
    settings = {name.upper() for name in Settings.model_fields}
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in settings}
    return inherited | {"DATABASE_URL": database_url, "PYTHONPATH": str(ROOT)}


def run_tool(database_url: str, folder: Path, *command: str) -> None:
    """Run one of the project's commands on the database; what it writes to stderr is shown.

    Raises:
        ClickException: it failed.
    """
    variables = environment(database_url) | {"LOG_LEVEL": "WARNING"}
    program = str(PROGRAMS / command[0])
    # In `folder`, as for the applications: a developer's .env must not count.
    done = subprocess.run([program, *command[1:]], cwd=folder, env=variables)
    if done.returncode:
        raise click.ClickException(f"`{' '.join(command)}` failed")


@contextmanager
def serve(
    name: str,
    workers: int,
    database_url: str,
    folder: Path,
    command: Sequence[str] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run an application on a free port of 127.0.0.1, with its log and nothing else in `folder`.

    Args:
        command: what runs it, if it is not one of APPLICATIONS.
        settings: environment variables of its own.

    Raises:
        ClickException: it does not answer.
    """
    port = _free_port()
    log = folder / f"{name}.log"
    variables = {"HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": str(workers)}
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            command or _command(name, port),
            cwd=folder,
            env=environment(database_url) | variables | dict(settings or {}),
            stdout=stderr,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends it in order
        )
    try:
        server = Server(name, port, workers, log, psutil.Process(process.pid))
        _wait_until_ready(server, process)
        yield server
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command(name: str, port: int) -> list[str]:
    if name == "service":
        return [str(PROGRAMS / "items"), "serve"]
    target = f"benchmarks.peers.{name}:create_app()"
    if name == "nothing":
        return as_the_service(target)
    # As their authors start them. WEB_CONCURRENCY is Gunicorn's own name for the workers.
    worker = ["--worker-class", "uvicorn_worker.UvicornWorker"]
    bind = ["--bind", f"127.0.0.1:{port}", "--no-control-socket"]
    return [sys.executable, "-m", "gunicorn", target, *worker, *bind]


def as_the_service(target: str, *arguments: str) -> list[str]:
    """The command that runs `target` as the service runs, but for Gunicorn's `arguments`."""
    config = str(ROOT / "docker" / "gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", target, "--config", config, *arguments]


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = monotonic() + START_TIMEOUT
    while process.poll() is None and monotonic() < deadline:
        if _answers(server.port):
            return
        sleep(SETTLE_INTERVAL)
    tail = server.log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
    raise click.ClickException(f"{server.name} does not answer. The end of its log:\n{tail}")


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", "/items/1")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
