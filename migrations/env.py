"""Alembic's environment: online with one migrator at a time, offline as plain SQL."""

import asyncio

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.models import Base
from service.observability.logs import configure_logging
from service.settings import get_settings

LOCK_KEY = 7_103_981_164  # the advisory lock of all migrators of this schema
LOCK_POLL = 0.5  # seconds
settings = get_settings()
configure_logging(settings)


def run_offline() -> None:
    """Print the SQL."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=Base.metadata,
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    """Run the migrations, one migrator at a time."""
    engine = create_async_engine(settings.engine_url, poolclass=NullPool)
    async with engine.connect() as guard, engine.connect() as conn:
        # Polled outside a transaction: waiting in pg_advisory_lock() would hold a snapshot, and
        # CREATE INDEX CONCURRENTLY in another migrator would wait for that snapshot.
        await guard.execution_options(isolation_level="AUTOCOMMIT")
        try_lock = text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")
        # Another process holds the lock, so there is no event to wait for.
        while not await guard.scalar(try_lock):  # noqa: ASYNC110
            await asyncio.sleep(LOCK_POLL)
        await conn.run_sync(migrate)
        # A migration that is rolled back fails silently; another connection sees only commits.
        if await conn.run_sync(find_heads) != await guard.run_sync(find_heads):
            raise CommandError("The migrations were not committed")
    await engine.dispose()


def migrate(conn: Connection) -> None:
    """Run each migration on `conn` in a separate transaction."""
    context.configure(
        connection=conn,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
        # Trigram indexes are in the migrations only, as they require pg_trgm.
        include_name=lambda name, kind, parents: (
            not (kind == "index" and (name or "").endswith("_trgm"))
        ),
    )
    with context.begin_transaction():
        context.run_migrations()


def find_heads(conn: Connection) -> set[str]:
    """Return the revisions of the schema that `conn` sees."""
    return set(MigrationContext.configure(conn).get_current_heads())


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(run_online())
