"""Which revision of the schema the code wants, and whether the database has it."""

from dataclasses import dataclass
from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

ROOT = Path(__file__).parents[1]
ALEMBIC_INI = ROOT / "alembic.ini"


@dataclass(slots=True)
class Revisions:
    """The revisions that the code's migrations folder knows, and the newest of them."""

    head: str | None
    known: frozenset[str]


def load_revisions() -> Revisions:
    """Read the migrations folder."""
    scripts = ScriptDirectory.from_config(Config(ALEMBIC_INI))
    return Revisions(
        head=scripts.get_current_head(),
        known=frozenset(script.revision for script in scripts.walk_revisions()),
    )


async def is_behind(conn: AsyncConnection, revisions: Revisions) -> bool:
    """Whether the database's schema is older than the code.

    One that the code does not know is newer: so the replicas that still run the code of
    yesterday stay ready while a deployment migrates first.
    """
    try:
        current = await conn.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError:  # no such table: never migrated
        return True
    return current is None or (current != revisions.head and current in revisions.known)
