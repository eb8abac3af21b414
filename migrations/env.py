"""Alembic's environment: online with one migrator at a time, offline as plain SQL."""

import asyncio

from alembic import context
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from service.database.engine import create_migrator_engine
from service.database.migrator import run_alone
from service.models import Base
from service.observability.logs import configure_logging
from service.settings import get_settings

TABLES = Base.metadata.tables
INDEXES = {index.name for table in TABLES.values() for index in table.indexes}
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
    engine = create_migrator_engine(settings)
    try:
        await run_alone(engine, migrate, find_heads, is_relative=is_relative())
    finally:
        await engine.dispose()


def migrate(conn: Connection) -> None:
    """Run each migration on `conn` in a separate transaction."""
    context.configure(
        connection=conn,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
        include_name=is_ours,
    )
    with context.begin_transaction():
        context.run_migrations()


def is_relative() -> bool:
    """Return whether the target of the command is relative, such as -1."""
    try:
        return str(context.get_revision_argument()).startswith(("+", "-"))
    except KeyError:  # a command without a target
        return False


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Return whether autogenerate compares an object of the database with the models.

    Other applications' tables, and indexes that only an administrator or a migration made, such as
    the trigram index, are left alone.
    """
    if kind == "table":
        return name in TABLES
    return kind != "index" or name in INDEXES


def find_heads(conn: Connection) -> set[str]:
    """Return the revisions of the schema that `conn` sees."""
    return set(MigrationContext.configure(conn).get_current_heads())


if context.is_offline_mode():
    run_offline()
else:
    asyncio.run(run_online())
