"""How Alembic reaches the database: online with one migrator at a time, offline as plain SQL."""

import asyncio

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from service.observability.logs import configure_logging
from service.models import Base
from service.settings import get_settings

LOCK_KEY = 7_103_981_164  # any number, the same for all migrators of this schema
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
    """Migrate, while no other migrator does."""
    engine = create_async_engine(settings.engine_url, poolclass=NullPool)
    async with engine.connect() as guard, engine.connect() as conn:
        # Polled on a connection without a transaction: one that waits inside pg_advisory_lock()
        # holds a snapshot, and CREATE INDEX CONCURRENTLY in another migrator waits for that.
        await guard.execution_options(isolation_level="AUTOCOMMIT")
        try_lock = text(f"SELECT pg_try_advisory_lock({LOCK_KEY})")
        # No event can tell: it is another process that has the lock.
        while not await guard.scalar(try_lock):  # noqa: ASYNC110
            await asyncio.sleep(LOCK_POLL)
        await conn.run_sync(migrate)
        # What another connection sees is committed: a migration that is rolled back fails silently.
        if await conn.run_sync(find_heads) != await guard.run_sync(find_heads):
            raise CommandError("The migrations were not committed")
    await engine.dispose()


def migrate(conn: Connection) -> None:
    """Run the migrations on `conn`, each in a transaction of its own."""
    context.configure(
        connection=conn,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
        # Trigram indexes stand in migrations alone: they exist only where pg_trgm is available.
        include_name=lambda name, kind, parents: (
            not (kind == "index" and (name or "").endswith("_trgm"))
        ),
    )
    with context.begin_transaction():
        context.run_migrations()


def find_heads(conn: Connection) -> set[str]:
    """The revisions that the schema has, as `conn` sees it."""
    return set(MigrationContext.configure(conn).get_current_heads())


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(run_online())
