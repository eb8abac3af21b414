"""Which revision of the schema the code wants, and whether the database has it."""

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database import sqlstate

ROOT = Path(__file__).parents[1]
ALEMBIC_INI = ROOT / "alembic.ini"
VERSIONS = ROOT / "migrations" / "versions"
UNDEFINED_TABLE = "42P01"


@dataclass(slots=True)
class Revisions:
    """The revisions that the code's migrations folder knows, and the newest of them."""

    head: str
    known: frozenset[str]


def load_revisions() -> Revisions:
    """Read the migrations folder; without Alembic, which takes 12 MB of each worker's memory.

    Raises:
        ValueError: there is more than one newest revision, or none.
    """
    known: set[str] = set()
    superseded: set[str | None] = set()
    for file in VERSIONS.glob("*.py"):
        names = _names(file)
        known.add(names["revision"])
        parents = names["down_revision"]  # several, where branches are merged
        superseded.update(parents if isinstance(parents, tuple) else [parents])
    (head,) = known - superseded
    return Revisions(head, frozenset(known))


def _names(file: Path) -> dict[str, Any]:
    """What a migration says of itself."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id in ("revision", "down_revision")
    }


async def find_revisions(conn: AsyncConnection, calls: Sequence[None]) -> list[str | None]:
    """The revision of the database's schema, to each that asks; None if it was never migrated."""
    try:
        current = await conn.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError as exc:
        if sqlstate(exc) != UNDEFINED_TABLE:
            raise
        current = None
    return [current] * len(calls)


def is_behind(current: str | None, revisions: Revisions) -> bool:
    """Whether a schema of the revision `current` is older than the code.

    One that the code does not know is newer: so the replicas that still run the code of
    yesterday stay ready while a deployment migrates first.
    """
    return current is None or (current != revisions.head and current in revisions.known)
