"""The PostgreSQL that the benchmarks run on, and a database of their own on it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import LiteralString

import psutil
import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.engine import make_url

from benchmarks.servers import ROOT, cpu_seconds, run_tool
from service.cli.embedded import embedded_postgres

SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_connections")
OWN_CONNECTIONS = 10  # the benchmark's own, and those that PostgreSQL reserves

Connection = psycopg.Connection[tuple[str]]


@dataclass(slots=True)
class Database:
    """A database for the benchmarks: its URL, a connection to it, and the server's process."""

    url: str
    conn: Connection
    postmaster: psutil.Process | None  # None if the server runs elsewhere

    def describe(self) -> str:
        """Return the version, and the settings that its speed depends on."""
        settings = ", ".join(f"{name} {self._setting(name)}" for name in SETTINGS)
        return f"{self._setting('server_version')}; {settings}"

    def fill(self, rows: int, folder: Path) -> None:
        """Migrate, and store `rows` items with the ids from 1 on."""
        alembic = str(ROOT / "alembic.ini")
        run_tool(self.url, folder, "alembic", "--config", alembic, "upgrade", "head")
        run_tool(self.url, folder, "items", "seed", "--rows", str(rows))
        # An application under load must not pay for the rows that another one wrote.
        self.conn.execute("ALTER TABLE items SET (autovacuum_enabled = false)")
        self.reset(rows)

    def reset(self, rows: int) -> None:
        """Delete all items but the first `rows`, and vacuum the table."""
        self.conn.execute("DELETE FROM items WHERE id > %s", [rows])
        self.conn.execute("VACUUM (ANALYZE) items")
        with suppress(InsufficientPrivilege):
            self.conn.execute("CHECKPOINT")

    def cpu_seconds(self) -> float:
        """Return the CPU time of the whole server so far; NaN if it runs elsewhere."""
        return cpu_seconds(self.postmaster)

    def _setting(self, name: str) -> str:
        return _one(self.conn, "SELECT current_setting(%s)", name)


@contextmanager
def database(given: str | None, folder: Path, connections: int) -> Iterator[Database]:
    """Create a database, and drop it afterwards.

    Args:
        given: URL of a server; None for an embedded one with its data in `folder`.
        connections: maximum number of connections of the applications.

    Raises:
        SystemExit: the server does not respond, or allows fewer connections.
    """
    name = sql.Identifier(f"items_benchmark_{secrets.token_hex(4)}")
    needed = connections + OWN_CONNECTIONS
    with _server(given, folder, needed) as server_url, _connect(server_url) as admin:
        allowed = int(_one(admin, "SELECT current_setting(%s)", "max_connections"))
        if allowed < needed:
            raise SystemExit(
                f"The server allows {allowed} connections, and this run may need {needed}."
                " Raise its max_connections, or measure less with --only or --workers."
            )
        admin.execute(sql.SQL("CREATE DATABASE {}").format(name))
        try:
            url = make_url(server_url).set(database=name.as_string().strip('"'))
            address = url.render_as_string(hide_password=False)
            with _connect(address) as conn:
                yield Database(address, conn, _postmaster(conn))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@contextmanager
def _server(given: str | None, folder: Path, connections: int) -> Iterator[str]:
    if given is not None:
        yield make_url(given).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    # The system's folder for temporary files may be in memory, where a commit costs nothing.
    with TemporaryDirectory(dir=folder, prefix=".postgres-") as home:
        data = Path(home, "data")
        with embedded_postgres(data) as url, _connect(url) as conn:
            allow = sql.SQL("ALTER SYSTEM SET max_connections = {}")
            conn.execute(allow.format(sql.Literal(connections)))
        with embedded_postgres(data) as url:  # the setting takes a restart
            yield url


def _connect(url: str) -> Connection:
    try:
        return psycopg.connect(url, autocommit=True)
    except psycopg.OperationalError as exc:
        raise SystemExit(f"The database does not respond: {exc}") from None


def _postmaster(conn: Connection) -> psutil.Process | None:
    """Return the server's first process, if it runs on this machine."""
    with suppress(psutil.Error):
        parent = psutil.Process(conn.info.backend_pid).parent()
        if parent is not None and parent.name().startswith("postgres"):
            return parent
    return None


def _one(conn: Connection, query: LiteralString, argument: str) -> str:
    """Return the single value that the query returns."""
    row = conn.execute(query, [argument]).fetchone()
    assert row is not None
    return row[0]
