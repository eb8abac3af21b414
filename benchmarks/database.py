"""The PostgreSQL that the load runs on, and a database there of the benchmark's own."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import LiteralString

import click
import psutil
import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.engine import make_url

from benchmarks.processes import cpu_seconds
from service.cli.embedded import embedded_postgres

SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_connections")

Connection = psycopg.Connection[tuple[str]]


@dataclass(slots=True)
class Database:
    """The benchmark's own database: its address, a connection to it, and the server's process."""

    url: str
    conn: Connection
    postmaster: psutil.Process | None  # None where the server runs elsewhere

    def describe(self) -> str:
        """Its version, and the settings that its speed hangs on."""
        settings = ", ".join(f"{name} {self._setting(name)}" for name in SETTINGS)
        return f"{self._setting('server_version')}; {settings}"

    def reset(self, rows: int) -> None:
        """Bring the table back to its first `rows` items, the same for whoever is next."""
        self.conn.execute("DELETE FROM items WHERE id > %s", [rows])
        self.conn.execute("VACUUM (ANALYZE) items")
        with suppress(InsufficientPrivilege):
            self.conn.execute("CHECKPOINT")

    def connections(self, application_name: str) -> int:
        """How many connections an application has open now."""
        activity = "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = %s"
        return int(_one(self.conn, activity, application_name))

    def _setting(self, name: str) -> str:
        return _one(self.conn, "SELECT current_setting(%s)", name)

    def cpu_seconds(self) -> float | None:
        """CPU time of the whole server so far; None where it runs elsewhere."""
        return cpu_seconds(self.postmaster) if self.postmaster else None


@contextmanager
def database(given: str | None, folder: Path, connections: int) -> Iterator[Database]:
    """Make a database on the `given` server, else on an embedded one with its data in `folder`.

    Args:
        connections: how many the load will need at most.

    Raises:
        ClickException: the server does not answer, allows fewer, or is lost meanwhile.
    """
    name = f"items_benchmark_{secrets.token_hex(4)}"
    with _server(given, folder, connections) as server_url, _connect(server_url) as admin:
        _require_connections(admin, connections)
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
            with _connect(url) as conn:
                yield Database(url, conn, _postmaster(conn))
        except psycopg.OperationalError as exc:
            raise click.ClickException(f"The database was lost: {exc}") from None
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)")
            with suppress(psycopg.OperationalError):  # it was lost, and this need not say it again
                admin.execute(drop.format(sql.Identifier(name)))


@contextmanager
def _server(given: str | None, folder: Path, connections: int) -> Iterator[str]:
    if given is not None:
        yield make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    # Not in the system's folder for temporary files: in memory, as that often is, a commit would
    # cost nothing.
    with TemporaryDirectory(dir=folder, prefix=".postgres-") as home:
        data = Path(home, "data")
        with embedded_postgres(data) as url, _connect(url) as conn:
            allow = sql.SQL("ALTER SYSTEM SET max_connections = {}")
            conn.execute(allow.format(sql.Literal(connections)))
        with embedded_postgres(data) as url:  # anew, for the setting to hold
            yield url


def _connect(url: str) -> Connection:
    try:
        return psycopg.connect(url, autocommit=True)
    except psycopg.OperationalError as exc:
        raise click.ClickException(f"The database does not answer: {exc}") from None


def _require_connections(conn: Connection, connections: int) -> None:
    allowed = _one(conn, "SELECT current_setting(%s)", "max_connections")
    if int(allowed) < connections:
        raise click.ClickException(
            f"The server allows {allowed} connections, and this load may need {connections}."
            " Raise its max_connections, or ask for fewer --apps or --workers"
        )


def _postmaster(conn: Connection) -> psutil.Process | None:
    """The server's first process, if it is one of this machine's."""
    with suppress(psutil.Error):
        parent = psutil.Process(conn.info.backend_pid).parent()
        if parent is not None and parent.name().startswith("postgres"):
            return parent
    return None


def _one(conn: Connection, query: LiteralString, argument: str) -> str:
    """The one value that the query answers with."""
    row = conn.execute(query, [argument]).fetchone()
    assert row is not None
    return row[0]
