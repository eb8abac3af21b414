"""The engine and its pool: how connections open, and when they are replaced."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import event
from sqlalchemy.engine import AdaptedConnection, Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from service.database.faults import READ_ONLY, Unreachable, sqlstate
from service.settings import Settings

LOCK_TIMEOUT_MS = 3000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000
CLOSE_TIMEOUT = 1.0  # seconds for all connections to close

# TCP keepalive: seconds idle, seconds between probes, probes. An idle connection to a host that
# vanished closes after 8 s; without it, each would cost a request its deadline.
KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4}

READ_ONLY_INTERVAL = 1.0  # seconds between two replacements of all connections


class PoolerRefused(Unreachable):
    """DATABASE_URL leads to a connection pooler."""

    def __init__(self) -> None:
        super().__init__(
            "DATABASE_URL leads to a connection pooler, which is not supported; "
            "use the address of PostgreSQL itself"
        )


def create_engine(settings: Settings) -> AsyncEngine:
    """Return the process's engine; it connects on first use.

    Its isolation level is AUTOCOMMIT: a single statement needs no BEGIN and COMMIT round trips.
    """
    engine = create_async_engine(
        settings.engine_url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout,
        pool_recycle=settings.pool_recycle,
        pool_pre_ping=settings.pool_pre_ping,
        # The most recently used connection goes out first, so that surplus ones age and close.
        pool_use_lifo=True,
        echo=settings.debug,
        hide_parameters=True,
        connect_args={
            "timeout": settings.connect_timeout,
            "server_settings": {
                "application_name": "items-service",
                "timezone": "UTC",
                "default_transaction_isolation": "read committed",
                "statement_timeout": str(settings.statement_timeout_ms),
                "lock_timeout": str(LOCK_TIMEOUT_MS),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_TIMEOUT_MS),
                # Compiling a statement that runs for a millisecond costs more than it saves.
                "jit": "off",
            },
        },
    )
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "connect", _keep_alive)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "handle_error", _ReadOnly())
    return engine


def create_migrator_engine(settings: Settings) -> AsyncEngine:
    """Return an engine without a pool and without the timeouts of requests."""
    engine = create_async_engine(
        settings.engine_url,
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={
            "timeout": settings.connect_timeout,
            "server_settings": {"application_name": "items-migrate"},
        },
    )
    event.listen(engine.sync_engine, "do_connect", _connect)
    event.listen(engine.sync_engine, "connect", _keep_alive)
    return engine


@asynccontextmanager
async def opened_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """Yield the engine of a command; close its connections, also after an error."""
    engine = create_engine(settings)
    try:
        yield engine
    finally:
        await engine.dispose()


def _connect(dialect: Dialect, record: Any, args: Any, options: Any) -> DBAPIConnection:
    """Connect; tell a server that cannot be reached from other errors of the operating system."""
    try:
        connection = dialect.connect(*args, **options)
        refuse_pooler(connection, options["timeout"])
    except OSError as exc:  # and TimeoutError
        raise Unreachable(str(exc) or "did not respond in time") from exc
    except (dialect.loaded_dbapi.Error, PostgresError) as exc:
        # PgBouncer's words for settings that it does not pass on.
        if "unsupported startup parameter" in str(exc):
            raise PoolerRefused from None
        raise
    return connection


def refuse_pooler(connection: Any, timeout: float) -> None:
    """Refuse a connection that another process than PostgreSQL's backend has accepted.

    A pooler in transaction mode sends each transaction to another backend. asyncpg numbers its
    prepared statements, so that a number may stand for another process's DELETE there. A pooler
    makes up the process id that asyncpg gets at the start.

    Args:
        connection: SQLAlchemy's adapter of a new connection of asyncpg.
        timeout: seconds that the server may take to respond.

    Raises:
        PoolerRefused: the server's process id is not the one that asyncpg got.
    """
    pid = connection.driver_connection.get_server_pid()
    # The simple query protocol, which prepares nothing. The status has the number of rows.
    check = f"SELECT WHERE pg_backend_pid() = {pid}"
    try:
        status = connection.run_async(lambda driver: driver.execute(check, timeout=timeout))
    except (PostgresError, InterfaceError, InternalClientError):
        return  # the server ended the connection, which its first use notices
    except BaseException:
        connection.terminate()
        raise
    if status != "SELECT 1":
        connection.terminate()
        raise PoolerRefused


class _ReadOnly:
    """Drops connections to a server that no longer accepts writes, as after a failover.

    The address may lead to another server meanwhile. All connections are replaced, at most once
    in `READ_ONLY_INTERVAL`: reads may go on while no server accepts writes.
    """

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, context: ExceptionContext) -> None:
        if sqlstate(context.sqlalchemy_exception) != READ_ONLY:
            return
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = monotonic() >= self._next
        if context.invalidate_pool_on_disconnect:
            self._next = monotonic() + READ_ONLY_INTERVAL


def _keep_alive(connection: AdaptedConnection, record: Any) -> None:
    """Turn on TCP keepalive for a new connection."""
    sock = _socket(connection)
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    with suppress(OSError):  # closed already; the checkout notices
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # Linux
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _refuse_closed(connection: AdaptedConnection, record: Any, proxy: Any) -> None:
    """Make the pool replace a connection that the server has ended.

    `pool_pre_ping` learns the same in three round trips; this takes none. PostgreSQL sends nothing
    on an idle connection except its end, so unread input means that it has ended.
    """
    driver: Any = connection.driver_connection
    if driver.is_closed() or _has_unread(_socket(connection)):
        raise DisconnectionError


def _socket(connection: AdaptedConnection) -> Any:
    """Return the connection's socket; asyncpg has no public access to it."""
    driver: Any = connection.driver_connection
    return driver._transport.get_extra_info("socket")


def _has_unread(sock: Any) -> bool:
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def close_engine(engine: AsyncEngine) -> None:
    """Close the pool; connections to a server that does not answer end with the process."""
    with suppress(TimeoutError):
        await asyncio.wait_for(engine.dispose(), CLOSE_TIMEOUT)


def transactional(engine: AsyncEngine) -> AsyncEngine:
    """Return `engine` with transactions, on the same pool."""
    return engine.execution_options(isolation_level="READ COMMITTED")
