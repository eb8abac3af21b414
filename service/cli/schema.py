"""Commands that change the schema."""

import click
from alembic import command
from alembic.config import Config

from service.cli.database import database
from service.revision import ALEMBIC_INI


@click.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it")
def migrate(sql: bool) -> None:
    """Bring the database's schema to the newest revision."""
    if sql:
        command.upgrade(Config(ALEMBIC_INI), "head", sql=True)
        return
    with database():
        command.upgrade(Config(ALEMBIC_INI), "head")


@click.command()
@click.argument("message")
def revision(message: str) -> None:
    """Write a migration of what the models and the schema differ in."""
    with database():
        command.upgrade(Config(ALEMBIC_INI), "head")
        command.revision(Config(ALEMBIC_INI), message, autogenerate=True)
