"""Commands that change the schema."""

import asyncio

import click
from alembic import command
from alembic.config import Config

from service.cli.database import database
from service.database.engine import create_engine
from service.database.revision import ALEMBIC_INI, find_revisions, load_revisions
from service.settings import get_settings


@click.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it")
def migrate(sql: bool) -> None:
    """Migrate the database's schema to the newest revision; a newer schema stays."""
    if sql:
        command.upgrade(Config(ALEMBIC_INI), "head", sql=True)
        return
    with database():
        # A rollback of the code may run on the newer schema.
        if (current := asyncio.run(_find_revision())) and current not in load_revisions().known:
            click.echo(f"The schema is newer than this code: {current}", err=True)
            return
        command.upgrade(Config(ALEMBIC_INI), "head")


async def _find_revision() -> str | None:
    engine = create_engine(get_settings())
    try:
        async with engine.connect() as conn:
            (current,) = await find_revisions(conn, [None])
    finally:
        await engine.dispose()
    return current


@click.command()
@click.argument("message")
def revision(message: str) -> None:
    """Write a migration for the differences between the models and the schema."""
    with database():
        command.upgrade(Config(ALEMBIC_INI), "head")
        command.revision(Config(ALEMBIC_INI), message, autogenerate=True)
