"""Commands that change the schema."""

import asyncio

import click
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from service.cli.database import database
from service.database.engine import opened_engine
from service.database.revision import ALEMBIC_INI, Found, find_revisions, load_revisions
from service.settings import get_settings


@click.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it")
def migrate(sql: bool) -> None:
    """Migrate the database's schema to the newest revision; a newer schema stays."""
    if sql:
        command.upgrade(Config(ALEMBIC_INI), "head", sql=True)
        return
    with database():
        upgrade()


def upgrade() -> None:
    """Migrate the schema, unless it is newer than the code.

    Raises:
        ClickException: the database belongs to another application, or a migration failed.
    """
    # A rollback of the code may run on the newer schema.
    found = asyncio.run(_find_revision())
    if not found.is_ours:
        raise click.ClickException(
            f"The database has the unknown revision {found.revision}, and lacks tables or columns "
            "of the service. Does DATABASE_URL name the right database?"
        )
    if found.revision and found.revision not in load_revisions().known:
        click.echo(f"The schema is newer than this code: {found.revision}", err=True)
        return
    try:
        command.upgrade(Config(ALEMBIC_INI), "head")
    except CommandError as exc:
        raise click.ClickException(str(exc)) from exc


async def _find_revision() -> Found:
    async with opened_engine(get_settings()) as engine, engine.connect() as conn:
        (found,) = await find_revisions(conn, [None])
    return found


@click.command()
@click.argument("message")
def revision(message: str) -> None:
    """Write a migration for the differences between the models and the schema."""
    with database():
        upgrade()
        command.revision(Config(ALEMBIC_INI), message, autogenerate=True)
