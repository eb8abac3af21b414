"""The database that the claims are measured on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.database import Database, database
from benchmarks.servers import ROOT, run_tool

ROWS = 1000
CONNECTIONS = 40  # those of one engine's pool, and a few


@contextmanager
def filled_database(server_url: str | None, folder: Path) -> Iterator[Database]:
    """A database on the given server, else on an embedded one in `folder`, migrated, with items
    of the ids 1 to ROWS."""
    with database(server_url, folder, CONNECTIONS) as db:
        alembic = str(ROOT / "alembic.ini")
        run_tool(db.url, folder, "alembic", "--config", alembic, "upgrade", "head")
        run_tool(db.url, folder, "items", "seed", "--rows", str(ROWS))
        yield db


@asynccontextmanager
async def disposed(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """The engine, and in the end none of its connections."""
    try:
        yield engine
    finally:
        await engine.dispose()
