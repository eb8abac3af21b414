"""The engine, the sessions, and what each connection is told when it opens."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from sqlalchemy import event
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)

from service.coalesce import Coalescer
from service.settings import Settings

Call = TypeVar("Call")
Answer = TypeVar("Answer")

CONNECT_TIMEOUT = 5.0  # seconds
LOCK_TIMEOUT_MS = 3000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 30_000


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
            "timeout": CONNECT_TIMEOUT,
            "server_settings": {
                "application_name": "items-service",
                "timezone": "UTC",
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
    """Make the pool replace a connection whose loss the driver has noticed.

    `pool_pre_ping` finds the same by three round trips on each checkout; this costs none.
    """
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def transactional(engine: AsyncEngine) -> AsyncEngine:
    """`engine`, on the same pool, with transactions."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def create_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Makes sessions in transactions; what they loaded stays readable after the commit."""
    return async_sessionmaker(transactional(engine), expire_on_commit=False)


async def get_db(request: Request) -> AsyncIterator[AsyncSession]:
    """A session in a transaction, for one request.

    Depend on it with `scope="function"`: it then commits before the answer is sent, so that a
    commit that fails is an error and not a success.
    """
    async with request.app.state.sessions.begin() as session:
        yield session


def coalesce(
    engine: AsyncEngine,
    function: Callable[[AsyncConnection, Sequence[Call]], Awaitable[Sequence[Answer]]],
    **options: Any,
) -> Coalescer[Call, Answer]:
    """A function of crud, which takes sets, as one that takes single calls and joins them."""

    async def run(calls: Sequence[Call]) -> Sequence[Answer]:
        async with engine.connect() as conn:
            return await function(conn, calls)

    return Coalescer(run, is_data_fault=is_data_fault, is_lost=is_lost, **options)


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
    return (sqlstate(fault) or "").startswith(("08", "57P"))
