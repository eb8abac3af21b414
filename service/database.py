"""The engine, the sessions, and what each connection is told when it opens."""

import asyncio
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import structlog
from asyncpg.exceptions import (
    AdminShutdownError,
    InterfaceError,
    InternalClientError,
    PostgresError,
)
from fastapi import Request
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from service.coalesce import Coalescer, QueueFull
from service.connector import Connector
from service.metrics import SET_SIZE, TRANSACTIONS, watch_queue
from service.settings import Settings

logger = structlog.get_logger(__name__)

Call = TypeVar("Call")
Answer = TypeVar("Answer")

# That may wait for a connection: enough that none is idle, and few, as each costs the others time.
WAITING_SESSIONS = 150
LOCK_TIMEOUT_MS = 3000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000
GOODBYE = 1.0  # seconds in which all connections should close

# What is raised when something is wrong with the database, or the way to it.
FAULTS = (
    *(DBAPIError, PoolTimeoutError, InvalidRequestError),
    *(PostgresError, InterfaceError, InternalClientError, OSError),
)


def create_engine(settings: Settings) -> AsyncEngine:
    """The process's engine and its pool; it connects when first used, not before.

    In AUTOCOMMIT, for single statements: without the round trips of BEGIN and COMMIT.
    """
    engine = create_async_engine(
        settings.engine_url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.pool_size,
        max_overflow=settings.max_overflow,
        pool_timeout=settings.pool_timeout,
        pool_recycle=settings.pool_recycle,
        pool_pre_ping=settings.pool_pre_ping,
        # The connection used last is the next one used, so that those a quiet hour does not need
        # grow old and go.
        pool_use_lifo=True,
        echo=settings.debug,
        hide_parameters=True,
        connect_args={
            "async_creator_fn": Connector().connect,
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
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(connection: AdaptedConnection, record: Any, proxy: Any) -> None:
    """Make the pool replace a connection that the server has ended.

    `pool_pre_ping` finds the same by three round trips on each checkout; this costs none. The
    server says nothing to a connection that waits, but that it ends: what is there to be read, and
    the driver has not read yet, is that.
    """
    driver: Any = connection.driver_connection
    if driver.is_closed() or _has_unread(driver._transport.get_extra_info("socket").fileno()):
        raise DisconnectionError


def _has_unread(file: int) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(0))


async def close_engine(engine: AsyncEngine) -> None:
    """Close the connections of the pool; those of a server that does not answer end with us."""
    with suppress(TimeoutError):
        await asyncio.wait_for(engine.dispose(), GOODBYE)


def transactional(engine: AsyncEngine) -> AsyncEngine:
    """`engine`, on the same pool, with transactions."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def create_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Makes sessions in transactions; what they loaded stays readable after the commit."""
    return async_sessionmaker(transactional(engine), expire_on_commit=False)


class Sessions:
    """Connections for what is not coalesced, two thirds of the pool's at most: whatever locks it
    waits for, the calls that are coalesced find one. Those that wait for a connection are bounded,
    and so is how long they do.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._new = create_sessions(engine)
        connections = settings.pool_size + settings.max_overflow
        self._free = asyncio.Semaphore(max(1, connections * 2 // 3))
        self._waiting = 0
        self._max_waiting = min(settings.queue_limit, WAITING_SESSIONS)
        self._patience = settings.pool_timeout

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """A session in a transaction, which is committed when the block ends well.

        Raises:
            QueueFull: as many as may wait for a connection, or it has waited for too long.
        """
        async with self._turn(), self._new.begin() as session:
            yield session

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection for a call of one statement, which is committed by itself.

        A row that many write is locked for its statement, not for a transaction's round trips.
        What follows a statement that found nothing to change may stand by itself, too.

        Raises:
            QueueFull: as many as may wait for a connection, or it has waited for too long.
        """
        async with self._turn(), self._engine.connect() as conn:
            yield conn

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        with TRANSACTIONS.track_inprogress():
            await self._wait()
            try:
                yield
            finally:
                self._free.release()

    async def _wait(self) -> None:
        if self._free.locked() and self._waiting >= self._max_waiting:
            raise QueueFull
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            raise QueueFull from None
        finally:
            self._waiting -= 1


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """A session in a transaction, for a request of several statements.

    Depend on it with `scope="function"`: it then commits before the answer is sent, so that a
    commit that fails is an error and not a success. Where bodies are large, take `sessions.begin()`
    in the operation instead: what it depends on is there before its body is validated.
    """
    async with request.app.state.sessions.begin() as session:
        yield session


def coalesce(
    engine: AsyncEngine,
    settings: Settings,
    function: Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]],
    *,
    max_waiting: int | None = None,
    **options: Any,
) -> Coalescer[Call, Answer]:
    """A function of crud, which takes sets, as one that takes single calls and joins them.

    A set has as long as a request has: no call of it would wait longer.

    Args:
        max_waiting: calls that may wait for a set; by default the setting `queue_limit`.
        options: others of `Coalescer`.
    """
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    observe_size = SET_SIZE.labels(name).observe

    async def run(calls: Sequence[Call]) -> Sequence[Answer]:
        observe_size(len(calls))
        async with asyncio.timeout(settings.request_timeout), engine.connect() as conn:
            return await function(conn, calls)

    coalescer = Coalescer(
        run,
        is_data_fault=is_data_fault,
        is_lost=is_lost,
        max_waiting=settings.queue_limit if max_waiting is None else max_waiting,
        **options,
    )
    watch_queue(name, coalescer)
    return coalescer


def log_fault(fault: Exception) -> None:
    """Say that a request has met one of `FAULTS`.

    Raises:
        InvalidRequestError: it is no fault of the database, but a defect of ours.
    """
    if isinstance(fault, InvalidRequestError) and not is_refused(fault):
        raise fault
    logger.warning("database_fault", error=type(fault).__name__, sqlstate=sqlstate(fault))


def sqlstate(fault: BaseException | None) -> str | None:
    """PostgreSQL's five-character code for `fault`; None where the server did not say."""
    if isinstance(fault, DBAPIError):
        fault = fault.orig
    return getattr(fault, "sqlstate", None)


def is_data_fault(fault: Exception) -> bool:
    """Whether a row is at fault: it does not fit its column (22) or breaks a constraint (23)."""
    return (sqlstate(fault) or "")[:2] in ("22", "23")


def is_lost(fault: Exception) -> bool:
    """Whether the connection went away under a statement, which leaves open what it has done."""
    if isinstance(fault, DBAPIError) and fault.connection_invalidated:
        return True
    return (
        isinstance(fault, InterfaceError)
        or is_refused(fault)
        or ((sqlstate(fault) or "").startswith(("08", "57P")))
    )


def is_refused(fault: Exception) -> bool:
    """Whether the pool gave up, as the server ended each new connection at once."""
    return isinstance(fault, InvalidRequestError) and str(fault) == "This connection is closed"


def is_undone(fault: Exception) -> bool:
    """Whether what met `fault` has certainly done nothing, so that it may be done again.

    Either no connection was to be had that lasts; or a migration has changed a type under a
    prepared statement, which happens once to a process; or the server was told to end the
    connection, and says so. It does that between statements, or in the midst of one, whose
    transaction it rolls back, and never between a commit and the answer to it.
    """
    if not isinstance(fault, DBAPIError):
        return is_refused(fault)
    return any(map(_undoes, _causes(fault.orig)))


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    while fault:
        yield fault
        fault = fault.__cause__


def _undoes(cause: BaseException) -> bool:
    return (
        isinstance(cause, AsyncAdapt_asyncpg_dbapi.InvalidCachedStatementError | AdminShutdownError)
        # It was told so before the statement, which was not sent any more.
        or (isinstance(cause, InternalClientError) and "cannot switch to state" in str(cause))
    )
