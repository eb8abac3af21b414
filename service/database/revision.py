"""The schema's revision: what the code needs, and what the database has."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database.faults import sqlstate
from service.errors import Unavailable
from service.models import Base

ROOT = Path(__file__).parents[2]
ALEMBIC_INI = ROOT / "alembic.ini"
UNDEFINED_TABLE = "42P01"


@dataclass(slots=True, frozen=True)
class Revisions:
    """The revisions in the migrations folder, and the newest of them."""

    head: str
    known: frozenset[str]


@dataclass(slots=True, frozen=True)
class Found:
    """What the database has.

    Attributes:
        revision: of its schema; None if it has no schema.
        is_ours: False if the revision is unknown and tables or columns of the service are missing.
        is_read_only: whether it refuses writes, as a standby does.
    """

    revision: str | None
    is_ours: bool = True
    is_read_only: bool = False


@cache
def load_revisions() -> Revisions:
    """Read the migrations folder, once per process.

    Gunicorn's master calls it before it forks, as Alembic takes 12 MB of memory.

    Raises:
        alembic.util.CommandError: there is more than one newest revision.
    """
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(Config(ALEMBIC_INI))
    head = scripts.get_current_head()
    assert head is not None, "there are no migrations"
    return Revisions(head, frozenset(script.revision for script in scripts.walk_revisions()))


# The revisions, or one row with NULL; and whether the server accepts writes.
REVISIONS = text(
    """
    SELECT version_num, current_setting('transaction_read_only')::bool
    FROM (VALUES (1)) AS always LEFT JOIN alembic_version ON true
    """
)
MISSING_COLUMNS = text(
    """
    SELECT count(*)
    FROM unnest(CAST(:tables AS text[]), CAST(:columns AS text[])) AS ours ("table", "column")
    WHERE NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(ours."table")) AND attname = ours."column"
    )
    """
)


async def find_revisions(conn: AsyncConnection, calls: Sequence[None]) -> list[Found]:
    """Return what the database has to each call."""
    try:
        rows = (await conn.execute(REVISIONS)).all()
    except ProgrammingError as exc:
        if sqlstate(exc) != UNDEFINED_TABLE:
            raise
        return [Found(None)] * len(calls)
    unknown = [row for row in rows if row[0] and row[0] not in load_revisions().known]
    revision, is_read_only = (unknown or rows)[0]
    is_ours = not unknown or await has_tables(conn)
    return [Found(revision, is_ours, is_read_only)] * len(calls)


async def has_tables(conn: AsyncConnection) -> bool:
    """Return whether the database has all tables and columns of the service."""
    columns = [column for table in Base.metadata.tables.values() for column in table.columns]
    ours = {
        "tables": [column.table.name for column in columns],
        "columns": [column.name for column in columns],
    }
    return not await conn.scalar(MISSING_COLUMNS, ours)


def is_behind(found: Found, revisions: Revisions) -> bool:
    """Return whether the database is not one that the code can serve from.

    That is a schema older than the code, another application's, or a server that refuses writes.
    An unknown revision counts as newer if the service's tables and columns are there: replicas of
    the previous version stay ready while a deployment migrates first.
    """
    try:
        check_ready(found, revisions)
    except Unavailable:
        return True
    return False


def check_ready(found: Found, revisions: Revisions) -> None:
    """Check that the code can serve from the database.

    Raises:
        Unavailable: it cannot; the detail says why.
    """
    if not found.is_ours:
        raise Unavailable(
            f"The database has the unknown revision {found.revision}, and lacks tables or columns "
            "of the service"
        )
    if found.is_read_only:
        raise Unavailable("The database is read-only; the service requires one that accepts writes")
    current = found.revision
    if current is None or (current != revisions.head and current in revisions.known):
        raise Unavailable("The database's schema is older than the service; run `items migrate`")
