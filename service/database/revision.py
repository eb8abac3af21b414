"""The schema's revision: what the code needs, and what the database has."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database.faults import sqlstate

ROOT = Path(__file__).parents[2]
ALEMBIC_INI = ROOT / "alembic.ini"
UNDEFINED_TABLE = "42P01"


@dataclass(slots=True, frozen=True)
class Revisions:
    """The revisions in the migrations folder, and the newest of them."""

    head: str
    known: frozenset[str]


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


async def find_revisions(conn: AsyncConnection, calls: Sequence[None]) -> list[str | None]:
    """Return the revision of the database's schema to each call; None if it has no schema."""
    try:
        current = await conn.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError as exc:
        if sqlstate(exc) != UNDEFINED_TABLE:
            raise
        current = None
    return [current] * len(calls)


def is_behind(current: str | None, revisions: Revisions) -> bool:
    """Return whether a schema of the revision `current` is older than the code.

    An unknown revision counts as newer: replicas of the previous version stay ready while a
    deployment migrates first.
    """
    return current is None or (current != revisions.head and current in revisions.known)
