"""Run migrations one migrator at a time, and try again what other transactions keep from its locks.

A migration waits for a lock for a second only, because every request waits behind it. Meanwhile the
log says who holds the lock.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

import structlog
from alembic.util.exc import CommandError
from asyncpg.exceptions import PostgresError
from sqlalchemy import Connection, Row, TextClause, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database.faults import Unreachable, message, sqlstate

logger = structlog.get_logger(__name__)

LOCK_KEY = 7_103_981_164  # the advisory lock of all migrators of this schema
POLL = 0.5  # seconds between two looks at a lock
MAX_WAIT = 900.0  # seconds that a migrator waits for another one
ATTEMPTS = 30  # of the migrations
PAUSE = 2.0  # seconds between two attempts, for the requests that waited behind the last one
# deadlock_detected, as with the index that a killed migrator's backend still builds;
# lock_not_available.
REPEATED = ("40P01", "55P03")

ACTIVITY = """
    SELECT activity.pid, usename, application_name, state,
        round(extract(epoch FROM now() - xact_start))::int AS seconds
    FROM pg_stat_activity AS activity
"""
HOLDERS = text(
    f"""
    {ACTIVITY} JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND granted AND datname = current_database() AND objsubid = 1
        AND (classid::bigint << 32 | objid::bigint) = CAST(:key AS bigint)
    """
)
BLOCKERS = text(f"{ACTIVITY} WHERE pid = ANY (pg_blocking_pids(:pid))")


async def run_alone(
    engine: AsyncEngine,
    migrate: Callable[[Connection], None],
    find_heads: Callable[[Connection], set[str]],
    *,
    is_relative: bool = False,
) -> None:
    """Call `migrate` with a connection while no other migrator does.

    Args:
        find_heads: returns the revisions that a connection sees.
        is_relative: whether the target depends on the present revision, such as -2. `migrate` is
            then not repeated once a part of it is committed.

    Raises:
        CommandError: the database is unavailable, the lock is, or nothing was committed.
    """
    async with _connected(engine) as guard:
        await guard.execution_options(isolation_level="AUTOCOMMIT")
        await _take_turn(guard)
        before = await guard.run_sync(find_heads)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with _connected(engine) as conn, _logging_blockers(guard, conn):
                    await conn.run_sync(migrate)
                    heads = await conn.run_sync(find_heads)
                break
            except DBAPIError as exc:
                if (state := sqlstate(exc)) not in REPEATED:
                    raise
                logger.warning("migration_repeated", attempt=attempt, sqlstate=state)
                if attempt == ATTEMPTS:
                    reason = "other transactions hold the locks; the log names them"
                    raise CommandError(f"Gave up after {ATTEMPTS} attempts: {reason}") from exc
                if is_relative and await guard.run_sync(find_heads) != before:
                    raise CommandError("Gave up: a part of the migrations is done") from exc
            await asyncio.sleep(PAUSE)
        # A migration that is rolled back fails silently; another connection sees only commits.
        if heads != await guard.run_sync(find_heads):
            raise CommandError("The migrations were not committed")


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection, whose warnings are logged."""
    try:
        conn = await engine.connect()
    except (Unreachable, DBAPIError, PostgresError) as exc:
        raise CommandError(f"The database: {message(exc)}") from exc
    try:
        (await _driver(conn)).add_log_listener(_log_warning)
        yield conn
    finally:
        await conn.close()


async def _driver(conn: AsyncConnection) -> Any:
    return (await conn.get_raw_connection()).driver_connection


def _log_warning(driver: Any, warning: Any) -> None:
    if warning.severity_en == "WARNING":
        logger.warning("database_warning", detail=warning.message)


async def _take_turn(guard: AsyncConnection) -> None:
    """Take the lock of all migrators; its connection holds it."""
    # Polled outside a transaction: waiting in pg_advisory_lock() would hold a snapshot, and
    # CREATE INDEX CONCURRENTLY in another migrator would wait for that snapshot.
    deadline = monotonic() + MAX_WAIT
    logged: list[int] = []
    while not await guard.scalar(text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")):
        logged = await _log_new("another_migrator_runs", guard, HOLDERS, {"key": LOCK_KEY}, logged)
        if monotonic() > deadline:
            raise CommandError(f"Another migrator still runs after {MAX_WAIT:.0f} s")
        await asyncio.sleep(POLL)


@asynccontextmanager
async def _logging_blockers(guard: AsyncConnection, conn: AsyncConnection) -> AsyncIterator[None]:
    """Log which processes `conn` waits for, as `guard` sees them."""
    pid = (await _driver(conn)).get_server_pid()
    is_over = asyncio.Event()

    async def watch() -> None:
        logged: list[int] = []
        while not is_over.is_set():
            logged = await _log_new("migration_waits", guard, BLOCKERS, {"pid": pid}, logged)
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), POLL)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        is_over.set()  # not cancelled: that would end the connection, too
        await watcher


async def _log_new(
    event: str,
    guard: AsyncConnection,
    query: TextClause,
    parameters: dict[str, Any],
    logged: list[int],
) -> list[int]:
    """Log the processes that `query` returns, if they are not those `logged` last."""
    holders: Sequence[Row[Any]] = (await guard.execute(query, parameters)).all()
    pids = sorted(holder.pid for holder in holders)
    if pids != logged:
        for holder in holders:
            logger.info(event, **holder._mapping)
    return pids
