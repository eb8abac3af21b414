"""The `items` command."""

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import uvicorn
from alembic import command
from alembic.config import Config
from asyncpg.exceptions import PostgresError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.crud import item as crud
from service.database import create_engine, transactional
from service.embedded import embedded_postgres
from service.revision import ALEMBIC_INI
from service.settings import get_settings

ROOT = Path(__file__).parents[1]
SEED_BATCH = 10_000
ADJECTIVES = ("Amber", "Bright", "Compact", "Folding", "Heavy", "Quiet", "Round", "Solid", "Tall")
NOUNS = ("Bench", "Chair", "Clock", "Desk", "Kettle", "Lamp", "Mirror", "Rug", "Shelf", "Stool")


@click.group()
def main() -> None:
    """Run and administer the items service."""


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port to serve on [PORT, or 8000]")
def dev(port: int | None) -> None:
    """Serve for development: migrate, and reload when the code changes.

    Without DATABASE_URL it runs a PostgreSQL of its own, with its data in .postgres.
    """
    os.environ.setdefault("LOG_FORMAT", "console")
    host, port = get_settings().host, port or get_settings().port
    _refuse_taken_port(host, port)
    with _database():
        command.upgrade(Config(ALEMBIC_INI), "head")
        click.echo(f"Serving on http://{host}:{port}, documented on http://{host}:{port}/docs")
        uvicorn.run(
            "service.main:create_app",
            factory=True,
            host=host,
            port=port,
            reload=True,
            reload_dirs=[str(ROOT / "service")],
            log_config=None,
            access_log=False,
        )


@main.command()
def serve() -> None:
    """Serve for production, with Gunicorn."""
    if get_settings().database_url is None:
        raise click.ClickException("DATABASE_URL is not set")
    config = str(ROOT / "docker" / "gunicorn.conf.py")
    # In place of this process, so that signals reach Gunicorn.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", config])  # nosec B606


@main.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it")
def migrate(sql: bool) -> None:
    """Bring the database's schema to the newest revision."""
    if sql:
        command.upgrade(Config(ALEMBIC_INI), "head", sql=True)
        return
    with _database():
        command.upgrade(Config(ALEMBIC_INI), "head")


@main.command()
@click.argument("message")
def revision(message: str) -> None:
    """Write a migration of what the models and the schema differ in."""
    with _database():
        command.upgrade(Config(ALEMBIC_INI), "head")
        command.revision(Config(ALEMBIC_INI), message, autogenerate=True)


@main.command()
@click.option("--rows", type=click.IntRange(min=1), default=10_000, show_default=True)
def seed(rows: int) -> None:
    """Add demo items."""
    with _database():
        asyncio.run(_seed(rows))


@contextmanager
def _database() -> Iterator[None]:
    """See that there is a database: the one of DATABASE_URL, or the embedded one."""
    with ExitStack() as stack:
        if get_settings().database_url is None:
            os.environ["DATABASE_URL"] = stack.enter_context(embedded_postgres())
            get_settings.cache_clear()
        try:
            yield
        except (OSError, DBAPIError, PostgresError) as exc:
            reason = str(exc).partition("\n")[0]
            raise click.ClickException(f"The database: {reason}") from exc


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise click.ClickException(f"{host}:{port} is not to be had: {exc.strerror}") from None


async def _seed(rows: int) -> None:
    """Copy `rows` demo items into the database, all in one transaction."""
    engine = create_engine(get_settings())
    with click.progressbar(length=rows, label="Seeding", file=sys.stderr) as bar:
        async with transactional(engine).begin() as conn:
            for start in range(0, rows, SEED_BATCH):
                size = min(SEED_BATCH, rows - start)
                await crud.copy_many(conn, (_demo_item(start + n) for n in range(size)))
                bar.update(size)
    async with engine.connect() as conn:
        await conn.execute(text("VACUUM ANALYZE items"))
    await engine.dispose()


def _demo_item(number: int) -> dict[str, Any]:
    """The same item for the same number; numbers far apart look unlike."""
    mixed = number * 2_654_435_761 % 2**32  # Knuth's multiplicative hash
    adjective = ADJECTIVES[mixed % len(ADJECTIVES)]
    noun = NOUNS[mixed // 7 % len(NOUNS)]
    return {
        "name": f"{adjective} {noun} {number}",
        "description": f"A {adjective.lower()} {noun.lower()}" if mixed % 4 else None,
        "price": Decimal(mixed % 100_000) / 100 if mixed % 10 else None,
        "is_active": mixed % 20 != 0,
    }
